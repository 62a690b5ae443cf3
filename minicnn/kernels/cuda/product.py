"""One tile of an implicit matrix product, Σ_k x[place(row) + place(k)] · other[k, column], where the
place in the image that a position and a tap read together is the sum of both.

A position is at h = p·scale + offset, a tap at r·step. The bias is a tap that reads 1. Nothing
outside the image is read, and no column matrix is ever stored.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from minicnn.kernels.cuda.tile import (
    BUFFER,
    BUFFERS,
    DEPTH,
    DEPTH_LOG2,
    LEADING,
    LOADERS,
    LOADERS_LOG2,
    LOADS,
    LONGEST,
    RESULTS,
    RESULTS_LOG2,
    THREADS,
    THREADS_LOG2,
    device,
    digits,
    divide,
    multiply,
    reduce_split_k,
    store_shared,
)

_ZERO = np.float32(0)
# Heights of rows past the end of the product, and of the bias's.
_ROW_PAST_END, _BIAS_ROW = -(1 << 30), -(1 << 29)


class Image(NamedTuple):
    """The image that a product reads: a position is at scale · (p, q) + offset, a tap at step ·
    (r, s)."""

    array: Any
    start: int
    H: int
    W: int
    C: int
    P: int  # positions
    Q: int
    S: int  # columns of a filter
    scale: tuple  # (height, width), as the next two
    offset: tuple
    step: tuple


class Factor(NamedTuple):
    """The other factor [k, column]; transposed, taps are ``down`` and ``right`` apart in it."""

    array: Any
    start: int
    down: int
    right: int


class Output(NamedTuple):
    """Where the product goes. Transposed, position (p, q) is at (first_h + p · step_h, first_v + q ·
    step_v) of an image of H × W."""

    array: Any
    start: int
    accumulate: bool  # transposed, only if the operation does too
    with_bias: bool
    H: int
    W: int
    first_h: int
    first_v: int
    step_h: int
    step_v: int


class Task(NamedTuple):
    """One tile of a product of ``rows`` × ``columns``, over begin ≤ k < end."""

    form: int  # the shape of the tile
    tile: int
    rows: int
    columns: int
    bias_row: int  # of filters; ``rows`` if there is no bias
    begin: int
    end: int


@device
def _image_place(of_tap, outer, middle, inner, image):
    """(h, v, start) of the tap (r,s,c) or the position (n,p,q): what it adds to the place that is
    read."""
    if of_tap:
        return np.int32(outer * image.step[0]), np.int32(middle * image.step[1]), np.int64(inner)
    return (
        np.int32(middle * image.scale[0] + image.offset[0]),
        np.int32(inner * image.scale[1] + image.offset[1]),
        outer * (image.H * image.W * image.C),
    )


@device
def product(of_filters, transposed, op, image, factor, out, task):
    """One tile of out[row, column] = Σ_k image · factor.

    ``of_filters`` and ``transposed`` say which product it is: constants where the function is
    inlined.
    """
    W, C, P, Q, S = image.W, image.C, image.P, image.Q, image.S
    tiles = cuda.shared.array(BUFFERS, np.float32)
    row_h = cuda.shared.array(LONGEST, np.int32)
    row_v = cuda.shared.array(LONGEST, np.int32)
    row_start = cuda.shared.array(LONGEST, np.int64)
    row_out = cuda.shared.array(LONGEST, np.int64)
    places = row_h, row_v, row_start
    sums = cuda.local.array((RESULTS, RESULTS), np.float32)
    next_x = cuda.local.array(LOADS, np.float32)
    next_factor = cuda.local.array(LOADS, np.float32)
    columns = task.columns
    rows, begin, end = np.int32(task.rows), np.int32(task.begin), np.int32(task.end)
    tile, thread = np.int32(task.tile), np.int32(cuda.threadIdx.x)
    # The shape goes through shared memory: what follows from it is then computed for each tile, and
    # takes no registers between them.
    shape = cuda.shared.array(3, np.int32)
    if thread == 0:
        shape[0] = task.form
    cuda.syncthreads()  # the tile before this one is stored
    log2, deep = np.int32(shape[0] & 7), np.int32(shape[0] >> 3)
    together = np.int32(THREADS >> deep)  # threads with results of their own
    tile_columns, tile_rows = np.int32(RESULTS << log2), np.int32((RESULTS * together) >> log2)
    across = np.int32((columns + tile_columns - 1) >> (log2 + RESULTS_LOG2))
    line = divide(tile, across)
    first_row = np.int32(line * tile_rows)
    first_column = np.int32((tile - line * across) * tile_columns)
    # The digits of an index: outer, middle (of `middle_size`), inner (of `inner_size`); taps are
    # r,s,c, positions n,p,q.
    if of_filters:
        row_middle, row_inner, middle_size, inner_size = S, C, P, Q
        loader, step = thread & (LOADERS - 1), thread >> LOADERS_LOG2
    else:
        row_middle, row_inner, middle_size, inner_size = P, Q, S, C
        loader, step = thread >> DEPTH_LOG2, thread & (DEPTH - 1)

    for part in range((LONGEST + THREADS - 1) // THREADS):
        row = thread + part * THREADS
        if row < LONGEST:
            outer, middle, inner = digits(first_row + row, row_middle, row_inner)
            h, v, start = _image_place(of_filters, outer, middle, inner, image)
            place = np.int64(first_row + row)
            if transposed:
                out_h, out_v = middle * out.step_h + out.first_h, inner * out.step_v + out.first_v
                place = (outer * out.H + out_h) * out.W + out_v
            start += (h * W + v) * C
            place = out.start + place * columns
            if transposed and (out_h >= out.H or out_v >= out.W):
                place = np.int64(-1)
            if row >= tile_rows or first_row + row >= rows:
                h, place = np.int32(_ROW_PAST_END), np.int64(-1)
            elif of_filters and first_row + row >= task.bias_row:
                h = np.int32(_BIAS_ROW)
            row_h[row], row_v[row], row_start[row], row_out[row] = h, v, image.start + start, place
    more_outer, more_middle, more_inner = digits(DEPTH, middle_size, inner_size)
    if thread == 0:
        shape[1], shape[2] = first_column, more_outer
    for i in range(RESULTS):
        for j in range(RESULTS):
            sums[i, j] = _ZERO

    factor_loader, factor_step = (
        (loader, step) if transposed else (thread & (LOADERS - 1), thread >> LOADERS_LOG2)
    )
    # The digits of this thread's own k, and of DEPTH, which is added in every iteration; ``beyond``
    # is k − end.
    beyond, factor_k = np.int32(begin + step - end), np.int32(begin + factor_step)
    outer, middle, inner = digits(begin + step, middle_size, inner_size)
    down = np.int32(((thread >> log2) & ((together >> log2) - 1)) * RESULTS)
    right = np.int32((thread & ((1 << log2) - 1)) * RESULTS)
    steps = np.int32(DEPTH >> deep)
    first_step = np.int32((thread >> (THREADS_LOG2 - deep)) * steps * LEADING)
    loader_column = np.int32(first_column + factor_loader)
    iterations = np.int32((end - begin + DEPTH - 1) >> DEPTH_LOG2)
    # The barriers of the loop also part the rows' places from their readers.
    for iteration in range(np.int32(iterations + 1)):
        buffer = (iteration & 1) * BUFFER
        if iteration > 0:
            to_factor = buffer + factor_step * LEADING
            store_shared(tiles, to_factor, factor_loader, tile_columns, next_factor)
            store_shared(tiles, buffer + step * LEADING + tile_columns, loader, tile_rows, next_x)
        cuda.syncthreads()
        if iteration < iterations:  # on their way while the numbers before them are multiplied
            h, v, start = _image_place(not of_filters, outer, middle, inner, image)
            start += (h * W + v) * C
            valid = beyond < 0
            for j in range(LOADS):
                if j * LOADERS < tile_rows:
                    row = np.uint64(loader) + np.uint64(j * LOADERS)
                    next_x[j] = _read(of_filters, image, places, row, valid, (h, v, start))
            if transposed:
                start, stride = np.int32(outer * factor.down + middle * factor.right + inner), C
            else:
                start, stride = factor_k * columns, np.int32(1)
                if not of_filters:  # there, a thread loads both factors of one k
                    valid = factor_k < end
            for j in range(LOADS):
                if j * LOADERS < tile_columns:
                    column = np.int32(loader_column + j * LOADERS)
                    inside = valid and column < columns
                    place = start + column * stride
                    if transposed:
                        place = np.int64(np.int32(place))  # weights are fewer than 2³¹
                    value = factor.array[np.uint64(factor.start + (place if inside else 0))]
                    next_factor[j] = value if inside else _ZERO
            beyond, factor_k = np.int32(beyond + DEPTH), np.int32(factor_k + DEPTH)
            inner, middle = np.int32(inner + more_inner), np.int32(middle + more_middle)
            outer = np.int32(outer + shape[2])
            if inner >= inner_size:
                inner, middle = np.int32(inner - inner_size), np.int32(middle + 1)
            if middle >= middle_size:
                middle, outer = np.int32(middle - middle_size), np.int32(outer + 1)
        if iteration > 0:
            multiply(
                tiles,
                buffer + first_step + tile_columns + down,
                buffer + first_step + right,
                sums,
                steps,
            )

    having = reduce_split_k(tiles, sums, steps)
    # Read only now: there are few registers.
    bias = op.bias if out.with_bias else -1
    adds = out.accumulate and (not transposed or op.accumulate != 0)
    for i in range(RESULTS):
        start = row_out[np.uint32(down + i)]
        if start >= 0 and thread < having:
            for j in range(RESULTS):
                column = np.int32(shape[1] + right + j)
                if column < columns:
                    value = sums[i, j]
                    if bias >= 0:
                        value += factor.array[np.uint64(bias + column)]
                    if adds:
                        value += out.array[np.uint64(start + column)]
                    out.array[np.uint64(start + column)] = value


@device
def _read(of_filters, image, places, row, valid, place):
    """The image at the place of a row and that of a k together: 0 outside, 1 for the bias."""
    row_h, row_v, row_start = places
    row_height, start = row_h[row], place[2]
    h = np.int32(row_height + place[0])
    v = np.int32(row_v[row] + place[1])
    inside = valid and h >= 0 and v >= 0 and h < image.H and v < image.W
    # Read without a branch, so that all reads are on their way at once.
    value = image.array[np.uint64(row_start[row] + start if inside else 0)]
    outside = np.float32(1) if of_filters and row_height == _BIAS_ROW else _ZERO
    return value if inside else outside
