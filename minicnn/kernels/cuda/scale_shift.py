"""Batch normalization with the running statistics; the formulas are in
`minicnn.kernels.cpu.scale_shift`."""

import math

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import ROWS, blocks, own, store_part, sum_rows, tasks
from minicnn.kernels.cuda.launches import Launch, gradients, outputs
from minicnn.kernels.cuda.tile import device


@device
def _inverse(plan, floats, params, op, c):
    """ρ[c] = 1 / √(σ²[c] + ε)."""
    return np.float32(1) / math.sqrt(
        params[np.uint64(plan[op, at.RUNNING_VAR] + c)] + floats[op, at.F0]
    )


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y = γρ · (x − μ) + β."""
    C = plan[op, at.INPUT_CHANNELS]
    for i in range(cuda.grid(1), n * plan[op, at.INPUT_SIZE], cuda.gridsize(1)):
        c = i % C
        x = work[np.uint64(plan[op, at.X] + i)] - params[np.uint64(plan[op, at.RUNNING_MEAN] + c)]
        factor = params[np.uint64(plan[op, at.WEIGHT] + c)] * _inverse(plan, floats, params, op, c)
        work[np.uint64(plan[op, at.Y] + i)] = factor * x + params[np.uint64(plan[op, at.BIAS] + c)]


def backward_scale(plan, floats, params, work, op, n, key, first_sample):
    """dγ and dβ in parts."""
    C, rows = plan[op, at.INPUT_CHANNELS], n * plan[op, at.INPUT_HEIGHT] * plan[op, at.INPUT_WIDTH]
    for task in range(cuda.blockIdx.x, tasks(plan, op, C), cuda.gridDim.x):
        c, split, first, end = own(plan, op, task, C, rows)
        d_scale = d_shift = float32(0)
        if c < C:
            mean, inverse = (
                params[np.uint64(plan[op, at.RUNNING_MEAN] + c)],
                _inverse(plan, floats, params, op, c),
            )
            for m in range(first, end, ROWS):
                dy = work[np.uint64(plan[op, at.DY] + m * C + c)]
                d_shift += dy
                d_scale += dy * ((work[np.uint64(plan[op, at.X] + m * C + c)] - mean) * inverse)
        d_scale = sum_rows(d_scale)
        d_shift = sum_rows(d_shift)
        if c < C:
            store_part(plan, op, work, split, c, d_scale, first_sample > 0)
            store_part(plan, op, work, split, C + c, d_shift, first_sample > 0)


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx = γρ · dy."""
    C = plan[op, at.INPUT_CHANNELS]
    for i in range(cuda.grid(1), n * plan[op, at.INPUT_SIZE], cuda.gridsize(1)):
        c = i % C
        factor = params[np.uint64(plan[op, at.WEIGHT] + c)] * _inverse(plan, floats, params, op, c)
        store(
            work,
            plan[op, at.DX] + i,
            factor * work[np.uint64(plan[op, at.DY] + i)],
            plan[op, at.ACCUMULATE],
        )


LAUNCHES = {
    "forward": (Launch(forward, outputs),),
    "backward": (
        Launch(
            backward_scale,
            lambda record, n: blocks(int(record["input_channels"]), int(record["splits"])),
        ),
        Launch(backward, gradients),
    ),
}
