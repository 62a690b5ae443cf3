"""Two images of one height and width, channel after channel, forward and backward.

y[n,p,q,:] = x[n,p,q,:], x2[n,p,q,:]          dx and dx2 are the parts of dy
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import add, lanes_of, load, store


@njit(**JIT)
def _copy_columns(work, source, source_row, target, target_row, columns, rows, accumulate):
    """target[m, :columns] = source[m, :columns], or += it; the rows are ``source_row`` and
    ``target_row`` apart."""
    for m in range(rows):
        read, write = source + m * source_row, target + m * target_row
        for c in range(0, columns, lanes_of(work)):
            numbers = load(work, read + c, columns - c)
            store(
                work,
                write + c,
                add(numbers, load(work, write + c, columns - c)) if accumulate else numbers,
                columns - c,
            )


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y from x and x2 for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, K, rows = op.input_channels, op.output_channels, n * op.output_height * op.output_width
    _copy_columns(work, op.x, C, op.y, K, C, rows, False)
    _copy_columns(work, op.x2, K - C, op.y + C, K, K - C, rows, False)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx and dx2 from dy."""
    op = plan[0]
    C, K, rows = op.input_channels, op.output_channels, n * op.output_height * op.output_width
    if op.dx >= 0:
        _copy_columns(work, op.dy, K, op.dx, C, C, rows, op.accumulate != 0)
    if op.dx2 >= 0:
        _copy_columns(work, op.dy + C, K, op.dx2, K - C, K - C, rows, op.accumulate2 != 0)
