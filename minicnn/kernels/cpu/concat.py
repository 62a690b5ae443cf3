"""Two images of one height and width, channel after channel, forward and backward.

y[n,p,q,:] = x[n,p,q,:], x2[n,p,q,:]          dx and dx2 are the parts of dy
"""

from numba import njit

from minicnn.kernels.cpu.add import hand_on
from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y from x and x2 for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, K = op.input_channels, op.output_channels
    for m in range(n * op.output_height * op.output_width):
        hand_on(work, op.x + m * C, op.y + m * K, False, C)
        hand_on(work, op.x2 + m * (K - C), op.y + m * K + C, False, K - C)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx and dx2 from dy."""
    op = plan[0]
    C, K, rows = op.input_channels, op.output_channels, n * op.output_height * op.output_width
    for m in range(rows if op.dx >= 0 else 0):
        hand_on(work, op.dy + m * K, op.dx + m * C, op.accumulate != 0, C)
    for m in range(rows if op.dx2 >= 0 else 0):
        hand_on(work, op.dy + m * K + C, op.dx2 + m * (K - C), op.accumulate2 != 0, K - C)
