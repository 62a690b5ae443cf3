"""Batch normalization with the running statistics: in inference, and where the statistics are
frozen.

    y[n,h,w,c] = γ[c] · x̂ + β[c] = a[c] · x + b[c]     x̂ = (x − μ[c]) · ρ[c]     ρ = 1 / √(σ² + ε), a = γ·ρ, b = β − μ·a
    dx = a · dy     dγ[c] = Σ dy · x̂     dβ[c] = Σ dy          over n, h, w

In inference, with ``relu``, also y = max(0, y), a ReLU after it.
μ and σ² are the running mean and variance. Where a convolution or a dense layer stands before it, a
model's weights take a and b in, and this operation is not needed (`minicnn.program.fold`).
"""

import math

import numpy as np
from numba import njit

from minicnn.kernels.cpu.batch_norm import scale_and_shift
from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def _factors(op, params, work):
    """a and then b, in ``scratch``."""
    a, b = op.scratch, op.scratch + op.input_channels
    for c in range(op.input_channels):
        factor = params[op.weight + c] / math.sqrt(np.float64(params[op.running_var + c]) + op.f0)
        work[a + c] = factor
        work[b + c] = params[op.bias + c] - params[op.running_mean + c] * factor
    return a, b


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = a·x + b for the first ``n`` samples of the chunk."""
    op = plan[0]
    a, b = _factors(op, params, work)
    rows = n * op.input_height * op.input_width
    scale_and_shift(work, op.x, a, b, op.y, op.input_channels, rows, op.relu)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dγ, dβ and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, zero = op.input_channels, work.dtype.type(0)
    a, _ = _factors(op, params, work)
    for c in range(C):
        inverse = 1.0 / math.sqrt(np.float64(params[op.running_var + c]) + op.f0)
        for m in range(n * op.input_height * op.input_width):
            dy = work[op.dy + m * C + c]
            grads[op.bias + c] += dy
            grads[op.weight + c] += (
                dy * (work[op.x + m * C + c] - params[op.running_mean + c]) * inverse
            )
            if op.dx >= 0:
                dx = work[a + c] * dy + (work[op.dx + m * C + c] if op.accumulate != 0 else zero)
                work[op.dx + m * C + c] = dx
