"""y = max(x, 0), dx = dy where y > 0."""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch, gradients, outputs


def forward(plan, floats, params, work, op, n, key, first_sample):
    for i in range(cuda.grid(1), n * plan[op, at.OUTPUT_SIZE], cuda.gridsize(1)):
        x = work[np.uint64(plan[op, at.X] + i)]
        work[np.uint64(plan[op, at.Y] + i)] = np.float32(0) if x < np.float32(0) else x


def backward(plan, floats, params, work, op, n, key, first_sample):
    for i in range(cuda.grid(1), n * plan[op, at.OUTPUT_SIZE], cuda.gridsize(1)):
        dy = work[np.uint64(plan[op, at.DY] + i)]
        dx = dy if work[np.uint64(plan[op, at.Y] + i)] > np.float32(0) else np.float32(0)
        store(work, plan[op, at.DX] + i, dx, plan[op, at.ACCUMULATE])


LAUNCHES = {"forward": (Launch(forward, outputs),), "backward": (Launch(backward, gradients),)}
