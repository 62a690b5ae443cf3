"""Mean and variance of each channel over the whole batch; the formulas are in
`minicnn.kernels.cpu.batch_statistics`.

Sums are taken in parts (`minicnn.kernels.cuda.column`) where later those of the gradient are: Σ x,
then Σ (x − μ)², and in the backward pass, by `minicnn.kernels.cuda.batch_norm`, Σ dy·x̂ and Σ dy.
``saved`` are, for each channel, μ, ρ, the unbiased variance, γ·ρ, and the two factors of dx = γρ ·
(dy − s) − t · (x − μ): s = 1/M Σ dy, t = γρ² · 1/M Σ dy·x̂.
"""

import math

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import (
    ROWS,
    channels,
    column_of,
    pixels,
    store_sum,
    sum_parts,
    tasks,
)
from minicnn.kernels.cuda.launches import Launch, each_gradient
from minicnn.kernels.cuda.step import STOPPED
from minicnn.kernels.cuda.tile import THREADS, device

# Of ``saved``, each as many numbers as there are channels.
MEAN, INVERSE, VARIANCE, FACTOR, MEAN_DY, X_FACTOR = range(6)


@device
def saved(op, work, which, c):
    """Number ``which`` of the channel c."""
    return work[np.uint64(op.saved + which * op.input_channels + c)]


@device
def _save(op, work, which, c, number):
    work[np.uint64(op.saved + which * op.input_channels + c)] = number


def forward(plan, params, work, index, n, key, first_sample):
    """Σ x in parts; y is x."""
    op = plan[index]
    C = op.input_channels
    for task in range(cuda.blockIdx.x, tasks(op, C), cuda.gridDim.x):
        c, split, first, end = column_of(op, task, C, pixels(op, n))
        total = float32(0)
        for m in range(first, end, ROWS):
            total += work[np.uint64(op.x + m * C + c)]
        store_sum(op, work, split, c, total, False)


def squares(plan, params, work, index, n, key, first_sample):
    """Σ (x − μ)² in parts."""
    op = plan[index]
    C, rows = op.input_channels, pixels(op, n)
    for task in range(cuda.blockIdx.x, tasks(op, C), cuda.gridDim.x):
        c, split, first, end = column_of(op, task, C, rows)
        total = mean = float32(0)
        if split >= 0:
            mean = sum_parts(op, work, c) / np.float32(rows)
        for m in range(first, end, ROWS):
            distance = work[np.uint64(op.x + m * C + c)] - mean
            total += distance * distance
        store_sum(op, work, split, C + c, total, False)


def combine(plan, params, work, index, n, key, first_sample):
    """Mean and variance of the batch, and what follows from them, a thread per channel."""
    op = plan[index]
    C, count, one = op.input_channels, np.float32(pixels(op, n)), np.float32(1)
    for c in range(cuda.grid(1), C, cuda.gridsize(1)):
        square = sum_parts(op, work, C + c)
        inverse = one / math.sqrt(square / count + op.f0)
        _save(op, work, MEAN, c, sum_parts(op, work, c) / count)
        _save(op, work, INVERSE, c, inverse)
        _save(op, work, VARIANCE, c, square / (count - one) if count > 1 else -one)
        _save(op, work, FACTOR, c, inverse * params[np.uint64(op.weight + c)])


def combine_backward(plan, params, work, index, n, key, first_sample):
    """The factors of dx, a thread per channel."""
    op = plan[index]
    C, count = op.input_channels, np.float32(pixels(op, n))
    for c in range(cuda.grid(1), C, cuda.gridsize(1)):
        factor = saved(op, work, FACTOR, c) * saved(op, work, INVERSE, c)
        _save(op, work, X_FACTOR, c, factor * sum_parts(op, work, c) / count)
        _save(op, work, MEAN_DY, c, sum_parts(op, work, C + c) / count)


def backward(op, params, work, i):
    """dx = γρ · (dy − s) − t · (x − μ)."""
    c = i % op.input_channels
    dy = work[np.uint64(op.dy + i)] - saved(op, work, MEAN_DY, c)
    x = work[np.uint64(op.x + i)] - saved(op, work, MEAN, c)
    dx = saved(op, work, FACTOR, c) * dy - saved(op, work, X_FACTOR, c) * x
    store(work, op.dx + i, dx, op.accumulate)


def finish(plan, params, work, index, n, row, results):
    """The running mean and variance, the latter unbiased: r ← (1 − momentum) · r + momentum ·
    batch; not after a step that is not finite. A batch with one number per channel leaves the
    running variance as it is."""
    op = plan[index]
    for c in range(cuda.grid(1), op.input_channels, cuda.gridsize(1)):
        if results[row, STOPPED] == 0:
            mean, variance = np.uint64(op.running_mean + c), np.uint64(op.running_var + c)
            params[mean] += op.f1 * (saved(op, work, MEAN, c) - params[mean])
            if saved(op, work, VARIANCE, c) >= 0:
                params[variance] += op.f1 * (saved(op, work, VARIANCE, c) - params[variance])


def _threads(record, n):
    return -(-record.input_channels // THREADS)


LAUNCHES = {
    "forward": (Launch(forward, channels), Launch(squares, channels), Launch(combine, _threads)),
    "backward": (
        Launch(combine_backward, lambda record, n: _threads(record, n) * (record.dx >= 0)),
        each_gradient(backward),
    ),
    "finish": (Launch(finish, _threads),),
}
