"""Convolution of NHWC images with HWIO filters, forward and backward; the formulas are in
`minicnn.kernels.cpu.conv2d`.

All three passes are one implicit matrix product, Σ_k x[place(row) + place(k)] · other[k, column],
where the place in the image that a position and a tap read together is the sum of both:

                 rows                 reduction k        other                 columns
    forward      positions n,p,q      taps r,s,c         w[r,s,c,k]            filters k
    dx           positions n,h,v      taps r,s,k of dy   w[r,s,c,k] transposed  channels c
    dw           taps r,s,c           positions n,p,q    dy[n,p,q,k]           filters k

of which `minicnn.kernels.cuda.product` computes a tile. With a stride, dx is one product for each
remainder of h and v by it: the taps of such a product are every so many of all, and no others reach
its positions.
"""

import math

import numpy as np
from numba import cuda

from minicnn.kernels.cuda.axis import height, width
from minicnn.kernels.cuda.launches import Launch
from minicnn.kernels.cuda.product import Factor, Image, Output, Task, product
from minicnn.kernels.cuda.tile import THREADS, device, divide, shape_of, splits_of, tiles_of
from minicnn.kernels.cuda.vector import add4, load4, store4

_ZERO = np.float32(0)

_shape_of = device(shape_of)
_tiles_of = device(tiles_of)
_splits_of = device(splits_of)


@device
def _geometry(op):
    """Both axes, channels and filters, in 32 bits."""
    return height(op), width(op), np.int32(op.input_channels), np.int32(op.output_channels)


@device
def _input_image(op, work):
    """x, as the forward pass and the filters' gradient read it."""
    rows, columns, C, _ = _geometry(op)
    return Image(
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
        product(
            False,
            False,
            op,
            _input_image(op, work),
            Factor(params, op.weight, 0, 0),
            Output(work, y, False, whole, 0, 0, 0, 0, 1, 1),
            Task(form, task - split * tiles, m, K, 0, begin, end),
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
        product(
            False,
            True,
            op,
            Image(
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
            Factor(
                params,
                op.weight + (r * columns.taps + s) * (K * C),
                np.int32(r_step * columns.taps * (K * C)),
                np.int32(s_step * (K * C)),
            ),
            Output(work, dx, whole, False, H, W, h0, v0, down, right),
            Task(form, tile - remainder * tiles_each, n * P * Q, C, 0, begin, end),
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
        product(
            True,
            False,
            op,
            image,
            Factor(work, op.dy, 0, 0),
            Output(work, place, first_sample > 0, False, 0, 0, 0, 0, 1, 1),
            Task(form, task - split * tiles, m, K, taps, begin, end),
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
