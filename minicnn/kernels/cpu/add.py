"""The sum of two values of one shape, forward and backward.

    y = x + x2          dx = dy, dx2 = dy

Where x has no other reader, y lies where x lies and dx where dy lies, and nothing is copied for
them.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import add, lanes_of, load, store


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = x + x2 for the first ``n`` samples of the chunk."""
    op = plan[0]
    count = n * op.output_size
    for i in range(0, count, lanes_of(work)):
        store(
            work,
            op.y + i,
            add(load(work, op.x + i, count - i), load(work, op.x2 + i, count - i)),
            count - i,
        )


@njit(**JIT)
def hand_on(work, dy, dx, accumulate, count):
    """dx = dy, or dx += dy; nothing where there is no dx, or where it is dy."""
    if dx >= 0 and dx != dy:
        for i in range(0, count, lanes_of(work)):
            gradient = load(work, dy + i, count - i)
            store(
                work,
                dx + i,
                add(gradient, load(work, dx + i, count - i)) if accumulate else gradient,
                count - i,
            )


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """Both inputs get dy."""
    op = plan[0]
    hand_on(work, op.dy, op.dx, op.accumulate != 0, n * op.output_size)
    hand_on(work, op.dy, op.dx2, op.accumulate2 != 0, n * op.output_size)
