"""Batch normalization with the running statistics, in inference.

    y[n,h,w,c] = γ[c] · (x − μ[c]) / √(σ²[c] + ε) + β[c] = a[c] · x + b[c]

μ and σ² are the running mean and variance. Where a convolution or a dense layer stands before it, a model's weights take
a and b in, and this operation is not needed (`minicnn.program.fold`).
"""

import math

import numpy as np
from numba import njit

from minicnn.kernels.cpu.batch_norm import scale_and_shift
from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = a·x + b for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, a, b = op.input_channels, op.scratch, op.scratch + op.input_channels
    for c in range(C):
        factor = params[op.weight + c] / math.sqrt(np.float64(params[op.running_var + c]) + op.f0)
        work[a + c] = factor
        work[b + c] = params[op.bias + c] - params[op.running_mean + c] * factor
    scale_and_shift(work, op.x, a, b, op.y, C, n * op.input_height * op.input_width)
