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

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import ROWS, blocks, own, store_part, sum_parts, sum_rows, tasks
from minicnn.kernels.cuda.launches import Launch, gradients
from minicnn.kernels.cuda.step import STOPPED
from minicnn.kernels.cuda.tile import THREADS, device

MEAN, INVERSE, VARIANCE, FACTOR, MEAN_DY, MEAN_DY_X = range(
    6
)  # of ``saved``, each as many numbers as there are channels


@device
def saved(plan, op, work, which, c):
    """Number ``which`` of the channel c."""
    return work[np.uint64(plan[op, at.SAVED] + which * plan[op, at.INPUT_CHANNELS] + c)]


@device
def _save(plan, op, work, which, c, number):
    work[np.uint64(plan[op, at.SAVED] + which * plan[op, at.INPUT_CHANNELS] + c)] = number


@device
def _rows(plan, op, n):
    return n * plan[op, at.INPUT_HEIGHT] * plan[op, at.INPUT_WIDTH]


def forward(plan, floats, params, work, op, n, key, first_sample):
    """Σ x in parts; y is x."""
    C, rows = plan[op, at.INPUT_CHANNELS], _rows(plan, op, n)
    for task in range(cuda.blockIdx.x, tasks(plan, op, C), cuda.gridDim.x):
        c, split, first, end = own(plan, op, task, C, rows)
        total = float32(0)
        for m in range(first, end if c < C else first, ROWS):
            total += work[np.uint64(plan[op, at.X] + m * C + c)]
        total = sum_rows(total)
        if c < C:
            store_part(plan, op, work, split, c, total, False)


def squares(plan, floats, params, work, op, n, key, first_sample):
    """Σ (x − μ)² in parts."""
    C, rows = plan[op, at.INPUT_CHANNELS], _rows(plan, op, n)
    for task in range(cuda.blockIdx.x, tasks(plan, op, C), cuda.gridDim.x):
        c, split, first, end = own(plan, op, task, C, rows)
        total = float32(0)
        if c < C:
            mean = sum_parts(plan, op, work, c) / np.float32(rows)
            for m in range(first, end, ROWS):
                distance = work[np.uint64(plan[op, at.X] + m * C + c)] - mean
                total += distance * distance
        total = sum_rows(total)
        if c < C:
            store_part(plan, op, work, split, C + c, total, False)


def combine(plan, floats, params, work, op, n, key, first_sample):
    """Mean and variance of the batch, and what follows from them, a thread a channel."""
    C, count = plan[op, at.INPUT_CHANNELS], np.float32(_rows(plan, op, n))
    for c in range(cuda.grid(1), C, cuda.gridsize(1)):
        square = sum_parts(plan, op, work, C + c)
        inverse = np.float32(1) / math.sqrt(square / count + floats[op, at.F0])
        _save(plan, op, work, MEAN, c, sum_parts(plan, op, work, c) / count)
        _save(plan, op, work, INVERSE, c, inverse)
        _save(
            plan,
            op,
            work,
            VARIANCE,
            c,
            square / (count - np.float32(1)) if count > 1 else np.float32(-1),
        )
        _save(plan, op, work, FACTOR, c, inverse * params[np.uint64(plan[op, at.WEIGHT] + c)])


def combine_backward(plan, floats, params, work, op, n, key, first_sample):
    """The factors of dx, a thread a channel."""
    C, count = plan[op, at.INPUT_CHANNELS], np.float32(_rows(plan, op, n))
    for c in range(cuda.grid(1), C, cuda.gridsize(1)):
        scale = saved(plan, op, work, FACTOR, c) * saved(plan, op, work, INVERSE, c)
        _save(plan, op, work, MEAN_DY_X, c, scale * sum_parts(plan, op, work, c) / count)
        _save(plan, op, work, MEAN_DY, c, sum_parts(plan, op, work, C + c) / count)


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx = γρ · (dy − s) − t · (x − μ)."""
    C = plan[op, at.INPUT_CHANNELS]
    for i in range(cuda.grid(1), n * plan[op, at.INPUT_SIZE], cuda.gridsize(1)):
        c = i % C
        value = saved(plan, op, work, FACTOR, c) * (
            work[np.uint64(plan[op, at.DY] + i)] - saved(plan, op, work, MEAN_DY, c)
        )
        x = work[np.uint64(plan[op, at.X] + i)] - saved(plan, op, work, MEAN, c)
        store(
            work,
            plan[op, at.DX] + i,
            value - saved(plan, op, work, MEAN_DY_X, c) * x,
            plan[op, at.ACCUMULATE],
        )


def finish(plan, floats, params, work, op, n, row, results):
    """The running mean and variance, the latter unbiased: r ← (1 − momentum) · r + momentum ·
    batch; not after a step that is not finite. A batch with one number a channel leaves the running
    variance as it is."""
    momentum = floats[op, at.F1]
    for c in range(cuda.grid(1), plan[op, at.INPUT_CHANNELS], cuda.gridsize(1)):
        if results[row, STOPPED] == 0:
            mean, variance = (
                np.uint64(plan[op, at.RUNNING_MEAN] + c),
                np.uint64(plan[op, at.RUNNING_VAR] + c),
            )
            params[mean] += momentum * (saved(plan, op, work, MEAN, c) - params[mean])
            if saved(plan, op, work, VARIANCE, c) >= 0:
                params[variance] += momentum * (
                    saved(plan, op, work, VARIANCE, c) - params[variance]
                )


def _sums(record, n):
    return blocks(int(record["input_channels"]), int(record["splits"]))


def _channels(record, n):
    return -(-int(record["input_channels"]) // THREADS)


LAUNCHES = {
    "forward": (Launch(forward, _sums), Launch(squares, _sums), Launch(combine, _channels)),
    "backward": (
        Launch(
            combine_backward, lambda record, n: _channels(record, n) if record["dx"] >= 0 else 0
        ),
        Launch(backward, gradients),
    ),
    "finish": (Launch(finish, _channels),),
}
