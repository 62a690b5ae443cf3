"""The tile: the part of a matrix product that one block of threads computes.

Each of the block's `THREADS` threads has `RESULTS` × `RESULTS` results in registers. The reduction
goes `DEPTH` steps at a time through shared memory, in two buffers: while one is multiplied, the
numbers for the other are on their way in registers. How the threads stand is chosen at run time
from the product's size. A shape is ``across + 8 · deep``: ``1 << across`` threads stand along the
columns, ``1 << deep`` share each result, with different steps of the reduction, and the rest stand
along the rows. So a product with few rows or columns takes a small tile, and not a large one full
of zeros.

Two habits keep the machine code short. Indices are cast to unsigned at each access, since a signed
one may count from the end, and every access would test for that. Numbers that fit 32 bits are cast
to them wherever they are computed, since Numba computes whole numbers in 64 bits, which a GPU does
in pieces.
"""

import numpy as np
from numba import cuda

device = cuda.jit(device=True, inline="always")

# In the simulator, where a thread of the GPU is a thread of the host and slow, a block is small.
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
RESULTS_LOG2 = 2
RESULTS = 1 << RESULTS_LOG2  # rows, and columns, that a thread computes
THREADS_LOG2, DEPTH_LOG2 = (4, 2) if SIMULATED else (8, 3)
# Threads; reduction steps in shared memory at a time.
THREADS, DEPTH = 1 << THREADS_LOG2, 1 << DEPTH_LOG2
LOADERS_LOG2 = THREADS_LOG2 - DEPTH_LOG2
LOADERS = (
    1 << LOADERS_LOG2
)  # threads that load numbers of one reduction step, each every LOADERS-th
LEAST_LOG2 = (THREADS_LOG2 + 1) // 3  # of the threads along the columns
MOST_LOG2 = THREADS_LOG2 - LEAST_LOG2
LONGEST = RESULTS << MOST_LOG2  # most rows, or columns, of a tile
LOADS = LONGEST // LOADERS  # most numbers of either factor that a thread loads at a time
# One reduction step in shared memory: columns, then rows. 4 more put the steps that a warp stores
# at once in other banks.
LEADING = LONGEST + (RESULTS << LEAST_LOG2) + 4
# Tiles that fill a GPU; reduction steps that make a split worth its sum.
_ENOUGH_TILES, _LEAST_SPLIT = 128, 16 * DEPTH
# Instructions of a thread, about, counted in the machine code for 9.0.
_STEP, _LOAD, _ITERATION = 21, 25, 130
# Numbers in the sums of all blocks that share reductions.
MOST_SPLIT = _ENOUGH_TILES * RESULTS * RESULTS * THREADS
BUFFER = DEPTH * LEADING
BUFFERS = 2 * BUFFER


def launch_bounds(kernel):
    """(threads, blocks that must have room on a multiprocessor together), which limits the
    registers a thread has."""
    return THREADS, getattr(kernel, "blocks_together", 2)


def tiles_of(rows, columns, shape):
    """How many tiles of a shape cover a product of ``rows`` × ``columns``."""
    across = RESULTS_LOG2 + (shape & 7)
    down = RESULTS_LOG2 + THREADS_LOG2 - (shape & 7) - (shape >> 3)
    return ((rows + (1 << down) - 1) >> down) * ((columns + (1 << across) - 1) >> across)


def shape_of(rows, columns):
    """The shape with which a product takes the fewest instructions: a step takes `_STEP`, a load
    `_LOAD`, an iteration `_ITERATION`."""
    best, least = 0, 1 << 62
    for deep in range(DEPTH_LOG2 + 1):
        for across in range(MOST_LOG2 + 1):
            down = THREADS_LOG2 - deep - across
            if 0 <= down <= MOST_LOG2:
                loads = (((RESULTS << down) + LOADERS - 1) >> LOADERS_LOG2) + (
                    ((RESULTS << across) + LOADERS - 1) >> LOADERS_LOG2
                )
                tiles = ((rows + (RESULTS << down) - 1) >> (RESULTS_LOG2 + down)) * (
                    (columns + (RESULTS << across) - 1) >> (RESULTS_LOG2 + across)
                )
                cost = tiles * (_STEP * (DEPTH >> deep) + _LOAD * loads + _ITERATION)
                if cost < least:
                    best, least = across + 8 * deep, cost
    return best


def splits_of(tiles, depth):
    """How many blocks share the reduction of a tile, where few tiles with a long one would leave
    most of the GPU idle."""
    splits = _ENOUGH_TILES // tiles
    most = depth // _LEAST_SPLIT if depth >= 4 * _LEAST_SPLIT else 1
    splits = splits if splits < most else most
    return splits if splits > 1 else 1


@device
def divide(a, b):
    """a // b of numbers from 0 to 2³² − 1: a dozen instructions, where 64 bits take a hundred."""
    return np.int32(np.uint32(a) // np.uint32(b))


@device
def digits(index, middle_size, inner_size):
    """outer, middle, inner of index = (outer · middle_size + middle) · inner_size + inner, below
    2³¹."""
    lines = divide(index, inner_size)
    outer = divide(lines, middle_size)
    return outer, np.int32(lines - outer * middle_size), np.int32(index - lines * inner_size)


@device
def store_shared(tiles, start, loader, length, numbers):
    """Store the ``numbers`` that a thread has loaded: places ``loader``, ``loader + LOADERS``, ...
    below ``length``."""
    for j in range(LOADS):
        place = loader + j * LOADERS
        if place < length:
            tiles[np.uint64(start + place)] = numbers[j]


@device
def _step(tiles, down, across, sums):
    """sums[i,j] += tiles[down + i] · tiles[across + j]; both are multiples of 4, so that each takes
    one 128-bit load."""
    a = cuda.local.array(RESULTS, np.float32)
    b = cuda.local.array(RESULTS, np.float32)
    for i in range(RESULTS):
        a[i] = tiles[np.uint64(down + i)]
        b[i] = tiles[np.uint64(across + i)]
    for i in range(RESULTS):
        for j in range(RESULTS):
            sums[i, j] += a[i] * b[j]


@device
def multiply(tiles, down, across, sums, steps):
    """sums[i,j] += Σ_k tiles[k, down + i] · tiles[k, across + j] over ``steps`` steps of one
    buffer."""
    down, across = down & -4, across & -4  # as they are; but now the compiler knows
    for _ in range(steps >> 2):
        _step(tiles, down, across, sums)
        _step(tiles, down + LEADING, across + LEADING, sums)
        _step(tiles, down + 2 * LEADING, across + 2 * LEADING, sums)
        _step(tiles, down + 3 * LEADING, across + 3 * LEADING, sums)
        down += 4 * LEADING
        across += 4 * LEADING
    for _ in range(steps & 3):
        _step(tiles, down, across, sums)
        down += LEADING
        across += LEADING


@device
def reduce_split_k(tiles, sums, steps):
    """Add up what the threads that share a result have in ``sums``, in a fixed tree; return how
    many have results then.

    Each of them has multiplied ``steps`` of the `DEPTH` steps of a buffer.
    """
    thread, having = cuda.threadIdx.x, THREADS
    while steps < DEPTH:
        having >>= 1
        cuda.syncthreads()
        for i in range(RESULTS):
            for j in range(RESULTS):
                if having <= thread < 2 * having:
                    tiles[np.uint32((i * RESULTS + j) * having + thread - having)] = sums[i, j]
        cuda.syncthreads()
        for i in range(RESULTS):
            for j in range(RESULTS):
                if thread < having:
                    sums[i, j] += tiles[np.uint32((i * RESULTS + j) * having + thread)]
        steps <<= 1
    return having
