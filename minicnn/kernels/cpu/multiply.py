"""The product of two values, forward and backward: of one shape, or the second with one number a
channel, a gate.

    y[n,p,q,c] = x[n,p,q,c] · g          dx = dy · g,  dg = dy · x, summed over p and q for a gate

with g = x2[n,p,q,c] or x2[n,c]. Source: Hu, Shen, Sun: Squeeze-and-excitation networks, 2018.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def _pixels(op):
    """Pixels of a sample of x that one row of x2 is for, and the numbers of that row."""
    pixels = op.input_size // op.second_size
    return pixels, op.second_size


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = x · x2 for the first ``n`` samples of the chunk."""
    op = plan[0]
    pixels, size = _pixels(op)
    for i in range(n):
        gate = work[op.x2 + i * size : op.x2 + (i + 1) * size]
        for m in range(i * pixels, (i + 1) * pixels):
            x, y = (
                work[op.x + m * size : op.x + (m + 1) * size],
                work[op.y + m * size : op.y + (m + 1) * size],
            )
            for c in range(size):
                y[c] = x[c] * gate[c]


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx and dx2 from dy."""
    op = plan[0]
    pixels, size = _pixels(op)
    zero = work.dtype.type(0)
    for i in range(n):
        gate = work[op.x2 + i * size : op.x2 + (i + 1) * size]
        if op.dx >= 0:  # first, for x2 may be x, and its gradient is then added to this
            for m in range(i * pixels, (i + 1) * pixels):
                dx, dy = (
                    work[op.dx + m * size : op.dx + (m + 1) * size],
                    work[op.dy + m * size : op.dy + (m + 1) * size],
                )
                for c in range(size):
                    dx[c] = dy[c] * gate[c] + (dx[c] if op.accumulate != 0 else zero)
        if op.dx2 >= 0:
            d_gate = work[op.dx2 + i * size : op.dx2 + (i + 1) * size]
            for c in range(size):
                d_gate[c] = d_gate[c] if op.accumulate2 != 0 else zero
            for m in range(i * pixels, (i + 1) * pixels):
                x, dy = (
                    work[op.x + m * size : op.x + (m + 1) * size],
                    work[op.dy + m * size : op.dy + (m + 1) * size],
                )
                for c in range(size):
                    d_gate[c] += dy[c] * x[c]
