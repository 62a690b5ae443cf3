"""Sums over the rows of a matrix, column by column, in parts and in a fixed tree: gradients of
parameters that each channel has one of.

A block does `COLUMNS` neighbouring columns of one part of the rows, with `ROWS` threads one below
the other per column. What they sum up goes to the parts of the operation's gradient
(`minicnn.kernels.cuda.layout`).
"""

from typing import NamedTuple

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.tile import THREADS, THREADS_LOG2, device, divide

COLUMNS_LOG2 = (THREADS_LOG2 + 2) // 2
COLUMNS = 1 << COLUMNS_LOG2
ROWS = THREADS >> COLUMNS_LOG2


class Column(NamedTuple):
    """A thread's column and rows, which are `ROWS` apart; none beyond the last column."""

    number: int
    split: int  # −1 beyond the last column
    first: int
    end: int


def blocks(columns, splits):
    """How many blocks have work."""
    return -(-columns // COLUMNS) * splits


def channels(record, n):
    """How many blocks have work for sums per channel."""
    return blocks(record.input_channels, record.splits)


@device
def tasks(op, columns):
    """Tasks of a sum over the rows of so many columns."""
    return np.int32(divide(columns + COLUMNS - 1, COLUMNS) * op.splits)


@device
def column_of(op, task, columns, rows):
    """The `Column` of this thread."""
    split = divide(task, divide(columns + COLUMNS - 1, COLUMNS))
    tile = task - split * divide(columns + COLUMNS - 1, COLUMNS)
    number = np.int64(tile * COLUMNS + (cuda.threadIdx.x & (COLUMNS - 1)))
    first = rows * split // op.splits + (cuda.threadIdx.x >> COLUMNS_LOG2)
    if number >= columns:
        return Column(number, np.int64(-1), first, first)
    return Column(number, np.int64(split), first, rows * (split + 1) // op.splits)


@device
def store_sum(op, work, split, place, number, adds):
    """The sum of the numbers of the threads of this column becomes part ``split`` of number
    ``place`` of the operation's gradient; with ``adds`` it is added to that."""
    numbers = cuda.shared.array(THREADS, float32)
    thread = cuda.threadIdx.x
    numbers[thread] = number
    cuda.syncthreads()
    half = THREADS >> 1
    while half >= COLUMNS:
        if thread < half:
            numbers[thread] += numbers[thread + half]
        cuda.syncthreads()
        half >>= 1
    if thread < COLUMNS and split >= 0:
        target = np.uint64(op.parts + split * op.distance + place)
        total = numbers[thread]
        work[target] = total + work[target] if adds else total
    cuda.syncthreads()


@device
def sum_parts(op, work, place):
    """Number ``place`` of the operation's gradient: its parts in their order."""
    total = float32(0)
    for split in range(op.splits):
        total += work[np.uint64(op.parts + split * op.distance + place)]
    return total


@device
def store_scale_sums(op, work, column, mean, inverse, adds):
    """dγ[c] = Σ dy · x̂ and dβ[c] = Σ dy of a normalization, in parts; x̂ = (x − mean) · inverse."""
    C, d_scale, d_shift = op.input_channels, float32(0), float32(0)
    for m in range(column.first, column.end, ROWS):
        place = m * C + column.number
        dy = work[np.uint64(op.dy + place)]
        d_shift += dy
        d_scale += dy * ((work[np.uint64(op.x + place)] - mean) * inverse)
    store_sum(op, work, column.split, column.number, d_scale, adds)
    store_sum(op, work, column.split, C + column.number, d_shift, adds)


@device
def pixels(op, n):
    """Rows of a sum over samples and pixels."""
    return n * op.input_height * op.input_width
