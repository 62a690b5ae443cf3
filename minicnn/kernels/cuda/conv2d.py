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

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.launches import Launch
from minicnn.kernels.cuda.tile import (
    BUFFER,
    BUFFERS,
    DEPTH,
    DEPTH_LOG2,
    LANES,
    LANES_LOG2,
    LEADING,
    LOADS,
    LONGEST,
    RESULTS,
    RESULTS_LOG2,
    THREADS,
    THREADS_LOG2,
    device,
    divide,
    keep,
    multiply,
    reduce_split_k,
    shape_of,
    splits_of,
    tiles_of,
)
from minicnn.kernels.cuda.vector import add4, load4, store4

_ZERO = np.float32(0)
_NOWHERE = (0, 0, 0, 0, 1, 1)  # what only dx asks for
_OUTSIDE, _ONE = -(1 << 30), -(1 << 29)  # heights of rows beyond the product, and of the bias's

_shape_of = device(shape_of)
_tiles_of = device(tiles_of)
_splits_of = device(splits_of)


@device
def _image_place(of_tap, outer, middle, inner, image_size, scale, offset, tap_step):
    """(h, v, start) of the tap (r,s,c) or the position (n,p,q): what it adds to the place that is
    read."""
    if of_tap:
        return np.int32(outer * tap_step[0]), np.int32(middle * tap_step[1]), np.int64(inner)
    return (
        np.int32(middle * scale[0] + offset[0]),
        np.int32(inner * scale[1] + offset[1]),
        outer * image_size,
    )


@device
def _digits(index, middle_size, inner_size):
    """outer, middle, inner of index = (outer · middle_size + middle) · inner_size + inner, below
    2³¹."""
    lines = divide(index, inner_size)
    outer = divide(lines, middle_size)
    return outer, np.int32(lines - outer * middle_size), np.int32(index - lines * inner_size)


@device
def _product(
    of_filters,
    transposed,
    x,
    x0,
    shape,
    other,
    other0,
    apart,
    plan,
    op,
    finished,
    adds,
    out,
    out0,
    spread,
    counts,
    scale,
    offset,
    tap_step,
    rows,
    taps,
    columns,
    begin,
    end,
    form,
    tile,
):
    """One tile of out[row, column] = Σ_{begin ≤ k < end} x · other.

    ``shape`` is (H, W, C) of the image that is read, ``counts`` (P, Q, S) of the positions and a
    filter's columns; scale, offset and tap_step are (height, width). ``of_filters`` and
    ``transposed`` say which product it is: constants where the function is inlined. Where it is
    transposed, ``apart`` is how many numbers taps are apart in the filter, down and right, and
    ``spread`` says where positions are in ``out``: (height, width, first h, first v, step of h, of
    v).
    """
    H, W, C = shape
    P, Q, S = counts
    tiles = cuda.shared.array(BUFFERS, np.float32)
    row_h = cuda.shared.array(LONGEST, np.int32)
    row_v = cuda.shared.array(LONGEST, np.int32)
    row_start = cuda.shared.array(LONGEST, np.int64)
    row_out = cuda.shared.array(LONGEST, np.int64)
    sums = cuda.local.array((RESULTS, RESULTS), np.float32)
    next_x = cuda.local.array(LOADS, np.float32)
    next_other = cuda.local.array(LOADS, np.float32)
    zero = np.float32(0)
    rows, begin, end, tile = np.int32(rows), np.int32(begin), np.int32(end), np.int32(tile)
    thread = np.int32(cuda.threadIdx.x)
    log2, deep = np.int32(form & 7), np.int32(form >> 3)
    together = np.int32(THREADS >> deep)  # threads with results of their own
    tile_columns, tile_rows = np.int32(RESULTS << log2), np.int32((RESULTS * together) >> log2)
    across = np.int32((columns + tile_columns - 1) >> (log2 + RESULTS_LOG2))
    line = divide(tile, across)
    first_row, first_column = (
        np.int32(line * tile_rows),
        np.int32((tile - line * across) * tile_columns),
    )
    image_size = H * W * C
    # The digits of an index: outer, middle (of `middle_size`), inner (of `inner_size`); taps are
    # r,s,c, positions n,p,q.
    if of_filters:
        row_middle, row_inner, middle_size, inner_size = S, C, P, Q
        lane, step = thread & (LANES - 1), thread >> LANES_LOG2
    else:
        row_middle, row_inner, middle_size, inner_size = P, Q, S, C
        lane, step = thread >> DEPTH_LOG2, thread & (DEPTH - 1)

    cuda.syncthreads()  # the tile before this one is stored
    for slice_of_k in range((LONGEST + THREADS - 1) // THREADS):
        row = thread + slice_of_k * THREADS
        if row < LONGEST:
            outer, middle, inner = _digits(first_row + row, row_middle, row_inner)
            h, v, start = _image_place(
                of_filters, outer, middle, inner, image_size, scale, offset, tap_step
            )
            place = np.int64(first_row + row)
            if transposed:
                out_h, out_v = middle * spread[4] + spread[2], inner * spread[5] + spread[3]
                place = (outer * spread[0] + out_h) * spread[1] + out_v
            start += (h * W + v) * C
            place = out0 + place * columns
            if transposed and (out_h >= spread[0] or out_v >= spread[1]):
                place = np.int64(-1)
            if row >= tile_rows or first_row + row >= rows:
                h, place = np.int32(_OUTSIDE), np.int64(-1)
            elif of_filters and first_row + row >= taps:
                h = np.int32(_ONE)
            row_h[row], row_v[row], row_start[row], row_out[row] = h, v, x0 + start, place
    for i in range(RESULTS):
        for j in range(RESULTS):
            sums[i, j] = zero

    other_lane, other_step = (
        (lane, step) if transposed else (thread & (LANES - 1), thread >> LANES_LOG2)
    )
    # The digits of this thread's own k, and of DEPTH, which is added in each iteration; ``beyond`` is k
    # − end.
    beyond, other_k = np.int32(begin + step - end), np.int32(begin + other_step)
    outer, middle, inner = _digits(begin + step, middle_size, inner_size)
    more_outer, more_middle, more_inner = _digits(DEPTH, middle_size, inner_size)
    down = np.int32(((thread >> log2) & ((together >> log2) - 1)) * RESULTS)
    right = np.int32((thread & ((1 << log2) - 1)) * RESULTS)
    steps = np.int32(DEPTH >> deep)
    first_step = np.int32((thread >> (THREADS_LOG2 - deep)) * steps * LEADING)
    own_column = np.int32(first_column + other_lane)
    iterations = np.int32((end - begin + DEPTH - 1) >> DEPTH_LOG2)
    for iteration in range(
        np.int32(iterations + 1)
    ):  # its barriers also part the rows' places from their readers
        buffer = (iteration & 1) * BUFFER
        if iteration > 0:
            keep(tiles, buffer + other_step * LEADING, other_lane, tile_columns, next_other)
            keep(tiles, buffer + step * LEADING + tile_columns, lane, tile_rows, next_x)
        cuda.syncthreads()
        if iteration < iterations:  # on their way while the numbers before them are multiplied
            h, v, start = _image_place(
                not of_filters, outer, middle, inner, image_size, scale, offset, tap_step
            )
            start += (h * W + v) * C
            there = beyond < 0
            for j in range(LOADS):
                if j * LANES < tile_rows:
                    next_x[j] = _read(
                        of_filters,
                        x,
                        shape,
                        row_h,
                        row_v,
                        row_start,
                        np.uint64(lane) + np.uint64(j * LANES),
                        there,
                        h,
                        v,
                        start,
                    )
            if transposed:
                start, stride = np.int32(outer * apart[0] + middle * apart[1] + inner), C
            else:
                start, stride, there = other_k * columns, np.int32(1), other_k < end
            for j in range(LOADS):
                if j * LANES < tile_columns:
                    column = np.int32(own_column + j * LANES)
                    inside = there and column < columns
                    place = start + column * stride
                    if transposed:
                        place = np.int64(np.int32(place))  # weights are fewer than 2³¹
                    value = other[np.uint64(other0 + (place if inside else 0))]
                    next_other[j] = value if inside else zero
            beyond, other_k = np.int32(beyond + DEPTH), np.int32(other_k + DEPTH)
            inner, middle, outer = (
                np.int32(inner + more_inner),
                np.int32(middle + more_middle),
                np.int32(outer + more_outer),
            )
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
    bias0 = plan[op, at.BIAS] if finished else -1  # read only now: there are few registers
    for i in range(RESULTS):
        start = row_out[np.uint32(down + i)]
        if start >= 0 and thread < having:
            for j in range(RESULTS):
                column = np.int32(first_column + right + j)
                if column < columns:
                    value = sums[i, j]
                    if bias0 >= 0:
                        value += other[np.uint64(bias0 + column)]
                    if adds:
                        value += out[np.uint64(start + column)]
                    out[np.uint64(start + column)] = value


@device
def _read(of_filters, x, shape, row_h, row_v, row_start, row, there, h, v, start):
    """x at the place of ``row`` and of a k together: 0 outside the image, 1 for the bias."""
    H, W, _ = shape
    row_height = row_h[row]
    h = np.int32(row_height + h)
    v = np.int32(row_v[row] + v)
    inside = there and h >= 0 and v >= 0 and h < H and v < W
    # Read without a branch, so that all reads are on their way at once.
    value = x[np.uint64(row_start[row] + start if inside else 0)]
    outside = np.float32(1) if of_filters and row_height == _ONE else np.float32(0)
    return value if inside else outside


@device
def _geometry(plan, op):
    """H, W, C, P, Q, K, R, S, and (height, width) of stride, padding and dilation, in 32 bits."""
    return (
        np.int32(plan[op, at.INPUT_HEIGHT]),
        np.int32(plan[op, at.INPUT_WIDTH]),
        np.int32(plan[op, at.INPUT_CHANNELS]),
        np.int32(plan[op, at.OUTPUT_HEIGHT]),
        np.int32(plan[op, at.OUTPUT_WIDTH]),
        np.int32(plan[op, at.OUTPUT_CHANNELS]),
        np.int32(plan[op, at.KERNEL_HEIGHT]),
        np.int32(plan[op, at.KERNEL_WIDTH]),
        (np.int32(plan[op, at.STRIDE_HEIGHT]), np.int32(plan[op, at.STRIDE_WIDTH])),
        (np.int32(plan[op, at.PADDING_TOP]), np.int32(plan[op, at.PADDING_LEFT])),
        (np.int32(plan[op, at.DILATION_HEIGHT]), np.int32(plan[op, at.DILATION_WIDTH])),
    )


@device
def _tiling(plan, op, n, is_backward):
    """(shape, tiles, tasks) of y, or of dx: a task is a tile, or the share of one reduction where
    that is split."""
    H, W, C, P, Q, K, R, S, stride, _, _ = _geometry(plan, op)
    rows, columns, taps, products = n * P * Q, K, R * S * C, 1
    if is_backward:
        rows = n * divide(H + stride[0] - 1, stride[0]) * divide(W + stride[1] - 1, stride[1])
        columns, taps, products = C, R * S * K, stride[0] * stride[1]
    form = np.int32(_shape_of(rows, columns))
    tiles = np.int32(_tiles_of(rows, columns, form) * products)
    return form, tiles, np.int32(tiles * _splits_of(tiles, taps))


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y = b + x * w. Several blocks share a long reduction where there are few tiles: `add_forward`
    is next."""
    form, tiles, tasks = _tiling(plan, op, n, False)
    task = np.int32(cuda.blockIdx.x)
    while task < tasks:
        H, W, C, P, Q, K, R, S, stride, padding, dilation = _geometry(plan, op)
        rows, taps, whole = n * P * Q, R * S * C, tasks == tiles
        splits, split = (
            (np.int32(1), np.int32(0)) if whole else (divide(tasks, tiles), divide(task, tiles))
        )
        y0 = plan[op, at.Y] if whole else plan[op, at.SUMS] + split * rows * K
        _product(
            False,
            False,
            work,
            plan[op, at.X],
            (H, W, C),
            params,
            plan[op, at.WEIGHT],
            _NOWHERE,
            plan,
            op,
            whole,
            False,
            work,
            y0,
            _NOWHERE,
            (P, Q, S),
            stride,
            (-padding[0], -padding[1]),
            dilation,
            rows,
            taps,
            K,
            taps * split // splits,
            taps * (split + 1) // splits,
            form,
            task - split * tiles,
        )
        task = np.int32(task + cuda.gridDim.x)


@device
def _reaching(offset, kernel_size, dilation, stride):
    """The taps that read positions h, h + padding = ``offset`` by the stride: (first, step, count),
    and (start, step) of what they read: tap r reads output (h + padding − r·dilation) / stride
    where that is a whole number."""
    step, first = np.int32(1), np.int32(0)
    while divide(step * dilation, stride) * stride != step * dilation:
        step = np.int32(step + 1)
    ahead = dilation * (stride - 1)  # −dilation, plus a multiple of the stride
    while (
        first < step and divide(offset + first * ahead, stride) * stride != offset + first * ahead
    ):
        first = np.int32(first + 1)
    count = (
        0 if first >= step or first >= kernel_size else divide(kernel_size - 1 - first, step) + 1
    )
    start = divide(offset + first * ahead, stride) - first * dilation
    return first, step, np.int32(count), np.int32(start), np.int32(-divide(step * dilation, stride))


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx from dy: a product for each remainder of h and v by the stride; after shared reductions
    `add_backward` is next."""
    form, tiles, tasks = _tiling(plan, op, n, True)
    task = np.int32(cuda.blockIdx.x)
    while task < tasks:
        H, W, C, P, Q, K, R, S, stride, padding, dilation = _geometry(plan, op)
        height, width = divide(H + stride[0] - 1, stride[0]), divide(W + stride[1] - 1, stride[1])
        whole = tasks == tiles
        splits, split = (
            (np.int32(1), np.int32(0)) if whole else (divide(tasks, tiles), divide(task, tiles))
        )
        tile, tiles_each = np.int32(task - split * tiles), divide(tiles, stride[0] * stride[1])
        remainder = divide(tile, tiles_each)
        h0 = divide(remainder, stride[1])
        v0 = np.int32(remainder - h0 * stride[1])
        r, r_step, r_count, p_start, p_step = _reaching(h0 + padding[0], R, dilation[0], stride[0])
        s, s_step, s_count, q_start, q_step = _reaching(v0 + padding[1], S, dilation[1], stride[1])
        taps, apart = (
            r_count * s_count * K,
            (np.int32(r_step * S * (K * C)), np.int32(s_step * (K * C))),
        )
        dx0 = plan[op, at.DX] if whole else plan[op, at.SUMS] + split * (n * H * W) * C
        counts = height, width, s_count if s_count > 0 else np.int32(1)
        _product(
            False,
            True,
            work,
            plan[op, at.DY],
            (P, Q, K),
            params,
            plan[op, at.WEIGHT] + (r * S + s) * (K * C),
            apart,
            plan,
            op,
            False,
            whole and plan[op, at.ACCUMULATE] != 0,
            work,
            dx0,
            (H, W, h0, v0, stride[0], stride[1]),
            counts,
            (1, 1),
            (p_start, q_start),
            (p_step, q_step),
            n * height * width,
            taps,
            C,
            taps * split // splits,
            taps * (split + 1) // splits,
            form,
            tile - remainder * tiles_each,
        )
        task = np.int32(task + cuda.gridDim.x)


@device
def _add(plan, params, work, op, n, is_backward):
    """y, or dx, from the sums that the blocks which shared a reduction left, added in their
    order."""
    H, W, C, P, Q, K, _, _, _, _, _ = _geometry(plan, op)
    rows, columns, out0, bias, adds = n * P * Q, K, plan[op, at.Y], plan[op, at.BIAS], False
    if is_backward:
        rows, columns, out0, bias, adds = (
            n * H * W,
            C,
            plan[op, at.DX],
            np.int64(-1),
            plan[op, at.ACCUMULATE] != 0,
        )
    _, tiles, tasks = _tiling(plan, op, n, is_backward)
    splits, count = divide(tasks, tiles), rows * columns
    for i in range(4 * cuda.grid(1), count, 4 * cuda.gridsize(1)):
        total = load4(work, out0 + i, out0 + count) if adds else (_ZERO, _ZERO, _ZERO, _ZERO)
        for split in range(splits):
            first = plan[op, at.SUMS] + split * count
            total = add4(total, load4(work, first + i, first + count))
        a, b, c, d = total
        store4(
            work,
            out0 + i,
            out0 + count,
            (
                _with_bias(a, i, params, bias, columns),
                _with_bias(b, i + 1, params, bias, columns),
                _with_bias(c, i + 2, params, bias, columns),
                _with_bias(d, i + 3, params, bias, columns),
            ),
        )


def add_forward(plan, floats, params, work, op, n, key, first_sample):
    """y from the sums of `forward`."""
    _add(plan, params, work, op, n, False)


def add_backward(plan, floats, params, work, op, n, key, first_sample):
    """dx from the sums of `backward`."""
    _add(plan, params, work, op, n, True)


@device
def _with_bias(value, i, params, bias, columns):
    """Number ``i`` of a product with its bias, if any (``bias`` ≥ 0)."""
    if bias >= 0:
        value += params[np.uint64(bias + i - divide(i, columns) * columns)]
    return value


def backward_filter(plan, floats, params, work, op, n, key, first_sample):
    """dw (the last row, if there is a bias, is db) by tiles, each summed over one of ``splits``
    parts of all positions.

    Every part is written, also one without positions; after the first chunk of a batch they are
    added to.
    """
    H, W, C, P, Q, K, R, S, stride, padding, dilation = _geometry(plan, op)
    taps, positions = R * S * C, n * P * Q
    rows = taps + (1 if plan[op, at.BIAS] >= 0 else 0)
    form = np.int32(_shape_of(rows, K))
    tiles = np.int32(_tiles_of(rows, K, form))
    task = np.int32(cuda.blockIdx.x)
    while task < tiles * plan[op, at.SPLITS]:
        split, splits = divide(task, tiles), plan[op, at.SPLITS]
        place = plan[op, at.PARTS] + split * plan[op, at.DISTANCE]
        _product(
            True,
            False,
            work,
            plan[op, at.X],
            (H, W, C),
            work,
            plan[op, at.DY],
            _NOWHERE,
            plan,
            op,
            False,
            first_sample > 0,
            work,
            place,
            _NOWHERE,
            (P, Q, S),
            stride,
            (-padding[0], -padding[1]),
            dilation,
            rows,
            taps,
            K,
            positions * split // splits,
            positions * (split + 1) // splits,
            form,
            task - split * tiles,
        )
        task = np.int32(task + cuda.gridDim.x)


def _sizes(record, n, is_backward):
    """(tiles, splits) of y, or of dx, which is a product for each remainder by the stride."""
    read, made = ("output", "input") if is_backward else ("input", "output")
    down, right = (
        int(record[f"stride_{side}"]) if is_backward else 1 for side in ("height", "width")
    )
    rows = n * -(-int(record[f"{made}_height"]) // down) * -(-int(record[f"{made}_width"]) // right)
    columns = int(record[f"{made}_channels"])
    tiles = tiles_of(rows, columns, shape_of(rows, columns)) * down * right
    return tiles, splits_of(
        tiles, int(record["kernel_height"] * record["kernel_width"] * record[f"{read}_channels"])
    )


def _blocks_of_data(record, n):
    return math.prod(_sizes(record, n, True)) if record["dx"] >= 0 else 0


def _blocks_of_filters(record, n):
    taps = int(record["kernel_height"] * record["kernel_width"] * record["input_channels"])
    rows, columns = taps + int(record["bias"] >= 0), int(record["output_channels"])
    return tiles_of(rows, columns, shape_of(rows, columns)) * int(record["splits"])


def _blocks_of_sums(record, n, is_backward):
    """Of `add_forward` or `add_backward`: none where no reduction is shared."""
    shared = (not is_backward or record["dx"] >= 0) and _sizes(record, n, is_backward)[1] > 1
    return (
        -(-n * int(record["input_size" if is_backward else "output_size"]) // (4 * THREADS))
        if shared
        else 0
    )


LAUNCHES = {
    "forward": (
        Launch(forward, lambda record, n: math.prod(_sizes(record, n, False))),
        Launch(add_forward, lambda record, n: _blocks_of_sums(record, n, False)),
    ),
    "backward": (
        Launch(backward_filter, _blocks_of_filters),
        Launch(backward, _blocks_of_data),
        Launch(add_backward, lambda record, n: _blocks_of_sums(record, n, True)),
    ),
}
for _kernel in (forward, backward, backward_filter):
    _kernel.blocks_together = 3  # on a multiprocessor: 80 registers a thread are enough
