"""Average pooling over windows of one channel, forward and backward.

    y[n,p,q,c] = Σ over the window of x[n,h,v,c] / D          each element of the window gets dy / D

with h = p·stride_h + r − pad_top, v = q·stride_w + s − pad_left, 0 ≤ r < R, 0 ≤ s < S. The divisor
D is R·S, padded zeros counted (``a0`` = 1), or the number of elements inside the image (``a0`` =
0). Where ``a1`` is 1 (`ceil_mode`), the last windows may reach beyond the padding, and what lies
there is never counted: PyTorch's conventions.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu.arrays import inputs, outputs
from minicnn.kernels.cpu.axis import height, input_of, width, window
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.kernels.cpu.vector import add, lanes_of, load, scale, store


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """The formula as it stands."""
    op = plan[0]
    x, y, rows, columns = inputs(op, work, n), outputs(op, work, n), height(op), width(op)
    for i, p, q, c in np.ndindex(y.shape):
        total = work.dtype.type(0)
        for r, s in np.ndindex((op.kernel_height, op.kernel_width)):
            h, v = (
                p * op.stride_height + r - op.padding_top,
                q * op.stride_width + s - op.padding_left,
            )
            if 0 <= h < op.input_height and 0 <= v < op.input_width:
                total += x[i, h, v, c]
        y[i, p, q, c] = total / (_counted(op, rows, p) * _counted(op, columns, q))


@njit(**JIT)
def _counted(op, axis, output):
    """How many rows, or columns, of an output's window count."""
    if op.a0 == 0:
        first, end = window(axis, output)
        return end - first
    if op.a1 != 0:  # the padding is the same on both sides
        return min(axis.taps, axis.size + axis.padding - input_of(axis, output, np.int64(0)))
    return axis.taps


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """The mean of each window."""
    op = plan[0]
    rows, columns = height(op), width(op)
    W, C, y = op.input_width, op.input_channels, op.y
    for i in range(n):
        x = op.x + i * op.input_size
        for p in range(op.output_height):
            h_first, h_end = window(rows, p)
            for q in range(op.output_width):
                v_first, v_end = window(columns, q)
                area = _counted(op, rows, p) * _counted(op, columns, q)
                inverse_area = work.dtype.type(1.0 / area)
                for c in range(0, C, lanes_of(work)):
                    total = load(work, y + c, 0)  # zeros
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            total = add(total, load(work, x + (h * W + v) * C + c, C - c))
                    store(work, y + c, scale(total, inverse_area), C - c)
                y += C


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """Each element of the window gets the same part of dy."""
    op = plan[0]
    rows, columns = height(op), width(op)
    W, C, dy = op.input_width, op.input_channels, op.dy
    if op.accumulate == 0:
        work[op.dx : op.dx + n * op.input_size] = 0
    for i in range(n):
        dx = op.dx + i * op.input_size
        for p in range(op.output_height):
            h_first, h_end = window(rows, p)
            for q in range(op.output_width):
                v_first, v_end = window(columns, q)
                area = _counted(op, rows, p) * _counted(op, columns, q)
                inverse_area = work.dtype.type(1.0 / area)
                for c in range(0, C, lanes_of(work)):
                    gradient = scale(load(work, dy + c, C - c), inverse_area)
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            at = dx + (h * W + v) * C + c
                            store(work, at, add(load(work, at, C - c), gradient), C - c)
                dy += C
