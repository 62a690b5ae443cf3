"""Softmax over the outputs of a sample, as a last layer of networks made elsewhere; a loss has its
own.

    y[k] = exp(x[k] − max x) / Σ_j exp(x[j] − max x)          dx[k] = y[k] · (dy[k] − Σ_j dy[j] · y[j])

A thread does one sample, which has few outputs. Source: Bridle: Probabilistic interpretation of
feedforward classification network outputs, 1990.
"""

import math

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch
from minicnn.kernels.cuda.tile import THREADS


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y from x."""
    size = plan[op, at.OUTPUT_SIZE]
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        x, y = plan[op, at.X] + i * size, plan[op, at.Y] + i * size
        largest, total = work[np.uint64(x)], np.float32(0)
        for k in range(1, size):
            one = work[np.uint64(x + k)]
            largest = one if one > largest else largest
        for k in range(size):
            power = math.exp(work[np.uint64(x + k)] - largest)
            work[np.uint64(y + k)] = power
            total += power
        for k in range(size):
            work[np.uint64(y + k)] /= total


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx from y and dy."""
    size = plan[op, at.OUTPUT_SIZE]
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        y, dy, total = plan[op, at.Y] + i * size, plan[op, at.DY] + i * size, np.float32(0)
        for k in range(size):
            total += work[np.uint64(dy + k)] * work[np.uint64(y + k)]
        for k in range(size):
            value = work[np.uint64(y + k)] * (work[np.uint64(dy + k)] - total)
            store(work, plan[op, at.DX] + i * size + k, value, plan[op, at.ACCUMULATE])


LAUNCHES = {
    "forward": (Launch(forward, lambda record, n: -(-n // THREADS)),),
    "backward": (Launch(backward, lambda record, n: -(-n // THREADS) if record["dx"] >= 0 else 0),),
}
