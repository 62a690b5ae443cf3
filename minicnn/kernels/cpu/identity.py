"""The same numbers under another shape, forward and backward: y = x and dx = dy.

The planner lets y lie where x lies, so there is nothing to do forward; and backward only where x has another reader too.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y is x: they lie in one place."""


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx = dy, or dx += dy, for the first ``n`` samples of the chunk."""
    op = plan[0]
    if op.dx < 0 or op.dx == op.dy:
        return
    count = n * op.output_size
    dx, dy = work[op.dx : op.dx + count], work[op.dy : op.dy + count]
    for i in range(count):
        dx[i] = dx[i] + dy[i] if op.accumulate != 0 else dy[i]
