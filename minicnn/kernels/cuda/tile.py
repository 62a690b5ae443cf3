"""The tile: the part of a matrix product that one block of threads computes, and what decides its shape.

A block has `THREADS` threads, each with `RESULTS` × `RESULTS` results in registers, and goes `DEPTH` steps of the reduction
at a time through shared memory. How many of the threads stand along the columns is chosen at run time from the product's
size: a tile has ``RESULTS << log2`` columns, and the more rows the fewer columns.
"""

from numba import cuda

device = cuda.jit(device=True, inline="always")

# In the simulator, where a thread of the card is a thread of the host and slow, a block is small.
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
RESULTS = 4  # rows, and columns, that a thread computes
DEPTH = 2 if SIMULATED else 8  # reduction steps in shared memory at a time
THREADS_LOG2 = 4 if SIMULATED else 8
THREADS = 1 << THREADS_LOG2
COLUMNS_LOG2_LEAST = THREADS_LOG2 // 4  # of the threads along the columns
COLUMNS_LOG2_MOST = THREADS_LOG2 - COLUMNS_LOG2_LEAST
LONGEST = RESULTS << COLUMNS_LOG2_MOST  # most rows, or columns, of a tile


def shape_of(rows, columns):
    """log2 of how many threads stand along the columns: the shape with the fewest tiles, and of those the squarest."""
    best = -1
    fewest = 0
    for log2 in range(COLUMNS_LOG2_LEAST, COLUMNS_LOG2_MOST + 1):
        tiles = tiles_of(rows, columns, log2)
        squarer = abs(2 * log2 - THREADS_LOG2) < abs(2 * best - THREADS_LOG2)
        if best < 0 or tiles < fewest or (tiles == fewest and squarer):
            best, fewest = log2, tiles
    return best


def tiles_of(rows, columns, log2):
    """How many tiles with ``RESULTS << log2`` columns cover a product of ``rows`` × ``columns``."""
    down, across = (RESULTS * THREADS) >> log2, RESULTS << log2
    return ((rows + down - 1) // down) * ((columns + across - 1) // across)
