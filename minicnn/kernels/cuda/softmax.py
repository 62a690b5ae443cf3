"""Softmax over the outputs of a sample, as a last layer of networks made elsewhere; a loss has its
own.

    y[k] = exp(x[k] − max x) / Σ_j exp(x[j] − max x)          dx[k] = y[k] · (dy[k] − Σ_j dy[j] · y[j])

A thread does one sample, which has few outputs. Source: Bridle: Probabilistic interpretation of
feedforward classification network outputs, 1990.
"""

import math

import numpy as np
from numba import cuda

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch
from minicnn.kernels.cuda.tile import THREADS


def forward(plan, params, work, index, n, key, first_sample):
    """y from x."""
    op = plan[index]
    size = op.output_size
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        x, y, total = op.x + i * size, op.y + i * size, np.float32(0)
        largest = work[np.uint64(x)]
        for k in range(1, size):
            number = work[np.uint64(x + k)]
            largest = number if number > largest else largest
        for k in range(size):
            power = math.exp(work[np.uint64(x + k)] - largest)
            work[np.uint64(y + k)] = power
            total += power
        for k in range(size):
            work[np.uint64(y + k)] /= total


def backward(plan, params, work, index, n, key, first_sample):
    """dx from y and dy."""
    op = plan[index]
    size = op.output_size
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        y, dy, total = op.y + i * size, op.dy + i * size, np.float32(0)
        for k in range(size):
            total += work[np.uint64(dy + k)] * work[np.uint64(y + k)]
        for k in range(size):
            dx = work[np.uint64(y + k)] * (work[np.uint64(dy + k)] - total)
            store(work, op.dx + i * size + k, dx, op.accumulate)


def _samples(record, n):
    return -(-n // THREADS)


LAUNCHES = {
    "forward": (Launch(forward, _samples),),
    "backward": (Launch(backward, lambda record, n: _samples(record, n) * (record.dx >= 0)),),
}
