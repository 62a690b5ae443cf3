"""Group and layer normalization: each sample by itself; the formulas and fields are in
`minicnn.kernels.cpu.group_norm`.

A block does one group of one sample; the gradients of γ and β are summed in parts
(`minicnn.kernels.cuda.column`).
"""

import math

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import ROWS, blocks, own, store_part, sum_rows, tasks
from minicnn.kernels.cuda.launches import Launch
from minicnn.kernels.cuda.step import block_sum
from minicnn.kernels.cuda.tile import THREADS, device


@device
def _group(plan, op, unit):
    """(first number of x's sample, first channel, channels, numbers) of group number ``unit``."""
    groups = plan[op, at.GROUPS]
    sample, each = unit // groups, plan[op, at.INPUT_CHANNELS] // groups
    return (
        sample * plan[op, at.INPUT_SIZE],
        (unit - sample * groups) * each,
        each,
        plan[op, at.INPUT_SIZE] // groups,
    )


@device
def _place(plan, op, j, each, first_channel):
    """Number ``j`` of a group: its place in the sample, and in γ and β."""
    pixel = j // each
    c = first_channel + j - pixel * each
    place = pixel * plan[op, at.INPUT_CHANNELS] + c
    return place, place if plan[op, at.A0] != 0 else c


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y; mean and inverse deviation of each group are saved."""
    for unit in range(cuda.blockIdx.x, n * plan[op, at.GROUPS], cuda.gridDim.x):
        start, first_channel, each, size = _group(plan, op, unit)
        total, square = float32(0), float32(0)
        for j in range(cuda.threadIdx.x, size, THREADS):
            place, _ = _place(plan, op, j, each, first_channel)
            total += work[np.uint64(plan[op, at.X] + start + place)]
        mean = block_sum(total) / np.float32(size)
        for j in range(cuda.threadIdx.x, size, THREADS):
            place, _ = _place(plan, op, j, each, first_channel)
            distance = work[np.uint64(plan[op, at.X] + start + place)] - mean
            square += distance * distance
        inverse = np.float32(1) / math.sqrt(
            block_sum(square) / np.float32(size) + floats[op, at.F0]
        )
        if cuda.threadIdx.x == 0:
            work[np.uint64(plan[op, at.SAVED] + 2 * unit)] = mean
            work[np.uint64(plan[op, at.SAVED] + 2 * unit + 1)] = inverse
        for j in range(cuda.threadIdx.x, size, THREADS):
            place, own_place = _place(plan, op, j, each, first_channel)
            normal = (work[np.uint64(plan[op, at.X] + start + place)] - mean) * inverse
            y = normal * params[np.uint64(plan[op, at.WEIGHT] + own_place)]
            work[np.uint64(plan[op, at.Y] + start + place)] = (
                y + params[np.uint64(plan[op, at.BIAS] + own_place)]
            )


@device
def _normal(plan, op, work, place, unit):
    """x̂ at ``place`` of x, in group number ``unit``."""
    mean, inverse = (
        work[np.uint64(plan[op, at.SAVED] + 2 * unit)],
        work[np.uint64(plan[op, at.SAVED] + 2 * unit + 1)],
    )
    return (work[np.uint64(plan[op, at.X] + place)] - mean) * inverse


def backward_scale(plan, floats, params, work, op, n, key, first_sample):
    """dγ and dβ in parts: rows are pixels of all samples, or for layer normalization samples."""
    C, size, groups = plan[op, at.INPUT_CHANNELS], plan[op, at.INPUT_SIZE], plan[op, at.GROUPS]
    columns = size if plan[op, at.A0] != 0 else C
    rows = n * (size // columns)
    for task in range(cuda.blockIdx.x, tasks(plan, op, columns), cuda.gridDim.x):
        c, split, first, end = own(plan, op, task, columns, rows)
        d_scale = d_shift = float32(0)
        for m in range(first, end if c < columns else first, ROWS):
            place = m * columns + c
            unit = place // size * groups + c % C * groups // C
            dy = work[np.uint64(plan[op, at.DY] + place)]
            d_shift += dy
            d_scale += dy * _normal(plan, op, work, place, unit)
        d_scale = sum_rows(d_scale)
        d_shift = sum_rows(d_shift)
        if c < columns:
            store_part(plan, op, work, split, c, d_scale, first_sample > 0)
            store_part(plan, op, work, split, columns + c, d_shift, first_sample > 0)


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx from dy."""
    for unit in range(cuda.blockIdx.x, n * plan[op, at.GROUPS], cuda.gridDim.x):
        start, first_channel, each, size = _group(plan, op, unit)
        total, product = float32(0), float32(0)
        for j in range(cuda.threadIdx.x, size, THREADS):
            place, own_place = _place(plan, op, j, each, first_channel)
            g = (
                work[np.uint64(plan[op, at.DY] + start + place)]
                * params[np.uint64(plan[op, at.WEIGHT] + own_place)]
            )
            total += g
            product += g * _normal(plan, op, work, start + place, unit)
        total = block_sum(total) / np.float32(size)
        product = block_sum(product) / np.float32(size)
        inverse = work[np.uint64(plan[op, at.SAVED] + 2 * unit + 1)]
        for j in range(cuda.threadIdx.x, size, THREADS):
            place, own_place = _place(plan, op, j, each, first_channel)
            g = (
                work[np.uint64(plan[op, at.DY] + start + place)]
                * params[np.uint64(plan[op, at.WEIGHT] + own_place)]
            )
            value = inverse * (g - total - _normal(plan, op, work, start + place, unit) * product)
            store(work, plan[op, at.DX] + start + place, value, plan[op, at.ACCUMULATE])


def _columns(record, n):
    return blocks(
        int(record["input_size"] if record["a0"] else record["input_channels"]),
        int(record["splits"]),
    )


LAUNCHES = {
    "forward": (Launch(forward, lambda record, n: n * int(record["groups"])),),
    "backward": (
        Launch(backward_scale, _columns),
        Launch(backward, lambda record, n: n * int(record["groups"]) if record["dx"] >= 0 else 0),
    ),
}
