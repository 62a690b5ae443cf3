"""Softmax over the outputs of a sample, as a last layer of networks made elsewhere; a loss has its
own.

    y[k] = exp(x[k] − max x) / Σ_j exp(x[j] − max x)          dx[k] = y[k] · (dy[k] − Σ_j dy[j] · y[j])

Source: Bridle: Probabilistic interpretation of feedforward classification network outputs, 1990.
"""

import math

from numba import njit

from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y for the first ``n`` samples of the chunk."""
    op = plan[0]
    size = op.output_size
    for i in range(n):
        x, y = (
            work[op.x + i * size : op.x + (i + 1) * size],
            work[op.y + i * size : op.y + (i + 1) * size],
        )
        largest, total = x[0], work.dtype.type(0)
        for k in range(1, size):
            largest = x[k] if x[k] > largest else largest
        for k in range(size):
            y[k] = math.exp(x[k] - largest)
        for k in range(size):  # apart: the order of a sum must not depend on where x and y are
            total += y[k]
        for k in range(size):
            y[k] /= total


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx for the first ``n`` samples of the chunk. As the last layer it is all that reads x."""
    op = plan[0]
    size = op.output_size
    for i in range(n):
        y, dy = (
            work[op.y + i * size : op.y + (i + 1) * size],
            work[op.dy + i * size : op.dy + (i + 1) * size],
        )
        dx = work[op.dx + i * size : op.dx + (i + 1) * size]
        total = work.dtype.type(0)
        for k in range(size):
            total += dy[k] * y[k]
        for k in range(size):
            dx[k] = y[k] * (dy[k] - total)
