"""The sum of two values of one shape, forward and backward.

    y = x + x2          dx = dy, dx2 = dy

With ``relu`` also y = max(0, y), a ReLU after it: where y is not above 0, dy counts as 0.

Where x has no other reader, y lies where x lies and dx where dy lies, and nothing is copied for
them.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    store,
    zero_unless_less,
    zero_where_less,
)


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = x + x2 for the first ``n`` samples of the chunk."""
    op = plan[0]
    count = n * op.output_size
    for i in range(0, count, lanes_of(work)):
        y = add(load(work, op.x + i, count - i), load(work, op.x2 + i, count - i))
        if op.relu != 0:
            y = zero_where_less(y, y, work.dtype.type(0))
        store(work, op.y + i, y, count - i)


@njit(**JIT)
def _hand_on(work, gradient, dx, accumulate, count):
    if accumulate != 0:
        gradient = add(gradient, load(work, dx, count))
    store(work, dx, gradient, count)


@njit(**JIT)
def hand_on(work, dy, dx, accumulate, count):
    """dx = dy, or dx += dy; nothing where it is dy."""
    if dx != dy:
        for i in range(0, count, lanes_of(work)):
            _hand_on(work, load(work, dy + i, count - i), dx + i, accumulate, count - i)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx = dy and dx2 = dy, one after the other for each vector, since they may be the same."""
    op = plan[0]
    count, zeros = n * op.output_size, load(work, op.dy, 0)
    for i in range(0, count, lanes_of(work)):
        dy, left = load(work, op.dy + i, count - i), count - i
        if op.relu != 0:
            dy = zero_unless_less(dy, zeros, load(work, op.y + i, left))
        if op.dx >= 0 and (op.dx != op.dy or op.relu != 0):
            _hand_on(work, dy, op.dx + i, op.accumulate, left)
        if op.dx2 >= 0:
            _hand_on(work, dy, op.dx2 + i, op.accumulate2, left)
