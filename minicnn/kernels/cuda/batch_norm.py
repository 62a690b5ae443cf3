"""Batch normalization with the statistics of `minicnn.kernels.cuda.batch_statistics`, with which it
shares ``saved``.

    y = γ[c] · x̂ + β[c]     x̂ = (x − μ[c]) · ρ[c]          dγ[c] = Σ dy·x̂     dβ[c] = Σ dy          over n, h, w

The backward pass hands dy on; the operation before makes dx of it.
"""

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda import add
from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.batch_statistics import FACTOR, INVERSE, MEAN, saved
from minicnn.kernels.cuda.column import ROWS, blocks, own, store_part, sum_rows, tasks
from minicnn.kernels.cuda.launches import Launch, outputs


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y = γρ · (x − μ) + β."""
    C = plan[op, at.INPUT_CHANNELS]
    for i in range(cuda.grid(1), n * plan[op, at.INPUT_SIZE], cuda.gridsize(1)):
        c = i % C
        x = work[np.uint64(plan[op, at.X] + i)] - saved(plan, op, work, MEAN, c)
        y = saved(plan, op, work, FACTOR, c) * x + params[np.uint64(plan[op, at.BIAS] + c)]
        work[np.uint64(plan[op, at.Y] + i)] = y


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dγ and dβ in parts."""
    C, rows = plan[op, at.INPUT_CHANNELS], n * plan[op, at.INPUT_HEIGHT] * plan[op, at.INPUT_WIDTH]
    for task in range(cuda.blockIdx.x, tasks(plan, op, C), cuda.gridDim.x):
        c, split, first, end = own(plan, op, task, C, rows)
        d_scale = d_shift = float32(0)
        if c < C:
            mean, inverse = saved(plan, op, work, MEAN, c), saved(plan, op, work, INVERSE, c)
            for m in range(first, end, ROWS):
                dy = work[np.uint64(plan[op, at.DY] + m * C + c)]
                d_shift += dy
                d_scale += dy * ((work[np.uint64(plan[op, at.X] + m * C + c)] - mean) * inverse)
        d_scale = sum_rows(d_scale)
        d_shift = sum_rows(d_shift)
        if c < C:
            store_part(plan, op, work, split, c, d_scale, False)
            store_part(plan, op, work, split, C + c, d_shift, False)


LAUNCHES = {
    "forward": (Launch(forward, outputs),),
    "backward": (
        Launch(
            backward, lambda record, n: blocks(int(record["input_channels"]), int(record["splits"]))
        ),
        Launch(add.backward, add.handed_on),
    ),
}
