"""Group and layer normalization: each sample by itself; the formulas and fields are in
`minicnn.kernels.cpu.group_norm`.

A block does one group of one sample; the gradients of γ and β are summed in parts
(`minicnn.kernels.cuda.column`).
"""

import math

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import ROWS, blocks, column_of, store_sum, tasks
from minicnn.kernels.cuda.launches import Launch
from minicnn.kernels.cuda.step import block_sum
from minicnn.kernels.cuda.tile import THREADS, device


@device
def _size(op):
    """Numbers in a group."""
    return op.input_size // op.groups


@device
def _places(op, unit, j):
    """Number ``j`` of group number ``unit``: its place in x, and in γ and β."""
    sample, each = unit // op.groups, op.input_channels // op.groups
    pixel = j // each
    c = (unit - sample * op.groups) * each + j - pixel * each
    place = pixel * op.input_channels + c
    return sample * op.input_size + place, place if op.a0 != 0 else c


@device
def _normal(op, work, place, unit):
    """x̂ at ``place`` of x, in group number ``unit``."""
    mean, inverse = work[np.uint64(op.saved + 2 * unit)], work[np.uint64(op.saved + 2 * unit + 1)]
    return (work[np.uint64(op.x + place)] - mean) * inverse


def forward(plan, params, work, index, n, key, first_sample):
    """y; mean and inverse deviation of each group are saved."""
    op = plan[index]
    count = np.float32(_size(op))
    for unit in range(cuda.blockIdx.x, n * op.groups, cuda.gridDim.x):
        total, square = float32(0), float32(0)
        for j in range(cuda.threadIdx.x, _size(op), THREADS):
            total += work[np.uint64(op.x + _places(op, unit, j)[0])]
        mean = block_sum(total) / count
        for j in range(cuda.threadIdx.x, _size(op), THREADS):
            distance = work[np.uint64(op.x + _places(op, unit, j)[0])] - mean
            square += distance * distance
        inverse = np.float32(1) / math.sqrt(block_sum(square) / count + op.f0)
        if cuda.threadIdx.x == 0:
            work[np.uint64(op.saved + 2 * unit)] = mean
            work[np.uint64(op.saved + 2 * unit + 1)] = inverse
        for j in range(cuda.threadIdx.x, _size(op), THREADS):
            place, parameter = _places(op, unit, j)
            normal = (work[np.uint64(op.x + place)] - mean) * inverse
            scale, shift = np.uint64(op.weight + parameter), np.uint64(op.bias + parameter)
            work[np.uint64(op.y + place)] = normal * params[scale] + params[shift]


def backward_scale(plan, params, work, index, n, key, first_sample):
    """dγ and dβ in parts: rows are pixels of all samples, or for layer normalization samples."""
    op = plan[index]
    C, size = op.input_channels, op.input_size
    columns = size if op.a0 != 0 else C
    for task in range(cuda.blockIdx.x, tasks(op, columns), cuda.gridDim.x):
        c, split, first, end = column_of(op, task, columns, n * (size // columns))
        d_scale = d_shift = float32(0)
        for m in range(first, end, ROWS):
            place = m * columns + c
            unit = place // size * op.groups + c % C * op.groups // C
            dy = work[np.uint64(op.dy + place)]
            d_shift += dy
            d_scale += dy * _normal(op, work, place, unit)
        store_sum(op, work, split, c, d_scale, first_sample > 0)
        store_sum(op, work, split, columns + c, d_shift, first_sample > 0)


def backward(plan, params, work, index, n, key, first_sample):
    """dx from dy."""
    op = plan[index]
    count = np.float32(_size(op))
    for unit in range(cuda.blockIdx.x, n * op.groups, cuda.gridDim.x):
        total, product = float32(0), float32(0)
        for j in range(cuda.threadIdx.x, _size(op), THREADS):
            place, parameter = _places(op, unit, j)
            g = work[np.uint64(op.dy + place)] * params[np.uint64(op.weight + parameter)]
            total += g
            product += g * _normal(op, work, place, unit)
        total = block_sum(total) / count
        product = block_sum(product) / count
        inverse = work[np.uint64(op.saved + 2 * unit + 1)]
        for j in range(cuda.threadIdx.x, _size(op), THREADS):
            place, parameter = _places(op, unit, j)
            g = work[np.uint64(op.dy + place)] * params[np.uint64(op.weight + parameter)]
            dx = inverse * (g - total - _normal(op, work, place, unit) * product)
            store(work, op.dx + place, dx, op.accumulate)


def _columns(record, n):
    return blocks(record.input_size if record.a0 else record.input_channels, record.splits)


def _groups(record, n):
    return n * record.groups


LAUNCHES = {
    "forward": (Launch(forward, _groups),),
    "backward": (
        Launch(backward_scale, _columns),
        Launch(backward, lambda record, n: _groups(record, n) * (record.dx >= 0)),
    ),
}
