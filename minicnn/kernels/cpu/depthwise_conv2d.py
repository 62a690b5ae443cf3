"""Depthwise convolution: each channel has a filter of its own, forward and backward.

    y[n,p,q,c]  = b[c] + Σ_{r,s} x[n,h,v,c] · w[r,s,0,c]          h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,0,c] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,c]               v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,c] · w[r,s,0,c]          db[c] = Σ_{n,p,q} dy[n,p,q,c]

In inference, with ``relu``, also y = max(0, y), a ReLU after it.
Vectors run along the channels, and nine numbers of the filter, or nine sums of its gradient, stay in
registers for all elements that the same taps belong to: those of a rectangle, whose edges are
rectangles of their own. The plain loop is `minicnn.kernels.cpu.conv2d.plain`. Source: Howard et al.: MobileNets,
2017.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.axis import (
    height,
    input_of,
    output_of,
    taps_inside,
    width,
)
from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    repeat,
    store,
    zero_where_less,
)
from minicnn.kernels.cpu.vector_sums import CHANNELS, multiply_nine, weigh_nine, weigh_taps

_NEAR = 1 << 17  # numbers of samples that are read and written before those of others
# Elements of a channel up to which one follows the other with all channels: loops over rectangles so
# small spend their time with beginning and ending, more so where a vector is short.
_FEW = 64 if VECTOR_BYTES < 64 else 16
_FORWARD, _BACKWARD, _WEIGHTS = map(np.int64, range(3))


class _Taps(NamedTuple):
    """The taps of one axis that belong to an element of what is written: ``count``, ``step`` apart,
    and the first position that they read, with the distance to the next."""

    first: int
    count: int
    step: int
    position: int
    distance: int


@njit(**JIT)
def _taps_of(axis, position, backward):
    """The taps by which y at this ``position`` reads x, or by which dx there is made of dy."""
    if backward == 0:
        first, end = taps_inside(axis, position)
        return _Taps(
            first, end - first, np.int64(1), input_of(axis, position, first), axis.dilation
        )
    first, count, step = 0, 0, 1
    for tap in range(axis.taps):
        if output_of(axis, position, tap) >= 0:
            if count == 0:
                first = tap
            elif count == 1:
                step = tap - first
            count += 1
    distance = -(step * axis.dilation // axis.stride)
    return _Taps(first, count, step, output_of(axis, position, first), distance)


class _Side(NamedTuple):
    """What is read or written: its place in the workspace, the numbers in a sample and in a line,
    and how many lines and columns there are from an element of a run to the next."""

    place: int
    size: int
    line: int
    down: int
    right: int


@njit(**JIT)
def _run_from(axis, first, step, end, together, backward):
    """The element ``first`` of an axis, how many from there on, ``step`` apart, have the same taps,
    in multiples of ``together`` if there are as many, and these taps."""
    taps, count = _taps_of(axis, first, backward), 1
    most = (end - 1 - first) // step + 1 if taps.count > 0 else 1
    while count < most:  # the first and the last tap never turn back
        middle = (count + most + 1) // 2
        if _taps_of(axis, first + (middle - 1) * step, backward)[:3] == taps[:3]:
            count = middle
        else:
            most = middle - 1
    return first, count - count % together if count > together else count, taps


@njit(**JIT)
def _three(params, at, step, valid, count):
    """The weights of the first ``count`` of three taps, and 0."""
    none = np.int64(0)
    return (
        load(params, at, valid if count > 0 else none),
        load(params, at + step, valid if count > 1 else none),
        load(params, at + 2 * step, valid if count > 2 else none),
    )


@njit(**JIT)
def _repeated(w, C):
    """The weights of a vector of neighbours, of three taps."""
    return repeat(w[0], C), repeat(w[1], C), repeat(w[2], C)


@njit(**JIT)
def _by_channels(arrays, places, loops, taps, C):
    """The elements of three nested loops, all channels of one before those of the next."""
    (work, params), (x0, y0, w, bias), (d, b, a) = arrays, places, loops
    for k in range(d[0]):
        for m in range(b[0]):
            for e in range(a[0]):
                x, y = x0 + k * d[1] + m * b[1] + e * a[1], y0 + k * d[2] + m * b[2] + e * a[2]
                for c in range(0, C, CHANNELS * lanes_of(work)):
                    begins = bias + c if bias >= 0 else bias
                    weigh_taps(work, params, (x + c, y + c, w + c, begins), *taps)


def _correlating(kind):
    """A closure for each kind: `_FORWARD` y = b + x * w, `_BACKWARD` dx from dy, `_WEIGHTS` dw from
    both."""

    @njit(**JIT)
    def elements(op, params, work, grads, given):
        """The elements of a run of lines and one of columns, by three times three of their taps at
        once: one that is missing has the weight 0, and reads what the last one reads."""
        (source, target), ((sample, samples), (h, lines, r), (v, columns, s)), shared = given
        C, lanes, none = op.input_channels, lanes_of(work), np.int64(0)
        shared = min(shared, columns)
        x0 = source.place + sample * source.size + r.position * source.line + s.position * C
        y0 = target.place + sample * target.size + h * target.line + v * C
        # Three loops, the longest innermost: how often, and how far it is to the next x and y.
        a = columns // shared, shared * source.right * C, shared * target.right * C
        b = lines, source.down * source.line, target.down * target.line
        d = samples, source.size, target.size
        if a[0] < b[0]:
            a, b = b, a
        if a[0] < d[0]:
            a, d = d, a
        line, column = r.distance * source.line, s.distance * C
        w_line, w_column = r.step * op.kernel_width * C, s.step * C
        has_bias = kind == _FORWARD and op.bias >= 0
        is_small = op.output_size <= _FEW * C and C % (CHANNELS * lanes) == 0
        if kind != _WEIGHTS and is_small:
            w = op.weight + (r.first * op.kernel_width + s.first) * C
            ends = (none, op.relu) if kind == _FORWARD else (op.accumulate, none)
            taps = (r.count, s.count), (line, column), (w_line, w_column), ends
            places = x0, y0, w, op.bias if has_bias else none - 1
            _by_channels((work, params), places, (d, b, a), taps, C)
            return
        for i in range(0, max(1, r.count), 3):
            for j in range(0, max(1, s.count), 3):
                high, wide = min(3, r.count - i), min(3, s.count - j)
                taps = (
                    min(1, high - 1) * line,
                    (high - 1) * line,
                    min(1, wide - 1) * column,
                    (wide - 1) * column,
                )
                w = op.weight + (r.first * op.kernel_width + s.first) * C
                w += i * w_line + j * w_column
                adds = 1 if i + j > 0 or (kind == _BACKWARD and op.accumulate != 0) else 0
                last = i + 3 >= r.count and j + 3 >= s.count
                ends = adds, (op.relu if last and kind == _FORWARD else none)
                for c in range(0, C, lanes):
                    valid, x, y, at = C - c, x0 + i * line + j * column + c, y0 + c, w + c
                    start = load(params, op.bias + c, valid if has_bias else none)
                    alone = zero_where_less(start, start, work.dtype.type(0)) if ends[1] else start
                    count = none if kind == _WEIGHTS else valid  # sums of products begin at 0
                    nine = (
                        _three(params, at, w_column, count if high > 0 else none, wide),
                        _three(params, at + w_line, w_column, count if high > 1 else none, wide),
                        _three(
                            params, at + 2 * w_line, w_column, count if high > 2 else none, wide
                        ),
                    )
                    if shared > 1:
                        start, alone = repeat(start, C), repeat(alone, C)
                        nine = _repeated(nine[0], C), _repeated(nine[1], C), _repeated(nine[2], C)
                    count = valid * shared
                    for k in range(d[0]):
                        for m in range(b[0]):
                            at_x, at_y = x + k * d[1] + m * b[1], y + k * d[2] + m * b[2]
                            along = at_x, at_y, a[0], a[1], a[2]
                            if high <= 0 or wide <= 0:
                                for e in range(a[0] if adds == 0 and kind != _WEIGHTS else 0):
                                    store(work, along[1] + e * a[2], alone, count)
                            elif kind == _WEIGHTS:
                                nine = multiply_nine(work, along, taps, nine, start, ends, count)
                            else:
                                weigh_nine(work, along, taps, nine, start, ends, count)
                    for k in range(high if kind == _WEIGHTS else 0):
                        for m in range(wide):
                            dw = at + k * w_line + m * w_column
                            store(grads, dw, add(load(grads, dw, valid), nine[k][m]), valid)

    @njit(**JIT)
    def correlate(op, params, work, grads, n):
        """All elements of the first ``n`` samples of the chunk."""
        rows, columns, C, one = height(op), width(op), op.input_channels, np.int64(1)
        backward, lanes = kind == _BACKWARD, lanes_of(work)
        high, wide = rows.outputs, columns.outputs
        written = op.dy if kind == _WEIGHTS else op.y
        source = _Side(op.x, op.input_size, columns.size * C, rows.stride, columns.stride)
        target = _Side(written, op.output_size, wide * C, one, one)
        if backward:
            source = _Side(op.dy, op.output_size, wide * C, one, one)
            high, wide = rows.size, columns.size
            target = _Side(op.dx, op.input_size, wide * C, rows.stride, columns.stride)
        # Of few channels neighbours share a vector.
        shared = one
        if kind != _WEIGHTS and C < lanes and lanes % C == 0 and columns.stride == 1:
            shared = lanes // C
        near = 1 + _NEAR // (op.input_size + op.output_size)
        for first in range(0, n, near):
            samples = first, min(n, first + near) - first
            for top in range(target.down):
                h = top
                while h < high:
                    lines = _run_from(rows, h, target.down, high, one, backward)
                    for left in range(target.right):
                        v = left
                        while v < wide:
                            run = _run_from(columns, v, target.right, wide, shared, backward)
                            given = (source, target), (samples, lines, run), shared
                            elements(op, params, work, grads, given)
                            v += run[1] * target.right
                    h += lines[1] * target.down

    return correlate


_forward, _input_gradient, _filter_gradient = map(_correlating, (_FORWARD, _BACKWARD, _WEIGHTS))


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    _forward(plan[0], params, work, params, n)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw, db and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    _filter_gradient(op, params, work, grads, n)
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * op.output_width)
    if op.dx >= 0:
        _input_gradient(op, params, work, grads, n)
