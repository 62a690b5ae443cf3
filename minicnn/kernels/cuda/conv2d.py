"""Convolution of NHWC images with HWIO filters, forward and backward; the formulas are in `minicnn.kernels.cpu.conv2d`.

All three passes are one implicit matrix product, Σ_k x[place(row) + place(k)] · other[k, column], where the place in the
image that a position and a tap read together is the sum of both:

                 rows                 reduction k        other                 columns
    forward      positions n,p,q      taps r,s,c         w[r,s,c,k]            filters k
    dx           positions n,h,v      taps r,s,k of dy   w[r,s,c,k] turned     channels c
    dw           taps r,s,c           positions n,p,q    dy[n,p,q,k]           filters k

A position is at h = p·scale + offset, a tap at r·step; dx reads dy where their sum divides by the stride. The bias is a tap
that reads 1. Nothing outside the image is read, and no column matrix is ever stored.
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
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
    device,
    divide,
    keep,
    multiply,
    shape_of,
    splits_of,
    tiles_of,
)
from minicnn.kernels.cuda.vector import load4, store4

_ZERO = np.float32(0)
_OUTSIDE, _ONE = -(1 << 30), -(1 << 29)  # heights of rows beyond the product, and of the bias's

_shape_of = device(shape_of)
_tiles_of = device(tiles_of)
_splits_of = device(splits_of)


@device
def _image_place(of_tap, outer, middle, inner, image_size, scale, offset, tap_step):
    """(h, v, start) of the tap (r,s,c) or the position (n,p,q): what it adds to the place that is read."""
    if of_tap:
        return np.int32(outer * tap_step[0]), np.int32(middle * tap_step[1]), np.int64(inner)
    return np.int32(middle * scale[0] + offset[0]), np.int32(inner * scale[1] + offset[1]), outer * image_size


@device
def _digits(index, middle_size, inner_size):
    """outer, middle, inner of index = (outer · middle_size + middle) · inner_size + inner, below 2³¹."""
    lines = divide(index, inner_size)
    outer = divide(lines, middle_size)
    return outer, np.int32(lines - outer * middle_size), np.int32(index - lines * inner_size)


@device
def _product(of_filters, turned, strided, x, x0, shape, other, other0, bias, bias0, rectified, adds, out, out0,
             counts, scale, offset, tap_step, divisor, rows, taps, columns, begin, end, log2, tile):  # fmt: skip
    """One tile of out[row, column] = Σ_{begin ≤ k < end} x · other.

    ``shape`` is (H, W, C) of the image that is read, ``counts`` (P, Q, S) of the positions and a filter's columns; scale,
    offset, tap_step and divisor are (height, width). ``of_filters``, ``turned`` and ``strided`` say which product it is:
    constants, mostly, where the function is inlined.
    """
    H, W, C = shape
    P, Q, S = counts
    tiles = cuda.shared.array(BUFFERS, np.float32)
    row_h = cuda.shared.array(LONGEST, np.int32)
    row_v = cuda.shared.array(LONGEST, np.int32)
    row_start = cuda.shared.array(LONGEST, np.int64)
    sums = cuda.local.array((RESULTS, RESULTS), np.float32)
    next_x = cuda.local.array(LOADS, np.float32)
    next_other = cuda.local.array(LOADS, np.float32)
    zero = np.float32(0)
    thread = np.int32(cuda.threadIdx.x)
    rows, begin, end, tile = np.int32(rows), np.int32(begin), np.int32(end), np.int32(tile)
    tile_columns, tile_rows = np.int32(RESULTS << log2), np.int32((RESULTS * THREADS) >> log2)
    across = np.int32((columns + tile_columns - 1) >> (log2 + RESULTS_LOG2))
    line = divide(tile, across)
    first_row, first_column = np.int32(line * tile_rows), np.int32((tile - line * across) * tile_columns)
    image_size = H * W * C
    # The digits of an index: outer, middle (of `middle_size`), inner (of `inner_size`); taps are r,s,c, positions n,p,q.
    if of_filters:
        row_middle, row_inner, middle_size, inner_size = S, C, P, Q
        lane, step = thread & (LANES - 1), thread >> LANES_LOG2
    else:
        row_middle, row_inner, middle_size, inner_size = P, Q, S, C
        lane, step = thread >> DEPTH_LOG2, thread & (DEPTH - 1)

    for share in range((LONGEST + THREADS - 1) // THREADS):
        row = thread + share * THREADS
        if row < LONGEST:
            outer, middle, inner = _digits(first_row + row, row_middle, row_inner)
            h, v, start = _image_place(of_filters, outer, middle, inner, image_size, scale, offset, tap_step)
            if row >= tile_rows or first_row + row >= rows:
                h = np.int32(_OUTSIDE)
            elif of_filters and first_row + row >= taps:
                h = np.int32(_ONE)
            elif not strided:
                start += (h * W + v) * C
            row_h[row], row_v[row], row_start[row] = h, v, start
    for i in range(RESULTS):
        for j in range(RESULTS):
            sums[i, j] = zero

    other_lane, other_step = (lane, step) if turned else (thread & (LANES - 1), thread >> LANES_LOG2)
    # The digits of this thread's own k, and of DEPTH, which is added at every turn.
    k, other_k = np.int32(begin + step), np.int32(begin + other_step)
    outer, middle, inner = _digits(k, middle_size, inner_size)
    more_outer, more_middle, more_inner = _digits(DEPTH, middle_size, inner_size)
    down, right = np.int32((thread >> log2) * RESULTS), np.int32((thread & ((1 << log2) - 1)) * RESULTS)
    turns = np.int32((end - begin + DEPTH - 1) >> DEPTH_LOG2)
    for turn in range(np.int32(turns + 1)):  # its barriers also part the rows' places from their readers
        buffer = (turn & 1) * BUFFER
        if turn > 0:
            keep(tiles, buffer + other_step * LEADING, other_lane, tile_columns, next_other)
            keep(tiles, buffer + step * LEADING + tile_columns, lane, tile_rows, next_x)
        cuda.syncthreads()
        if turn < turns:  # on their way while the numbers before them are multiplied
            h, v, start = _image_place(not of_filters, outer, middle, inner, image_size, scale, offset, tap_step)
            if not strided:
                start += (h * W + v) * C
            there = k < end
            for j in range(LOADS):
                if j * LANES < tile_rows:
                    next_x[j] = _read(of_filters, strided, x, x0, shape, row_h, row_v, row_start, lane + j * LANES,
                                      there, h, v, start, divisor)  # fmt: skip
            if turned:
                start, stride = (outer * S + middle) * (columns * C) + inner, C
            else:
                start, stride, there = other_k * columns, np.int32(1), other_k < end
            for j in range(LOADS):
                if j * LANES < tile_columns:
                    column = np.int32(first_column + other_lane + j * LANES)
                    inside = there and column < columns
                    value = other[np.uint64(other0 + (start + column * stride if inside else 0))]
                    next_other[j] = value if inside else zero
            k, other_k = np.int32(k + DEPTH), np.int32(other_k + DEPTH)
            inner, middle, outer = np.int32(inner + more_inner), np.int32(middle + more_middle), np.int32(outer + more_outer)
            if inner >= inner_size:
                inner, middle = np.int32(inner - inner_size), np.int32(middle + 1)
            if middle >= middle_size:
                middle, outer = np.int32(middle - middle_size), np.int32(outer + 1)
        if turn > 0:
            multiply(tiles, buffer + tile_columns + down, buffer + right, sums)

    for i in range(RESULTS):
        row = np.int32(first_row + down + i)
        if row < rows:
            for j in range(RESULTS):
                column = np.int32(first_column + right + j)
                if column < columns:
                    value = sums[i, j]
                    if bias0 >= 0:
                        value += bias[np.uint64(bias0 + column)]
                    if rectified and value < zero:
                        value = zero
                    if adds:
                        value += out[np.uint64(out0 + row * columns + column)]
                    out[np.uint64(out0 + row * columns + column)] = value


@device
def _read(of_filters, strided, x, x0, shape, row_h, row_v, row_start, row, there, h, v, start, divisor):
    """x at the place of ``row`` and of a k together: 0 outside the image, 1 for the bias."""
    H, W, C = shape
    row = np.uint32(row)
    row_height = row_h[row]
    h = np.int32(row_height + h)
    v = np.int32(row_v[row] + v)
    there = there and h >= 0 and v >= 0
    start = row_start[row] + start
    if strided and there:
        p, q = divide(h, divisor[0]), divide(v, divisor[1])
        there = p * divisor[0] == h and q * divisor[1] == v
        h, v = p, q
        start += (h * W + v) * C
    inside = there and h < H and v < W
    value = x[np.uint64(x0 + (start if inside else 0))]  # read without a branch, so that all reads are on their way at once
    outside = np.float32(1) if of_filters and row_height == _ONE else np.float32(0)
    return value if inside else outside


@device
def _geometry(plan, layer):
    """H, W, C, P, Q, K, R, S, and (height, width) of stride, padding and dilation, in 32 bits."""
    return (
        np.int32(plan[layer, at.INPUT_HEIGHT]), np.int32(plan[layer, at.INPUT_WIDTH]),
        np.int32(plan[layer, at.INPUT_CHANNELS]), np.int32(plan[layer, at.OUTPUT_HEIGHT]),
        np.int32(plan[layer, at.OUTPUT_WIDTH]), np.int32(plan[layer, at.OUTPUT_CHANNELS]),
        np.int32(plan[layer, at.KERNEL_HEIGHT]), np.int32(plan[layer, at.KERNEL_WIDTH]),
        (np.int32(plan[layer, at.STRIDE_HEIGHT]), np.int32(plan[layer, at.STRIDE_WIDTH])),
        (np.int32(plan[layer, at.PADDING_TOP]), np.int32(plan[layer, at.PADDING_LEFT])),
        (np.int32(plan[layer, at.DILATION_HEIGHT]), np.int32(plan[layer, at.DILATION_WIDTH])),
    )  # fmt: skip


@device
def forward(plan, layer, params, work, sample, n, part, parts, may_split):
    """y = b + x * w of ``n`` samples from ``sample`` on; this block computes tile ``part``, ``part + parts``, ...

    With ``may_split`` several blocks share a long reduction where there are few tiles: `add_splits` finishes those.
    """
    H, W, C, P, Q, K, R, S, stride, padding, dilation = _geometry(plan, layer)
    rows, taps = n * P * Q, R * S * C
    log2 = _shape_of(rows, K)
    tiles = _tiles_of(rows, K, log2)
    splits = _splits_of(tiles, taps) if may_split else 1
    for number in range(part, tiles * splits, parts):
        task = np.int32(number)
        split = divide(task, tiles)
        whole = splits == 1
        y0 = plan[layer, at.OUTPUT] + sample * (P * Q * K) if whole else plan[layer, at.SCRATCH] + split * rows * K
        _product(False, False, False, work, plan[layer, at.INPUT] + sample * (H * W * C), (H, W, C),
                 params, plan[layer, at.WEIGHT], params, plan[layer, at.BIAS] if whole else -1,
                 whole and plan[layer, at.RECTIFIED] != 0, False, work, y0, (P, Q, S), stride, (-padding[0], -padding[1]),
                 dilation, (1, 1), rows, taps, K, taps * split // splits, taps * (split + 1) // splits, log2,
                 task - split * tiles)  # fmt: skip


@device
def backward_data(plan, layer, params, work, sample, n, part, parts, may_split):
    """dx from dy. With a stride, most sums of a position and a tap are of no dy and count as 0."""
    H, W, C, P, Q, K, R, S, stride, padding, dilation = _geometry(plan, layer)
    rows, taps = n * H * W, R * S * K
    log2 = _shape_of(rows, C)
    tiles = _tiles_of(rows, C, log2)
    splits = _splits_of(tiles, taps) if may_split else 1
    for number in range(part, tiles * splits, parts):
        task = np.int32(number)
        split = divide(task, tiles)
        dx0 = plan[layer, at.D_INPUT] + sample * (H * W * C) if splits == 1 else plan[layer, at.SCRATCH] + split * rows * C
        _product(False, True, stride[0] * stride[1] != 1, work, plan[layer, at.D_OUTPUT] + sample * (P * Q * K), (P, Q, K),
                 params, plan[layer, at.WEIGHT], params, -1, False, False, work, dx0, (H, W, S), (1, 1), padding,
                 (-dilation[0], -dilation[1]), stride, rows, taps, C, taps * split // splits, taps * (split + 1) // splits,
                 log2, task - split * tiles)  # fmt: skip


@device
def add_splits(plan, layer, params, work, n, is_backward, part, parts):
    """y, or dx, from the sums that the blocks which shared a reduction left in the scratch space, added in their order."""
    H, W, C, P, Q, K, R, S, _, _, _ = _geometry(plan, layer)
    rows, columns, taps, out0 = n * P * Q, K, R * S * C, plan[layer, at.OUTPUT]
    if is_backward != 0:
        rows, columns, taps, out0 = n * H * W, C, R * S * K, plan[layer, at.D_INPUT]
    splits = _splits_of(_tiles_of(rows, columns, _shape_of(rows, columns)), taps)
    count, bias = rows * columns, plan[layer, at.BIAS] if is_backward == 0 else -1
    rectified = is_backward == 0 and plan[layer, at.RECTIFIED] != 0
    for i in range(4 * (part * THREADS + cuda.threadIdx.x), count, 4 * parts * THREADS):
        a, b, c, d = _ZERO, _ZERO, _ZERO, _ZERO
        for split in range(splits):
            first = plan[layer, at.SCRATCH] + split * count
            more_a, more_b, more_c, more_d = load4(work, first + i, first + count)
            a, b, c, d = a + more_a, b + more_b, c + more_c, d + more_d
        store4(work, out0 + i, out0 + count, (
            _finished(a, i, params, bias, columns, rectified), _finished(b, i + 1, params, bias, columns, rectified),
            _finished(c, i + 2, params, bias, columns, rectified), _finished(d, i + 3, params, bias, columns, rectified)))


@device
def _finished(value, i, params, bias, columns, rectified):
    """Number ``i`` of a product with its bias, if any (``bias`` ≥ 0), and rectified."""
    if bias >= 0:
        value += params[np.uint64(bias + i - divide(i, columns) * columns)]
    return _ZERO if rectified and value < _ZERO else value


@device
def backward_filter(plan, layer, work, parts, n, tile, split, splits, place, accumulate):
    """One tile of dw (the last row, if there is a bias, is db), summed over one of ``splits`` shares of all positions."""
    H, W, C, P, Q, K, R, S, stride, padding, dilation = _geometry(plan, layer)
    taps, positions = R * S * C, n * P * Q
    rows = taps + (1 if plan[layer, at.BIAS] >= 0 else 0)
    _product(True, False, False, work, plan[layer, at.INPUT], (H, W, C), work, plan[layer, at.D_OUTPUT], work, -1, False,
             accumulate, parts, place, (P, Q, S), stride, (-padding[0], -padding[1]), dilation, (1, 1), rows, taps, K,
             positions * split // splits, positions * (split + 1) // splits, _shape_of(rows, K), tile)  # fmt: skip
