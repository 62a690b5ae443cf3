"""Convolution with filters of 3×3, stride 1 and no dilation by Winograd's F(4×4, 3×3): 36
multiplications make 16 outputs of a channel, where the direct sum takes 144.

    y  = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A        x a tile of 6×6 inputs, y its 4×4 outputs, ⊙ by element
    dw = Gᵀ [ Σ (Bᵀ x B) ⊙ (A dy Aᵀ) ] G     over all tiles; dx is y of dy and the rotated filters

    for each tile t, c:   V[:, t, c] = Bᵀ x B                 for each c, k:  U[:, c, k] = G w Gᵀ
    for each point i:     M[i] = V[i] · U[i]                  a matrix product over the channels
    for each tile t, k:   y[4×4, k] = b[k] + Aᵀ M[:, t, k] A  what is outside of the map is left out

Inputs outside of the image are read as 0. Tiles are taken in blocks whose V and M stay in the
cache; y and dx of a sample do not depend on the block or the chunk. U is made anew by each pass of
a chunk, so that no weights can be out of date: a small part of it, but for hundreds of channels and
few tiles; once, where weights never change. U, M, dU and A dy Aᵀ are kept in panels (`PANEL`).

The plain loop is `minicnn.kernels.cpu.conv2d.plain`; what A, B and G are, and how far this is from
the direct sum, says `minicnn.kernels.cpu.winograd_transforms`.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016). Which convolutions
are computed so says `minicnn.program.graph`.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.axis import height, width
from minicnn.kernels.cpu.conv2d import Pass, reverse
from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import lanes_of, load, prefetch
from minicnn.kernels.cpu.vector import transpose as transpose_matrix
from minicnn.kernels.cpu.winograd_transforms import (
    POINTS,
    Patch,
    collect_filter,
    collect_output,
    spread_filter,
    spread_gradient,
    spread_input,
)
from minicnn.memory import ALIGNMENT

# Vectors in a row of a panel. With vectors of 64 bytes, as many as a block of the tile reads: rows of
# 1 KB would be in the same few lines of the first cache. Narrower ones gain by what the processor
# fetches ahead from longer rows: there, a matrix is one panel.
PANEL = 2 if VECTOR_BYTES == 64 else 1 << 30
FEWEST = 16  # products in a sum of its own


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
def _in_panels(matrix, rows, columns, row, k):
    """Where the vector from column ``k`` on of a ``row`` is in the first of the matrices
    [rows, columns] that begin at ``matrix``, one for each point, each in panels of `PANEL` vectors;
    with how far it is to that of the next point."""
    whole, widest = _rounded(columns, matrix.array), PANEL * lanes_of(matrix.array)
    panel = k // widest * widest
    at = panel * rows + row * min(widest, whole - panel) + k - panel
    return Rows(matrix.array, matrix.offset + at, _plane(rows * whole))


@njit(**JIT)
def _multiply(op, shape, left, step, right, sums, adds):
    """For each point, the product of ``left`` [rows, depth] and ``right`` [depth, columns], becomes
    ``sums`` [rows, columns], or with adds is added to them. The points of ``left`` are ``step``
    apart; the others are in panels.

    What is not added is the sum of at most four sums, of `FEWEST` products or more: that errs less
    in float32 than one long sum, and Aᵀ M A makes much of such errors."""
    rows, columns, depth = shape
    whole, widest = _rounded(columns, sums.array), PANEL * lanes_of(sums.array)
    most = depth if adds else max(FEWEST, (depth + 3) // 4)
    for point in range(POINTS):
        for k in range(0, columns, widest):
            width = min(widest, whole - k)
            b = _in_panels(right, depth, columns, 0, k)
            c = _in_panels(sums, rows, columns, 0, k)
            b_at, c_at = b.offset + point * b.row, c.offset + point * c.row
            for first in range(0, depth, most):
                at = left.offset + point * step + first * left.inner
                multiply(
                    op.multiply,
                    (rows, width, 1, min(most, depth - first)),
                    Scalars(left.array, at, left.row, 0, left.inner),
                    Vectors(b.array, b_at + first * width, 0, width),
                    Rows(c.array, c_at if adds or first > 0 else -1, width),
                    Rows(c.array, c_at, width),
                )


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
    return Patch(array, at, W * C, C, size, -h, min(H - h, size), -v, min(W - v, size))


@njit(**JIT)
def _fetch(patch, channels, shift):
    """Fetch the 4×4 neighbours from row and column ``shift`` of a patch on ahead."""
    at = patch.at + shift * (patch.line + channels)
    for i in range(4):
        for c in range(0, 4 * channels, 64 // patch.array.itemsize):
            prefetch(patch.array, at + i * patch.line + c)


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
    for c in range(C):
        patch = Patch(weights, op.weight + c * K, 3 * C * K, C * K, 3, 0, 3, 0, 3)
        for k in range(0, K, lanes_of(target)):
            to = _in_panels(Rows(target, filters, 0), C, K, c, k)
            spread_filter(patch, k, K - k, to, own)


@njit(**JIT)
def _spread_tiles(op, work, x, read, padding, first, count):
    """V[point, t, c] of ``count`` tiles of the images ``read`` at ``x``, from the tile ``first``
    on."""
    _, tiles, _ = _places(op, work)
    C, C_row = read[2], _rounded(read[2], work)
    coming = _tile(work, x, read, first, np.int64(6), padding)
    for t in range(count):
        patch, coming = coming, _tile(work, x, read, first + t + 1, np.int64(6), padding)
        _fetch(coming, C, 2)
        for c in range(0, C, lanes_of(work)):
            to = Rows(work, tiles + t * C_row + c, _plane(count * C_row))
            spread_input(patch, c, C - c, to, op.scratch)


@njit(**JIT)
def _correlate(op, geometry, n, work, weights, bias, adds):
    """y[n,p,q,k] = bias[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k]; the arguments are those of
    `conv2d._correlate`."""
    rows, columns, C, K, _, x, y = geometry
    read, written = _maps(rows, columns, C, K)
    filters, tiles, products = _places(op, work)
    lanes, C_row = lanes_of(work), _rounded(C, work)
    none, source = (np.int64(0), np.int64(0)), work
    if op.prepared >= 0:
        source, filters = weights, op.prepared
    else:
        _spread_filters(op, weights, C, K, work, filters, op.scratch)
    total = n * read[3] * read[4]
    for first in range(0, total, op.a0):
        count = min(op.a0, total - first)
        _spread_tiles(op, work, x, read, (rows.padding, columns.padding), first, count)
        left, right = Scalars(work, tiles, C_row, 0, 1), Rows(source, filters, none[0])
        sums = Rows(work, products, none[0])
        _multiply(op, (count, K, C), left, _plane(count * C_row), right, sums, False)
        coming = _tile(work, y, written, first, np.int64(4), none)
        for t in range(count):
            patch, coming = coming, _tile(work, y, written, first + t + 1, np.int64(4), none)
            _fetch(coming, K, 0)
            for k in range(0, K, lanes):
                start = load(weights, bias + k, K - k if bias >= 0 else 0)
                points = _in_panels(sums, count, K, t, k)
                collect_output(points, patch, k, K - k, start, (adds, op.relu), op.scratch)


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
    lanes, C_row, none = lanes_of(work), _rounded(C, work), (np.int64(0), np.int64(0))
    right, sums = Rows(work, gradients, none[0]), Rows(work, filters, none[0])
    work[filters : filters + POINTS * _plane(C * _rounded(K, work))] = 0
    total = n * read[3] * read[4]
    for first in range(0, total, op.a0):
        count = min(op.a0, total - first)
        _spread_tiles(op, work, op.x, read, (rows.padding, columns.padding), first, count)
        coming = _tile(work, op.dy, written, first, np.int64(4), none)
        for t in range(count):
            patch, coming = coming, _tile(work, op.dy, written, first + t + 1, np.int64(4), none)
            _fetch(coming, K, 0)
            for k in range(0, K, lanes):
                to = _in_panels(right, count, K, t, k)
                spread_gradient(patch, k, K - k, to, op.scratch)
        left = Scalars(work, tiles, 1, 0, C_row)
        _multiply(op, (C, K, count), left, _plane(count * C_row), right, sums, True)
    zero, adds = load(work, filters, 0), (np.int64(1), np.int64(0))
    for c in range(C):
        patch = Patch(grads, op.weight + c * K, 3 * C * K, C * K, 3, 0, 3, 0, 3)
        for k in range(0, K, lanes):
            points = _in_panels(sums, C, K, c, k)
            collect_filter(points, patch, k, K - k, zero, adds, op.scratch)
