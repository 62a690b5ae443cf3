"""Sums over the rows of a matrix, column by column, in parts and in a fixed tree: gradients of a
parameter a channel.

A block does `COLUMNS` neighbouring columns of one part of the rows, with `ROWS` threads one below
the other a column. What they sum up goes to the parts of the operation's gradient
(`minicnn.kernels.cuda.layout`).
"""

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.tile import THREADS, THREADS_LOG2, device, divide

COLUMNS_LOG2 = (THREADS_LOG2 + 2) // 2
COLUMNS = 1 << COLUMNS_LOG2
ROWS = THREADS >> COLUMNS_LOG2


def blocks(columns, splits):
    """How many blocks have work."""
    return -(-columns // COLUMNS) * splits


@device
def tasks(plan, op, columns):
    """Tasks of a sum over the rows of so many columns: a block does every so manieth."""
    return np.int32(divide(columns + COLUMNS - 1, COLUMNS) * plan[op, at.SPLITS])


@device
def own(plan, op, task, columns, rows):
    """(column, split, first row, end of the rows) of this thread, whose rows are `ROWS` apart."""
    splits = plan[op, at.SPLITS]
    split = divide(task, divide(columns + COLUMNS - 1, COLUMNS))
    tile = task - split * divide(columns + COLUMNS - 1, COLUMNS)
    first = rows * split // splits + (cuda.threadIdx.x >> COLUMNS_LOG2)
    return (
        np.int64(tile * COLUMNS + (cuda.threadIdx.x & (COLUMNS - 1))),
        split,
        first,
        rows * (split + 1) // splits,
    )


@device
def sum_rows(number):
    """The sum of the numbers of the threads of this column, in the first of them."""
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
    total = numbers[thread & (COLUMNS - 1)]
    cuda.syncthreads()
    return total


@device
def store_part(plan, op, work, split, place, total, adds):
    """Part ``split`` of number ``place`` of the operation's gradient, by one thread a column; with
    ``adds`` added to it."""
    if cuda.threadIdx.x < COLUMNS:
        there = np.uint64(plan[op, at.PARTS] + split * plan[op, at.DISTANCE] + place)
        work[there] = total + work[there] if adds else total


@device
def sum_parts(plan, op, work, place):
    """Number ``place`` of the operation's gradient: its parts in their order."""
    total = float32(0)
    for split in range(plan[op, at.SPLITS]):
        total += work[np.uint64(plan[op, at.PARTS] + split * plan[op, at.DISTANCE] + place)]
    return total
