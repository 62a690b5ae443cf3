"""Convolution of NHWC images with HWIO filters, forward and backward; the formulas are in
`minicnn.kernels.cpu.conv2d`.

All three passes are one implicit matrix product, Σ_k x[place(row) + place(k)] · other[k, column],
where the place in the image that a position and a tap read together is the sum of both:

                 rows                 reduction k        other                 columns
    forward      positions n,p,q      taps r,s,c         w[r,s,c,k]            filters k
    dx           positions n,h,v      taps r,s,k of dy   w[r,s,c,k] transposed  channels c
    dw           taps r,s,c           positions n,p,q    dy[n,p,q,k]           filters k

A position is at h = p·scale + offset, a tap at r·step. The bias is a tap that reads 1. Nothing
outside the image is read, and no column matrix is ever stored. With a stride, dx is one product for
each remainder of h and v by it: the taps of such a product are every so many of all, and no others
reach its positions.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from minicnn.kernels.cuda.axis import height, width
from minicnn.kernels.cuda.launches import Launch
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
    shape_of,
    splits_of,
    store_shared,
    tiles_of,
)
from minicnn.kernels.cuda.vector import add4, load4, store4

_ZERO = np.float32(0)
# Heights of rows past the end of the product, and of the bias's.
_ROW_PAST_END, _BIAS_ROW = -(1 << 30), -(1 << 29)

_shape_of = device(shape_of)
_tiles_of = device(tiles_of)
_splits_of = device(splits_of)


class _Image(NamedTuple):
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


class _Factor(NamedTuple):
    """The other factor [k, column]; transposed, taps are ``down`` and ``right`` apart in it."""

    array: Any
    start: int
    down: int
    right: int


class _Output(NamedTuple):
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


class _Task(NamedTuple):
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
def _product(of_filters, transposed, op, image, factor, out, task):
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


@device
def _geometry(op):
    """Both axes, channels and filters, in 32 bits."""
    return height(op), width(op), np.int32(op.input_channels), np.int32(op.output_channels)


@device
def _input_image(op, work):
    """x, as the forward pass and the filters' gradient read it."""
    rows, columns, C, _ = _geometry(op)
    return _Image(
        work,
        op.x,
        rows.size,
        columns.size,
        C,
        rows.outputs,
        columns.outputs,
        columns.taps,
        (rows.stride, columns.stride),
        (-rows.padding, -columns.padding),
        (rows.dilation, columns.dilation),
    )


@device
def _tiling(op, n, is_backward):
    """(shape, tiles, tasks) of y, or of dx: a task is a tile, or one part of its reduction where
    that is split."""
    rows, columns, C, K = _geometry(op)
    m, outputs, depth, products = n * rows.outputs * columns.outputs, K, C, 1
    if is_backward:
        down, right = rows.stride, columns.stride
        m = n * divide(rows.size + down - 1, down) * divide(columns.size + right - 1, right)
        outputs, depth, products = C, K, down * right
    form = np.int32(_shape_of(m, outputs))
    tiles = np.int32(_tiles_of(m, outputs, form) * products)
    return form, tiles, np.int32(tiles * _splits_of(tiles, rows.taps * columns.taps * depth))


def forward(plan, params, work, index, n, key, first_sample):
    """y = b + x * w. Several blocks share a long reduction where there are few tiles: `add_forward`
    is next."""
    op = plan[index]
    form, tiles, tasks = _tiling(op, n, False)
    task = np.int32(cuda.blockIdx.x)
    while task < tasks:
        rows, columns, C, K = _geometry(op)
        m, taps, whole = (
            n * rows.outputs * columns.outputs,
            rows.taps * columns.taps * C,
            tasks == tiles,
        )
        splits, split = np.int32(1), np.int32(0)
        if not whole:
            splits, split = divide(tasks, tiles), divide(task, tiles)
        y = op.y if whole else op.sums + split * m * K
        begin, end = taps * split // splits, taps * (split + 1) // splits
        _product(
            False,
            False,
            op,
            _input_image(op, work),
            _Factor(params, op.weight, 0, 0),
            _Output(work, y, False, whole, 0, 0, 0, 0, 1, 1),
            _Task(form, task - split * tiles, m, K, 0, begin, end),
        )
        task = np.int32(task + cuda.gridDim.x)


@device
def _reaching(axis, position):
    """The taps that read ``position``, and every stride-th after it: (first, step, count); and
    (start, step) of what they read: tap r reads output (h + padding − r·dilation) / stride where
    that is an integer."""
    step, first, stride, dilation = np.int32(1), np.int32(0), axis.stride, axis.dilation
    while divide(step * dilation, stride) * stride != step * dilation:
        step = np.int32(step + 1)
    offset, ahead = position + axis.padding, dilation * (stride - 1)  # −dilation, modulo the stride
    while (
        first < step and divide(offset + first * ahead, stride) * stride != offset + first * ahead
    ):
        first = np.int32(first + 1)
    count = np.int32(0)
    if first < step and first < axis.taps:
        count = np.int32(divide(axis.taps - 1 - first, step) + 1)
    start = np.int32(divide(offset + first * ahead, stride) - first * dilation)
    return first, step, count, start, np.int32(-divide(step * dilation, stride))


def backward(plan, params, work, index, n, key, first_sample):
    """dx from dy: a product for each remainder of h and v by the stride; after shared reductions
    `add_backward` is next."""
    op = plan[index]
    form, tiles, tasks = _tiling(op, n, True)
    task = np.int32(cuda.blockIdx.x)
    while task < tasks:
        rows, columns, C, K = _geometry(op)
        H, W, down, right = rows.size, columns.size, rows.stride, columns.stride
        whole, splits, split = tasks == tiles, np.int32(1), np.int32(0)
        if not whole:
            splits, split = divide(tasks, tiles), divide(task, tiles)
        tile, tiles_each = np.int32(task - split * tiles), divide(tiles, down * right)
        remainder = divide(tile, tiles_each)
        h0 = divide(remainder, right)
        v0 = np.int32(remainder - h0 * right)
        r, r_step, r_count, p_start, p_step = _reaching(rows, h0)
        s, s_step, s_count, q_start, q_step = _reaching(columns, v0)
        P, Q = divide(H + down - 1, down), divide(W + right - 1, right)
        taps = np.int32(r_count * s_count * K)
        dx = op.dx if whole else op.sums + split * (n * H * W) * C
        begin, end = taps * split // splits, taps * (split + 1) // splits
        one = np.int32(1)
        _product(
            False,
            True,
            op,
            _Image(
                work,
                op.dy,
                rows.outputs,
                columns.outputs,
                K,
                P,
                Q,
                s_count if s_count > 0 else one,
                (one, one),
                (p_start, q_start),
                (p_step, q_step),
            ),
            _Factor(
                params,
                op.weight + (r * columns.taps + s) * (K * C),
                np.int32(r_step * columns.taps * (K * C)),
                np.int32(s_step * (K * C)),
            ),
            _Output(work, dx, whole, False, H, W, h0, v0, down, right),
            _Task(form, tile - remainder * tiles_each, n * P * Q, C, 0, begin, end),
        )
        task = np.int32(task + cuda.gridDim.x)


@device
def _add(op, params, work, n, is_backward):
    """y, or dx, from the sums that the blocks which shared a reduction left, added in their
    order."""
    rows, axis, C, K = _geometry(op)
    m, columns, out, bias, adds = n * rows.outputs * axis.outputs, K, op.y, op.bias, False
    if is_backward:
        m, columns, out, bias = n * rows.size * axis.size, C, op.dx, np.int64(-1)
        adds = op.accumulate != 0
    _, tiles, tasks = _tiling(op, n, is_backward)
    splits, count = divide(tasks, tiles), m * columns
    for i in range(4 * cuda.grid(1), count, 4 * cuda.gridsize(1)):
        total = load4(work, out + i, out + count) if adds else (_ZERO, _ZERO, _ZERO, _ZERO)
        for split in range(splits):
            first = op.sums + split * count
            total = add4(total, load4(work, first + i, first + count))
        a, b, c, d = total
        total = (
            _with_bias(a, i, params, bias, columns),
            _with_bias(b, i + 1, params, bias, columns),
            _with_bias(c, i + 2, params, bias, columns),
            _with_bias(d, i + 3, params, bias, columns),
        )
        store4(work, out + i, out + count, total)


def add_forward(plan, params, work, index, n, key, first_sample):
    """y from the sums of `forward`."""
    _add(plan[index], params, work, n, False)


def add_backward(plan, params, work, index, n, key, first_sample):
    """dx from the sums of `backward`."""
    _add(plan[index], params, work, n, True)


@device
def _with_bias(value, i, params, bias, columns):
    """Number ``i`` of a product with its bias, if any (``bias`` ≥ 0)."""
    if bias >= 0:
        value += params[np.uint64(bias + i - divide(i, columns) * columns)]
    return value


def backward_filter(plan, params, work, index, n, key, first_sample):
    """dw (the last row, if there is a bias, is db) by tiles, each summed over one of ``splits``
    parts of all positions.

    Every part is written, also one without positions; after the first chunk of a batch they are
    added to.
    """
    op = plan[index]
    image, K = _input_image(op, work), np.int32(op.output_channels)
    positions = np.int32(n * image.P * image.Q)
    taps = np.int32(np.int32(op.kernel_height) * image.S * image.C)
    m = np.int32(taps + 1) if op.bias >= 0 else taps
    form = np.int32(_shape_of(m, K))
    tiles = np.int32(_tiles_of(m, K, form))
    task = np.int32(cuda.blockIdx.x)
    while task < tiles * op.splits:
        split, splits = divide(task, tiles), op.splits
        place = op.parts + split * op.distance
        begin, end = positions * split // splits, positions * (split + 1) // splits
        _product(
            True,
            False,
            op,
            image,
            _Factor(work, op.dy, 0, 0),
            _Output(work, place, first_sample > 0, False, 0, 0, 0, 0, 1, 1),
            _Task(form, task - split * tiles, m, K, taps, begin, end),
        )
        task = np.int32(task + cuda.gridDim.x)


def _tiles(rows, columns):
    return tiles_of(rows, columns, shape_of(rows, columns))


def _sizes(record, n, is_backward):
    """(tiles, splits) of y, or of dx, which is a product for each remainder by the stride."""
    depth = record.input_channels
    if is_backward:
        down, right, depth = record.stride_height, record.stride_width, record.output_channels
        rows = n * -(-record.input_height // down) * -(-record.input_width // right)
        tiles = _tiles(rows, record.input_channels) * down * right
    else:
        rows = n * record.output_height * record.output_width
        tiles = _tiles(rows, record.output_channels)
    return tiles, splits_of(tiles, record.kernel_height * record.kernel_width * depth)


def _tasks(record, n, is_backward):
    return math.prod(_sizes(record, n, is_backward))


def _blocks_of_filters(record, n):
    taps = record.kernel_height * record.kernel_width * record.input_channels
    return _tiles(taps + (record.bias >= 0), record.output_channels) * record.splits


def _blocks_of_sums(record, n, is_backward):
    """Of `add_forward` or `add_backward`: none where no reduction is shared."""
    size = record.input_size if is_backward else record.output_size
    return -(-n * size // (4 * THREADS)) * (_sizes(record, n, is_backward)[1] > 1)


LAUNCHES = {
    "forward": (
        Launch(forward, lambda record, n: _tasks(record, n, False)),
        Launch(add_forward, lambda record, n: _blocks_of_sums(record, n, False)),
    ),
    "backward": (
        Launch(backward_filter, _blocks_of_filters),
        Launch(backward, lambda record, n: _tasks(record, n, True) * (record.dx >= 0)),
        Launch(add_backward, lambda record, n: _blocks_of_sums(record, n, True) * (record.dx >= 0)),
    ),
}
for _kernel in (forward, backward, backward_filter):
    _kernel.blocks_together = 3  # on a multiprocessor: 80 registers per thread are enough
