"""Batch normalization with the statistics of `minicnn.kernels.cuda.batch_statistics`, with which it
shares ``saved``.

    y = γ[c] · x̂ + β[c]     x̂ = (x − μ[c]) · ρ[c]          dγ[c] = Σ dy·x̂     dβ[c] = Σ dy          over n, h, w

The backward pass hands dy on; the operation before makes dx of it.
"""

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.add import HAND_ON
from minicnn.kernels.cuda.batch_statistics import FACTOR, INVERSE, MEAN, saved
from minicnn.kernels.cuda.column import channels, column_of, pixels, store_scale_sums, tasks
from minicnn.kernels.cuda.launches import Launch, each_output


def forward(op, params, work, i):
    """y = γρ · (x − μ) + β."""
    c = i % op.input_channels
    x = work[np.uint64(op.x + i)] - saved(op, work, MEAN, c)
    y = saved(op, work, FACTOR, c) * x + params[np.uint64(op.bias + c)]
    work[np.uint64(op.y + i)] = y


def backward(plan, params, work, index, n, key, first_sample):
    """dγ and dβ in parts."""
    op = plan[index]
    for task in range(cuda.blockIdx.x, tasks(op, op.input_channels), cuda.gridDim.x):
        column = column_of(op, task, op.input_channels, pixels(op, n))
        mean = inverse = float32(0)
        if column.split >= 0:
            mean = saved(op, work, MEAN, column.number)
            inverse = saved(op, work, INVERSE, column.number)
        store_scale_sums(op, work, column, mean, inverse, False)


LAUNCHES = {
    "forward": (each_output(forward),),
    "backward": (Launch(backward, channels), HAND_ON),
}
