"""What a training step does besides the passes: the sum of the gradient's parts, its norm,
clipping, and vectors.

A sum over many numbers is made in a fixed tree, so that it does not depend on which block ran when.
Squares are summed as (size, sum of (number / size)²): in float32 the square of 1e30 overflows, and
that of 1e-30 is 0. Each thread takes four neighbouring numbers of a vector at a time
(`minicnn.kernels.cuda.vector`).
"""

import math

from numba import cuda, float32, types

from minicnn.kernels.cuda.tile import THREADS, device
from minicnn.kernels.cuda.vector import add4, load4, store4

NUMBERS, ROWS, TABLE, INTEGER = (
    types.float32[::1],
    types.float32[:, ::1],
    types.int64[:, ::1],
    types.int64,
)
# Columns of the table of steps, one row per step; the scalars of the optimizer follow.
DIVISOR, CLIP_NORM, CLIP_VALUE, GROUPS, SCALARS = range(5)
# Columns of the results, one row per step.
LOSS, CORRECT, NORM, STOPPED = range(4)


@device
def add_square(size, total, number):
    """(size, total) of one number more."""
    number = abs(number)
    if number > size:
        ratio = size / number
        return number, total * ratio * ratio + float32(1)
    if size > 0:
        ratio = number / size
        return size, total + ratio * ratio
    return size, total + number * float32(0)  # 0 or NaN


@device
def add_squares(size, total, other_size, other_total):
    """(size, total) of two sums."""
    if other_size > size:
        ratio = size / other_size
        return other_size, other_total + total * ratio * ratio
    if size > 0:
        ratio = other_size / size
        return size, total + other_total * ratio * ratio
    return size, total + other_total


@device
def add_four_squares(size, total, numbers):
    """(size, total) of four numbers more."""
    for number in numbers:
        size, total = add_square(size, total, number)
    return size, total


@device
def block_sum(number):
    """The sum of one number of each thread, the same in all threads of the block."""
    numbers = cuda.shared.array(THREADS, float32)
    thread = cuda.threadIdx.x
    numbers[thread] = number
    cuda.syncthreads()
    half = THREADS >> 1
    while half > 0:
        if thread < half:
            numbers[thread] += numbers[thread + half]
        cuda.syncthreads()
        half >>= 1
    total = numbers[0]
    cuda.syncthreads()
    return total


@device
def block_squares(size, total):
    """`add_squares` over the threads of the block, the same in all of them."""
    sizes = cuda.shared.array(THREADS, float32)
    totals = cuda.shared.array(THREADS, float32)
    thread = cuda.threadIdx.x
    sizes[thread] = size
    totals[thread] = total
    cuda.syncthreads()
    half = THREADS >> 1
    while half > 0:
        if thread < half:
            s, t = add_squares(
                sizes[thread], totals[thread], sizes[thread + half], totals[thread + half]
            )
            sizes[thread] = s
            totals[thread] = t
        cuda.syncthreads()
        half >>= 1
    size, total = sizes[0], totals[0]
    cuda.syncthreads()
    return size, total


@device
def store_squares(squares, size, total):
    """The `block_squares` of a block in its row of ``squares`` [blocks, 2]."""
    size, total = block_squares(size, total)
    if cuda.threadIdx.x == 0:
        squares[cuda.blockIdx.x, 0] = size
        squares[cuda.blockIdx.x, 1] = total


@device
def finish_reduction(table, row, squares, partials, results):
    """(factor of the gradient, whether to update): loss and norm of a step, written to ``results``
    by the first block.

    Every block adds up the same numbers in the same order. After a step that is not finite no later
    one is made.
    """
    size, total = float32(0), float32(0)
    for i in range(cuda.threadIdx.x, len(squares), THREADS):
        size, total = add_squares(size, total, squares[i, 0], squares[i, 1])
    size, total = block_squares(size, total)
    norm = size * math.sqrt(total)
    loss, correct = float32(0), float32(0)
    for group in range(int(table[row, GROUPS])):
        loss += partials[group, 0]
        correct += partials[group, 1]
    is_finite = math.isfinite(loss) and math.isfinite(norm)
    stopped = row > 0 and results[row - 1, STOPPED] > 0
    if cuda.grid(1) == 0:
        results[row, LOSS] = loss / table[row, DIVISOR]
        results[row, CORRECT] = correct
        results[row, NORM] = norm
        results[row, STOPPED] = float32(0) if is_finite and not stopped else float32(1)
    limit = table[row, CLIP_NORM]
    shrink = limit / norm if norm > limit > 0 else float32(1)
    return shrink, is_finite and not stopped


@device
def clipped(number, shrink, limit):
    """Scaled by ``shrink``, then limited to ±``limit``; 1 and 0 change nothing."""
    number *= shrink
    if limit > 0:
        if number > limit:
            return limit
        if number < -limit:
            return -limit
    return number


def add_parts(parts, sums, grads, squares):
    """grads = the sum of its parts, in their order (`layout.Layout.sums`); ``squares`` [blocks, 2]
    of what a block added."""
    size, total = float32(0), float32(0)
    for index in range(len(sums)):
        offset, count, place = sums[index, 0], sums[index, 1], sums[index, 2]
        distance, splits = sums[index, 3], sums[index, 4]
        for i in range(4 * cuda.grid(1), count, 4 * cuda.gridsize(1)):
            gradient = load4(parts, place + i, place + count)
            for split in range(1, splits):
                first = place + split * distance
                gradient = add4(gradient, load4(parts, first + i, first + count))
            store4(grads, offset + i, offset + count, gradient)
            size, total = add_four_squares(size, total, gradient)
    store_squares(squares, size, total)


def finish(grads, table, row, squares, partials, results):
    """Clip the gradient and write the results of a step whose update is made apart."""
    shrink, is_finite = finish_reduction(table, row, squares, partials, results)
    limit = table[row, CLIP_VALUE]
    if is_finite:
        for i in range(4 * cuda.grid(1), len(grads), 4 * cuda.gridsize(1)):
            a, b, c, d = load4(grads, i, len(grads))
            a, b = clipped(a, shrink, limit), clipped(b, shrink, limit)
            c, d = clipped(c, shrink, limit), clipped(d, shrink, limit)
            store4(grads, i, len(grads), (a, b, c, d))


def square_sums(x, squares):
    """``squares`` [blocks, 2] of a vector."""
    size, total = float32(0), float32(0)
    for i in range(4 * cuda.grid(1), len(x), 4 * cuda.gridsize(1)):
        size, total = add_four_squares(size, total, load4(x, i, len(x)))
    store_squares(squares, size, total)


def axpy(factor, x, y):
    """y ← factor · x + y of vectors."""
    for i in range(4 * cuda.grid(1), len(y), 4 * cuda.gridsize(1)):
        a, b, c, d = load4(x, i, len(y))
        moved = factor * a, factor * b, factor * c, factor * d
        store4(y, i, len(y), add4(load4(y, i, len(y)), moved))


SIGNATURES = {
    add_parts: types.void(NUMBERS, TABLE, NUMBERS, ROWS),
    finish: types.void(NUMBERS, ROWS, INTEGER, ROWS, ROWS, ROWS),
    square_sums: types.void(NUMBERS, ROWS),
    axpy: types.void(types.float32, NUMBERS, NUMBERS),
}
