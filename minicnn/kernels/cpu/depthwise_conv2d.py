"""Depthwise convolution: each channel has a filter of its own, forward and backward.

    y[n,p,q,c]  = b[c] + Σ_{r,s} x[n,h,v,c] · w[r,s,0,c]          h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,0,c] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,c]               v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,c] · w[r,s,0,c]          db[c] = Σ_{n,p,q} dy[n,p,q,c]

In inference, with ``relu``, also y = max(0, y), a ReLU after it.
Vectors run along the channels, and nine numbers of the filter, or nine sums of its gradient, stay in
registers for all elements that the same taps belong to: those of a rectangle, whose edges are
rectangles of their own unless they lack but the first or the last of three taps. dx is a sum over dy
where all of it is one such rectangle, and else each dy is added to all dx that it belongs to. The
plain loop is `minicnn.kernels.cpu.conv2d.plain`. Source: Howard et al.: MobileNets, 2017.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.axis import (
    height,
    input_of,
    taps_inside,
    width,
)
from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    repeat,
    store,
    zero_where_less,
)
from minicnn.kernels.cpu.vector_sums import (
    multiply_nine,
    scatter_nine,
    weigh_exchanged,
    weigh_nine,
)

_NEAR = 1 << 17  # numbers of samples that are read and written before those of others
_FORWARD, _GATHER, _SCATTER, _WEIGHTS = map(np.int64, range(4))


class _Taps(NamedTuple):
    """The taps of one axis that belong to an element: ``count``, ``step`` apart, and the first
    position that they read, with the distance to the next."""

    first: int
    count: int
    step: int
    position: int
    distance: int


@njit(**JIT)
def _taps_of(axis, position):
    """The taps by which y at this ``position`` reads x."""
    first, end = taps_inside(axis, position)
    return _Taps(first, end - first, np.int64(1), input_of(axis, position, first), axis.dilation)


class _Side(NamedTuple):
    """What is read or written: its place in the workspace, the numbers in a sample and in a line,
    and how many lines and columns there are from an element to the next."""

    place: int
    size: int
    line: int
    down: int
    right: int


class _Run(NamedTuple):
    """Elements of an axis that have the same ``taps``: the first one, how many, and whether it lacks
    the first of three taps, and the last element the last."""

    first: int
    count: int
    taps: _Taps
    low: int
    high: int


@njit(**JIT)
def _all_of(axis, gathers):
    """All elements of an axis as one run, or none where they lack other taps; or of dx where it
    ``gathers``."""
    d, zero, one = axis.dilation, np.int64(0), np.int64(1)
    taps, stride = _Taps(zero, axis.taps, one, -axis.padding, d), axis.stride
    count, size = axis.outputs, axis.size
    if gathers != 0:
        taps, stride = _Taps(zero + 2, axis.taps, -one, axis.padding - 2 * d, d), one
        count, size = axis.size, axis.outputs
    below = -taps.position
    above = (count - 1) * stride + 2 * d - below - (size - 1)
    fits = axis.taps == 3 and count > 1 and (gathers == 0 or axis.stride == 1)
    if not fits or max(below, above) > min(stride, d):
        count = zero
    return _Run(zero, count, taps, min(one, max(zero, below)), min(one, max(zero, above)))


@njit(**JIT)
def _run_from(axis, first, together, gathers):
    """The run from element ``first`` of an axis on, in multiples of ``together`` if there are as
    many, and as in `_all_of` for one."""
    if first == 0 and together == 1:
        whole = _all_of(axis, gathers)
        if whole.count > 0:
            return whole
    taps, count = _taps_of(axis, first), 1
    most = axis.outputs - first if taps.count > 0 else 1
    while count < most:  # the first and the last tap never turn back
        middle = (count + most + 1) // 2
        if _taps_of(axis, first + middle - 1)[:2] == taps[:2]:
            count = middle
        else:
            most = middle - 1
    if count > together:
        count -= count % together
    return _Run(first, count, taps, np.int64(0), np.int64(0))


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


def _correlating(kind):
    """A closure for each kind: `_FORWARD` y = b + x * w, `_GATHER` and `_SCATTER` dx from dy,
    `_WEIGHTS` dw from x and dy."""

    @njit(**JIT)
    def elements(op, params, work, grads, given):
        """The elements of a run of lines and one of columns, by three times three of their taps at
        once: one that is missing has the weight 0, and reads what the last one reads."""
        (source, target), ((sample, samples), rows, columns), shared = given
        C, lanes, none, r, s = (
            op.input_channels,
            lanes_of(work),
            np.int64(0),
            rows.taps,
            columns.taps,
        )
        shared = min(shared, columns.count)
        x0 = source.place + sample * source.size + r.position * source.line + s.position * C
        y0 = target.place + sample * target.size + rows.first * target.line + columns.first * C
        # Three loops, the longest innermost: how often, how far it is to the next x and y, and edges.
        x, y = shared * source.right * C, shared * target.right * C
        a = columns.count // shared, x, y, columns.low, columns.high
        b = (
            rows.count,
            source.down * source.line,
            target.down * target.line,
            rows.low,
            rows.high,
        )
        d = samples, source.size, target.size, none, none
        line, column = r.distance * source.line, s.distance * C
        w_line, w_column = r.step * op.kernel_width * C, s.step * C
        w0 = op.weight + (r.first * op.kernel_width + s.first) * C
        exchanged = a[0] < b[0]
        if exchanged:
            a, b, r, s = b, a, s, r
            line, column, w_line, w_column = column, line, w_column, w_line
        if a[0] < d[0] and a[3] + a[4] == 0:
            a, d = d, a
        has_bias = kind == _FORWARD and op.bias >= 0
        for i in range(0, max(1, r.count), 3):
            for j in range(0, max(1, s.count), 3):
                high, wide = min(3, r.count - i), min(3, s.count - j)
                taps = (
                    min(1, high - 1) * line,
                    (high - 1) * line,
                    min(1, wide - 1) * column,
                    (wide - 1) * column,
                )
                w = w0 + i * w_line + j * w_column
                adds = 1 if i + j > 0 or (kind == _GATHER and op.accumulate != 0) else 0
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
                        places = x + k * d[1], y + k * d[2]
                        given = (places, b, a), taps, nine, start, ends, count
                        if high <= 0 or wide <= 0:
                            for m in range(b[0] if adds == 0 and kind == _FORWARD else 0):
                                for e in range(a[0]):
                                    store(work, places[1] + m * b[2] + e * a[2], alone, count)
                        elif kind == _WEIGHTS:
                            nine = multiply_nine(work, *given)
                        elif kind == _SCATTER:
                            scatter_nine(work, *given)
                        elif kind == _FORWARD and exchanged:  # the order depends on no other line
                            weigh_exchanged(work, *given)
                        else:
                            weigh_nine(work, *given)
                    for k in range(high if kind == _WEIGHTS else 0):
                        for m in range(wide):
                            dw = at + k * w_line + m * w_column
                            store(grads, dw, add(load(grads, dw, valid), nine[k][m]), valid)

    @njit(**JIT)
    def correlate(op, params, work, grads, n):
        """All elements of the first ``n`` samples of the chunk."""
        rows, columns, C, one = height(op), width(op), op.input_channels, np.int64(1)
        gathers, lanes = np.int64(kind == _GATHER), lanes_of(work)
        high, wide = (rows.size, columns.size) if gathers else (rows.outputs, columns.outputs)
        x, y = op.dx if kind == _SCATTER else op.x, op.y if kind == _FORWARD else op.dy
        source = _Side(x, op.input_size, columns.size * C, rows.stride, columns.stride)
        target = _Side(y, op.output_size, columns.outputs * C, one, one)
        if gathers:
            source, target = target, _Side(op.dx, op.input_size, columns.size * C, one, one)
        # Of few channels neighbours share a vector.
        shared = one
        if kind == _FORWARD and C < lanes and lanes % C == 0 and columns.stride == 1:
            shared = lanes // C
        near = 1 + _NEAR // (op.input_size + op.output_size)
        for first in range(0, n, near):
            samples = first, min(n, first + near) - first
            if kind == _SCATTER and op.accumulate == 0:
                begin = op.dx + first * op.input_size
                work[begin : begin + samples[1] * op.input_size] = 0
            h = 0
            while h < high:
                lines = _run_from(rows, h, one, gathers)
                v = 0
                while v < wide:
                    run = _run_from(columns, v, shared, gathers)
                    elements(
                        op, params, work, grads, ((source, target), (samples, lines, run), shared)
                    )
                    v += run.count
                h += lines.count

    return correlate


_forward, _gather, _scatter, _filter_gradient = map(
    _correlating, (_FORWARD, _GATHER, _SCATTER, _WEIGHTS)
)


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
        one = np.int64(1)
        if min(_all_of(height(op), one).count, _all_of(width(op), one).count) > 0:
            _gather(op, params, work, grads, n)
        else:
            _scatter(op, params, work, grads, n)
