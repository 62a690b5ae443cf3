"""Average pooling over windows of one channel, forward and backward.

    y[n,p,q,c] = Σ over the window of x[n,h,v,c] / D          each element of the window gets dy / D

with h = p·stride_h + r − pad_top, v = q·stride_w + s − pad_left, 0 ≤ r < R, 0 ≤ s < S. The divisor
D is R·S, padded zeros counted (``a0`` = 1), or the number of elements inside the image (``a0`` =
0). Where ``a1`` is 1 (`ceil_mode`), the last windows may reach beyond the padding, and what lies
there is never counted: PyTorch's conventions.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES
from minicnn.kernels.cpu.vector import add, load, scale, store
from minicnn.kernels.cpu.window import window


@njit(**JIT)
def _divisor(op, p, q):
    """How many elements of output (p, q)'s window count."""
    if op.a0 == 0:
        h_first, h_end, v_first, v_end = window(op, p, q)
        return (h_end - h_first) * (v_end - v_first)
    rows, columns = op.kernel_height, op.kernel_width
    if op.a1 != 0:  # the padding is the same on both sides
        rows = min(rows, op.input_height + 2 * op.padding_top - p * op.stride_height)
        columns = min(columns, op.input_width + 2 * op.padding_left - q * op.stride_width)
    return rows * columns


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """The mean of each window."""
    op = plan[0]
    W, C = op.input_width, op.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    y = op.y
    for i in range(n):
        x = op.x + i * op.input_size
        for p in range(op.output_height):
            for q in range(op.output_width):
                h_first, h_end, v_first, v_end = window(op, p, q)
                factor = work.dtype.type(1.0 / _divisor(op, p, q))
                for c in range(0, C, lanes):
                    total = load(work, y + c, 0)  # zeros
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            total = add(total, load(work, x + (h * W + v) * C + c, C - c))
                    store(work, y + c, scale(total, factor), C - c)
                y += C


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """Each element of the window gets the same part of dy."""
    op = plan[0]
    if op.dx < 0:
        return
    W, C = op.input_width, op.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    if op.accumulate == 0:
        work[op.dx : op.dx + n * op.input_size] = 0
    dy = op.dy
    for i in range(n):
        dx = op.dx + i * op.input_size
        for p in range(op.output_height):
            for q in range(op.output_width):
                h_first, h_end, v_first, v_end = window(op, p, q)
                factor = work.dtype.type(1.0 / _divisor(op, p, q))
                for c in range(0, C, lanes):
                    each = scale(load(work, dy + c, C - c), factor)
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            at = dx + (h * W + v) * C + c
                            store(work, at, add(load(work, at, C - c), each), C - c)
                dy += C
