"""Convolution with filters of 3×3, stride 1 and no dilation by Winograd's F(4×4, 3×3): 36
multiplications make 16 outputs of a channel, where the direct sum takes 144.

    y  = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A        x a tile of 6×6 inputs, y its 4×4 outputs, ⊙ by element
    dw = Gᵀ [ Σ (Bᵀ x B) ⊙ (A dy Aᵀ) ] G     over all tiles; dx is y of dy and the rotated filters

    for each tile t, c:   V[:, t, c] = Bᵀ x B                 for each c, k:  U[:, c, k] = G w Gᵀ
    for each point i:     M[i] = V[i] · U[i]                  a matrix product over the channels
    for each tile t, k:   y[4×4, k] = b[k] + Aᵀ M[:, t, k] A  what is outside of the map is left out

Inputs outside of the image are read as 0. Tiles are taken in blocks whose V and M stay in the
cache; y and dx of a sample do not depend on the block or the chunk. U is made anew by each pass of
a chunk, a small part of it, so that no weights can be out of date; once, where they never change.

In float32 the largest errors of logits and gradients of two such layers of 64 channels, against
float64, were 0.5 to 1.2·10⁻⁶ of the largest number; those of the direct sum are 1·10⁻⁶. With the
usual points, ±1 and ±2, they were three times as large. The plain loop is
`minicnn.kernels.cpu.conv2d.plain`.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016); that points near
one, but no integers, err less: Barabasz, Anderson, Soodhalter, Gregg, Error Analysis and Improving
the Accuracy of Winograd Convolution for Deep Neural Networks (2020). Which convolutions are
computed so says `minicnn.program.graph`.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.axis import height, width
from minicnn.kernels.cpu.conv2d import Pass, reverse
from minicnn.kernels.cpu.tile import JIT, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    multiply_add,
    put,
    scale,
    store_whole,
    subtract,
    zero_where_less,
)
from minicnn.kernels.cpu.vector import transpose as transpose_matrix
from minicnn.memory import ALIGNMENT

POINTS = 36  # of a tile
# A polynomial of fifth degree is known by its values at 0, ±A, ±B and ∞; A², B² and their products
# are exact in float32.
A, B = 5 / 8, 3 / 2
A2, B2 = A * A, B * B
# what the filters' values at ±A and at ±B are divided by: ∏ (p − q) over the other finite points q
FA, FB = 2 * A2 * (A2 - B2), 2 * B2 * (B2 - A2)


class _Patch(NamedTuple):
    """At most ``size`` × ``size`` neighbours of an image or a filter, for a vector of channels;
    only the rows from ``top`` to ``bottom`` and the columns from ``left`` to ``right`` exist."""

    array: Any
    at: int
    line: int
    column: int
    size: int
    top: int
    bottom: int
    left: int
    right: int


@njit(**JIT)
def _input_transform(d):
    """Bᵀ d."""
    a, c = multiply_add(d[2], -B2, d[4]), multiply_add(d[1], -B2, d[3])
    b, e = multiply_add(d[2], -A2, d[4]), multiply_add(d[1], -A2, d[3])
    first = multiply_add(d[0], A2 * B2, multiply_add(d[2], -A2 - B2, d[4]))
    last = multiply_add(d[1], A2 * B2, multiply_add(d[3], -A2 - B2, d[5]))
    return first, *_at(c, A, a), *_at(e, B, b), last


@njit(**JIT)
def _output_transform(m):
    """Aᵀ m."""
    a, b, c, d = add(m[1], m[2]), subtract(m[1], m[2]), add(m[3], m[4]), subtract(m[3], m[4])
    second, third = multiply_add(d, B, scale(b, A)), multiply_add(c, B2, scale(a, A2))
    last = multiply_add(d, B * B2, multiply_add(b, A * A2, m[5]))
    return add(m[0], add(a, c)), second, third, last


@njit(**JIT)
def _gradient_transform(d):
    """A d of the first four."""
    a, c = multiply_add(d[2], A2, d[0]), multiply_add(d[3], A2, d[1])
    b, e = multiply_add(d[2], B2, d[0]), multiply_add(d[3], B2, d[1])
    return d[0], *_at(c, A, a), *_at(e, B, b), d[3]


@njit(**JIT)
def _filter_transform(w):
    """G w of the first three."""
    a, c = multiply_add(w[2], A2 / FA, scale(w[0], 1 / FA)), scale(w[1], 1 / FA)
    b, e = multiply_add(w[2], B2 / FB, scale(w[0], 1 / FB)), scale(w[1], 1 / FB)
    return scale(w[0], 1 / (A2 * B2)), *_at(c, A, a), *_at(e, B, b), w[2]


@njit(**JIT)
def _filter_gradient_transform(u):
    """Gᵀ u, and once more its last."""
    a, b, c, d = add(u[1], u[2]), subtract(u[1], u[2]), add(u[3], u[4]), subtract(u[3], u[4])
    first = multiply_add(c, 1 / FB, multiply_add(a, 1 / FA, scale(u[0], 1 / (A2 * B2))))
    last = multiply_add(c, B2 / FB, multiply_add(a, A2 / FA, u[5]))
    return first, multiply_add(d, B / FB, scale(b, A / FA)), last, last


@njit(**JIT)
def _at(odd, point, even):
    """Odd and even powers together at a point and at its opposite."""
    return multiply_add(odd, point, even), multiply_add(odd, -point, even)


@njit(**JIT)
def _six(array, at, step, count):
    return (
        load(array, at, count),
        load(array, at + step, count),
        load(array, at + 2 * step, count),
        load(array, at + 3 * step, count),
        load(array, at + 4 * step, count),
        load(array, at + 5 * step, count),
    )


def _spreading(transform):
    """A closure: a function that is handed over as an argument would keep its caller out of the
    disk cache."""

    @njit(**JIT)
    def spread(patch, c, count, target, own):
        """The `POINTS` of a patch's channels from ``c`` on, ``target.row`` apart: ``transform`` of
        its columns, then of the rows of that; ``own`` has room for them."""
        none, lanes = np.int64(0), lanes_of(target.array)
        array, line, top = patch.array, patch.line, patch.top
        for j in range(patch.size):
            at = patch.at + c + j * patch.column
            end = patch.bottom if patch.left <= j < patch.right else none
            if top <= 0 and end >= 6:
                column = _six(array, at, line, count)
            else:
                column = (
                    load(array, at, count if top <= 0 < end else none),
                    load(array, at + line, count if top <= 1 < end else none),
                    load(array, at + 2 * line, count if top <= 2 < end else none),
                    load(array, at + 3 * line, count if top <= 3 < end else none),
                    load(array, at + 4 * line, count if top <= 4 < end else none),
                    load(array, at + 5 * line, count if top <= 5 < end else none),
                )
            _store_six(transform(column), target.array, own + j * lanes, 6 * lanes)
        for i in range(6):
            row = _six(target.array, own + 6 * i * lanes, lanes, lanes)
            to = target.offset + 6 * i * target.row
            _store_six(transform(row), target.array, to, target.row)

    return spread


@njit(**JIT)
def _store_six(values, array, at, step):
    store_whole(array, at, values[0])
    store_whole(array, at + step, values[1])
    store_whole(array, at + 2 * step, values[2])
    store_whole(array, at + 3 * step, values[3])
    store_whole(array, at + 4 * step, values[4])
    store_whole(array, at + 5 * step, values[5])


def _collecting(transform):
    """The opposite of `_spreading`."""

    @njit(**JIT)
    def collect(source, patch, c, count, start, ends, own):
        """The patch becomes ``start``, or with adds what it is, plus ``transform`` of columns and
        rows of the points of ``source``; ``ends`` are adds and whether a ReLU follows."""
        lanes = lanes_of(source.array)
        for j in range(6):
            at = source.offset + j * source.row
            r = transform(_six(source.array, at, 6 * source.row, lanes))
            for_column = own + j * lanes
            store_whole(source.array, for_column, r[0])
            store_whole(source.array, for_column + 6 * lanes, r[1])
            store_whole(source.array, for_column + 12 * lanes, r[2])
            store_whole(source.array, for_column + 18 * lanes, r[3])
        for i in range(min(patch.size, patch.bottom)):
            r = transform(_six(source.array, own + 6 * i * lanes, lanes, lanes))
            at = patch.at + c + i * patch.line
            left = min(patch.size, patch.right)
            _put(patch.array, at, r[0], count, start, ends)
            if left > 1:
                _put(patch.array, at + patch.column, r[1], count, start, ends)
            if left > 2:
                _put(patch.array, at + 2 * patch.column, r[2], count, start, ends)
            if left > 3:
                _put(patch.array, at + 3 * patch.column, r[3], count, start, ends)

    return collect


@njit(**JIT)
def _put(array, at, value, count, start, ends):
    adds, relu = ends
    value = add(value, load(array, at, count) if adds != 0 else start)
    least = zero_where_less(value, value, array.dtype.type(0))
    put(array, at, least if relu != 0 else value, count)


_spread_input, _spread_gradient, _spread_filter = map(
    _spreading, (_input_transform, _gradient_transform, _filter_transform)
)
_collect_output, _collect_filter = map(_collecting, (_output_transform, _filter_gradient_transform))


@njit(**JIT)
def _rounded(count, array):
    lanes = lanes_of(array)
    return (count + lanes - 1) // lanes * lanes


@njit(**JIT)
def _plane(count):
    """From the ``count`` numbers of one point to those of the next: a cache line more, or all
    points of a tile would be in the same few lines of the cache."""
    return count + ALIGNMENT


@njit(**JIT)
def _places(op, work):
    """Where in the scratch the points of the filters, of tiles that are read, and of those that are
    written begin; before them a patch has its own."""
    C, K = _rounded(op.input_channels, work), _rounded(op.output_channels, work)
    filters = op.scratch + POINTS * (lanes_of(work))
    tiles = filters + POINTS * _plane(C * K)
    return filters, tiles, tiles + POINTS * _plane(op.a0 * max(C, K))


@njit(**JIT)
def _tile(array, place, map, tile, size, padding):
    """Number ``tile`` of the patches of the images ``map`` at ``place``: it begins at 4·(its row
    and column) − ``padding``."""
    H, W, C, high, wide = map
    image, rest = tile // (high * wide), tile % (high * wide)
    h, v = rest // wide * 4 - padding[0], rest % wide * 4 - padding[1]
    at = place + ((image * H + h) * W + v) * C
    return _Patch(array, at, W * C, C, size, -h, min(H - h, size), -v, min(W - v, size))


@njit(**JIT)
def _maps(rows, columns, C, K):
    """Height, width and channels of what a convolution reads and of what it writes, each with the
    rows and columns of tiles."""
    high, wide = (rows.outputs + 3) // 4, (columns.outputs + 3) // 4
    return (rows.size, columns.size, C, high, wide), (rows.outputs, columns.outputs, K, high, wide)


@njit(**JIT)
def _spread_filters(op, weights, C, K, target, filters, own):
    """U[point, c, k] of the filters [3, 3, C, K], in ``target`` at ``filters``; ``own`` is room for
    a patch."""
    row = _rounded(K, target)
    for c in range(C):
        patch = _Patch(weights, op.weight + c * K, 3 * C * K, C * K, 3, 0, 3, 0, 3)
        for k in range(0, K, lanes_of(target)):
            to = Rows(target, filters + c * row + k, _plane(C * row))
            _spread_filter(patch, k, K - k, to, own)


@njit(**JIT)
def _spread_tiles(op, work, x, read, padding, first, count):
    """V[point, t, c] of ``count`` tiles of the images ``read`` at ``x``, from the tile ``first``
    on."""
    _, tiles, _ = _places(op, work)
    C, C_row = read[2], _rounded(read[2], work)
    for t in range(count):
        patch = _tile(work, x, read, first + t, np.int64(6), padding)
        for c in range(0, C, lanes_of(work)):
            to = Rows(work, tiles + t * C_row + c, _plane(count * C_row))
            _spread_input(patch, c, C - c, to, op.scratch)


@njit(**JIT)
def _correlate(op, geometry, n, work, weights, bias, adds):
    """y[n,p,q,k] = bias[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k]; the arguments are those of
    `conv2d._correlate`."""
    rows, columns, C, K, _, x, y = geometry
    read, written = _maps(rows, columns, C, K)
    filters, tiles, products = _places(op, work)
    lanes, C_row, K_row = lanes_of(work), _rounded(C, work), _rounded(K, work)
    none, source = (np.int64(0), np.int64(0)), work
    if op.prepared >= 0:
        source, filters = weights, op.prepared
    else:
        _spread_filters(op, weights, C, K, work, filters, op.scratch)
    total = n * read[3] * read[4]
    for first in range(0, total, op.a0):
        count = min(op.a0, total - first)
        _spread_tiles(op, work, x, read, (rows.padding, columns.padding), first, count)
        for point in range(POINTS):
            multiply(
                op.multiply,
                (count, K, 1, C),
                Scalars(work, tiles + point * _plane(count * C_row), C_row, 0, 1),
                Vectors(source, filters + point * _plane(C * K_row), 0, K_row),
                Rows(work, -1, 0),
                Rows(work, products + point * _plane(count * K_row), K_row),
            )
        for t in range(count):
            patch = _tile(work, y, written, first + t, np.int64(4), none)
            for k in range(0, K, lanes):
                start = load(weights, bias + k, K - k if bias >= 0 else 0)
                points = Rows(work, products + t * K_row + k, _plane(count * K_row))
                _collect_output(points, patch, k, K - k, start, (adds, op.relu), op.scratch)


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, K = op.input_channels, op.output_channels
    geometry = Pass(height(op), width(op), C, K, K, op.x, op.y)
    _correlate(op, geometry, n, work, params, op.bias, np.int64(0))


@njit(**JIT)
def prepare(plan, params, prepared):
    """U of weights that never change."""
    op = plan[0]
    C, K = op.input_channels, op.output_channels
    own = op.prepared + POINTS * _plane(C * _rounded(K, params))
    _spread_filters(op, params, C, K, prepared, op.prepared, own)


@njit(**JIT)
def transpose(plan, params, transposed):
    """The filters as dx reads them: [2−r, 2−s, k, c]."""
    op = plan[0]
    C, K = op.input_channels, op.output_channels
    for tap in range(9):
        source = Rows(params, op.weight + tap * C * K, K)
        transpose_matrix(source, Rows(transposed, op.weight + (8 - tap) * K * C, C), C, K)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw += x ⋆ dy and db += Σ dy over the first ``n`` samples of the chunk; dx from dy."""
    op = plan[0]
    rows, columns = height(op), width(op)
    _correlate_filter(op, rows, columns, n, work, grads)
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * op.output_width)
    if op.dx >= 0:
        rows, columns = reverse(rows), reverse(columns)
        C, K = op.input_channels, op.output_channels
        geometry = Pass(rows, columns, K, C, C, op.dy, op.dx)
        _correlate(op, geometry, n, work, transposed, np.int64(-1), op.accumulate)


@njit(**JIT)
def _correlate_filter(op, rows, columns, n, work, grads):
    """dw[r,s,c,k] += Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,k]."""
    C, K = op.input_channels, op.output_channels
    read, written = _maps(rows, columns, C, K)
    filters, tiles, gradients = _places(op, work)
    lanes, C_row, K_row = lanes_of(work), _rounded(C, work), _rounded(K, work)
    none = (np.int64(0), np.int64(0))
    work[filters : filters + POINTS * _plane(C * K_row)] = 0
    total = n * read[3] * read[4]
    for first in range(0, total, op.a0):
        count = min(op.a0, total - first)
        _spread_tiles(op, work, op.x, read, (rows.padding, columns.padding), first, count)
        for t in range(count):
            patch = _tile(work, op.dy, written, first + t, np.int64(4), none)
            for k in range(0, K, lanes):
                to = Rows(work, gradients + t * K_row + k, _plane(count * K_row))
                _spread_gradient(patch, k, K - k, to, op.scratch)
        for point in range(POINTS):
            sums = Rows(work, filters + point * _plane(C * K_row), K_row)
            multiply(
                op.multiply,
                (C, K, 1, count),
                Scalars(work, tiles + point * _plane(count * C_row), 1, 0, C_row),
                Vectors(work, gradients + point * _plane(count * K_row), 0, K_row),
                sums,
                sums,
            )
    zero, adds = load(work, filters, 0), (np.int64(1), np.int64(0))
    for c in range(C):
        patch = _Patch(grads, op.weight + c * K, 3 * C * K, C * K, 3, 0, 3, 0, 3)
        for k in range(0, K, lanes):
            source = Rows(work, filters + c * K_row + k, _plane(C * K_row))
            _collect_filter(source, patch, k, K - k, zero, adds, op.scratch)
