"""The transforms of Winograd's F(4×4, 3×3), of a vector of channels at a time.

    spread    6×6 points of a patch:    Bᵀ x B of 6×6 inputs, A dy Aᵀ of 4×4 gradients, G w Gᵀ of a filter
    collect   a patch of 6×6 points M:  Aᵀ M A, 4×4 outputs, Gᵀ M G, a filter's gradient

In float32 the largest errors of logits and gradients of two such layers of 64 channels, against
float64, were 4 to 7·10⁻⁷ of the largest number; those of the direct sum 0.6 to 1.3·10⁻⁶. With the
usual points, ±1 and ±2, they were three to five times as large. The root of the mean square error of
one layer's outputs, by that of these, was 2.3 to 3·10⁻⁷ for 16 to 64 channels and 4·10⁻⁷ for 256.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016); that points near
one, but no integers, err less: Barabasz, Anderson, Soodhalter, Gregg, Error Analysis and Improving
the Accuracy of Winograd Convolution for Deep Neural Networks (2020).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    multiply_add,
    scale,
    store,
    store_whole,
    subtract,
    zero_where_less,
)

POINTS = 36  # of a tile
# A polynomial of fifth degree is known by its values at 0, ±A, ±B and ∞; A², B² and their products
# are exact in float32.
A, B = 5 / 8, 3 / 2
A2, B2 = A * A, B * B
# what the filters' values at ±A and at ±B are divided by: ∏ (p − q) over the other finite points q
FA, FB = 2 * A2 * (A2 - B2), 2 * B2 * (B2 - A2)


class Patch(NamedTuple):
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
    store(array, at, least if relu != 0 else value, count)


spread_input, spread_gradient, spread_filter = map(
    _spreading, (_input_transform, _gradient_transform, _filter_transform)
)
collect_output, collect_filter = map(_collecting, (_output_transform, _filter_gradient_transform))
