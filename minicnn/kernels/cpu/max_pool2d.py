"""Maximum pooling over windows of one channel, forward and backward.

    y[n,p,q,c] = max over the window of x[n,h,v,c]          dy goes to the window's first largest element

with h = p·stride_h + r·dilation_h − pad_top, v = q·stride_w + s·dilation_w − pad_left, 0 ≤ r < R, 0
≤ s < S. Padding counts as −∞: PyTorch's convention. With ``relu`` also y = max(0, y): a ReLU before
the pooling may as well come after it.

Vectors run along the channels. Written as scalar loops, which LLVM does not vectorize for a few
channels, both passes of LeNet-5's first pooling layer took ten times as long.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu.arrays import inputs, outputs
from minicnn.kernels.cpu.axis import height, width, window
from minicnn.kernels.cpu.tile import ENTRY, JIT, VECTOR_BYTES
from minicnn.kernels.cpu.vector import add, load, maximum, store, zero_unless_less, zero_where_less


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """The formula as it stands; NaN counts as the largest."""
    op = plan[0]
    x, y = inputs(op, work, n), outputs(op, work, n)
    for i, p, q, c in np.ndindex(y.shape):
        largest = -np.inf
        for r, s in np.ndindex((op.kernel_height, op.kernel_width)):
            h = p * op.stride_height + r * op.dilation_height - op.padding_top
            v = q * op.stride_width + s * op.dilation_width - op.padding_left
            if 0 <= h < op.input_height and 0 <= v < op.input_width:
                largest = np.maximum(largest, x[i, h, v, c])
        y[i, p, q, c] = np.maximum(largest, 0.0) if op.relu else largest


@njit(**JIT)
def _covers(op):
    """Whether the windows cover the image and neither overlap nor reach beyond it: each element
    belongs to one window."""
    return (
        op.padding_top == 0
        and op.padding_left == 0
        and op.dilation_height == 1
        and op.dilation_width == 1
        and op.stride_height == op.kernel_height
        and op.stride_width == op.kernel_width
        and op.output_height * op.stride_height == op.input_height
        and op.output_width * op.stride_width == op.input_width
    )


@njit(**JIT)
def _halves(op):
    """Whether the windows are 2×2 and cover the image: the usual case, which needs no loops and
    edges and is then twice as fast."""
    return _covers(op) and op.kernel_height == 2 and op.kernel_width == 2


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """The largest number of each window; NaN wins, so that a diverged run shows."""
    op = plan[0]
    rows, columns = height(op), width(op)
    W, C, lanes = op.input_width, op.input_channels, VECTOR_BYTES // work.itemsize
    y, halves = op.y, _halves(op)
    for i in range(n):
        x = op.x + i * op.input_size
        for p in range(op.output_height):
            for q in range(op.output_width):
                if halves:
                    top = x + 2 * (p * W + q) * C
                    for c in range(0, C, lanes):
                        at, below, count = top + c, top + W * C + c, C - c
                        upper = maximum(load(work, at + C, count), load(work, at, count))
                        lower = maximum(load(work, below + C, count), load(work, below, count))
                        _store_largest(op, work, y + c, maximum(lower, upper), count)
                else:
                    (h_first, h_end), (v_first, v_end) = window(rows, p), window(columns, q)
                    for c in range(0, C, lanes):
                        largest = load(work, x + (h_first * W + v_first) * C + c, C - c)
                        for h in range(h_first, h_end, rows.dilation):
                            for v in range(v_first, v_end, columns.dilation):
                                number = load(work, x + (h * W + v) * C + c, C - c)
                                largest = maximum(number, largest)
                        _store_largest(op, work, y + c, largest, C - c)
                y += C


@njit(**JIT)
def _store_largest(op, work, at, largest, count):
    """Write the maximum of a window, or 0 if that is larger and there is a ReLU."""
    store(work, at, maximum(largest, load(work, at, 0)) if op.relu else largest, count)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dy goes to the first element of the window, in reading order, that is not smaller than the
    maximum."""
    op = plan[0]
    rows, columns = height(op), width(op)
    W, C, lanes = op.input_width, op.input_channels, VECTOR_BYTES // work.itemsize
    # Then every element of dx is written once, and need not be added to.
    once, halves = _covers(op) and op.accumulate == 0, _halves(op)
    if not once and op.accumulate == 0:
        work[op.dx : op.dx + n * op.input_size] = 0
    y, dy = op.y, op.dy
    for i in range(n):
        x, dx = op.x + i * op.input_size, op.dx + i * op.input_size
        for p in range(op.output_height):
            h_first, h_end = (0, 0) if halves else window(rows, p)
            for q in range(op.output_width):
                v_first, v_end = (0, 0) if halves else window(columns, q)
                for c in range(0, C, lanes):
                    count, largest = C - c, load(work, y + c, C - c)
                    left = _gradient(op, work, y + c, dy + c, count)
                    if halves:
                        top = 2 * (p * W + q) * C + c
                        for at in (top, top + C, top + W * C, top + W * C + C):
                            left = _take(work, x + at, dx + at, left, largest, count, once)
                        continue
                    for h in range(h_first, h_end, rows.dilation):
                        for v in range(v_first, v_end, columns.dilation):
                            at = (h * W + v) * C + c
                            left = _take(work, x + at, dx + at, left, largest, count, once)
                y += C
                dy += C


@njit(**JIT)
def _gradient(op, work, y, dy, count):
    """dy, or 0 where a ReLU made y 0: it goes to one element of the window."""
    left = load(work, dy, count)
    return zero_unless_less(left, load(work, y, 0), load(work, y, count)) if op.relu else left


@njit(**JIT)
def _take(work, x, dx, left, largest, count, once):
    """Give dx what is left of dy where x is not smaller than the maximum; return what is left after
    that."""
    candidate = load(work, x, count)
    taken = zero_where_less(left, candidate, largest)
    store(work, dx, taken if once else add(load(work, dx, count), taken), count)
    return zero_unless_less(left, candidate, largest)
