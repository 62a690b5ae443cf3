"""Depthwise convolution: each channel has a filter of its own, forward and backward.

    y[n,p,q,c]  = b[c] + Σ_{r,s} x[n,h,v,c] · w[r,s,0,c]          h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,0,c] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,c]               v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,c] · w[r,s,0,c]          db[c] = Σ_{n,p,q} dy[n,p,q,c]

Vectors run along the channels, and a number of the filter that was loaded serves four sums: those
of neighbours in a row that the same columns of the filter belong to, or of four samples where these
are few. The plain loop is `minicnn.kernels.cpu.conv2d.plain`. Source: Howard et al.: MobileNets,
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
    outputs_inside,
    taps_inside,
    width,
)
from minicnn.kernels.cpu.tile import JIT, Rows
from minicnn.kernels.cpu.vector import add, lanes_of, load, multiply_add, put, store

_TOGETHER = 256  # pixels of dy whose products are summed up before dw is added to, at least


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


@njit(**JIT)
def _correlate(op, params, work, n, backward):
    """y = b + x * w for the first ``n`` samples of the chunk, or, ``backward``, dx from dy."""
    rows, columns, C = height(op), width(op), op.input_channels
    read, read_size, read_width = op.x, op.input_size, columns.size
    written, written_size, high, wide = op.y, op.output_size, rows.outputs, columns.outputs
    step, advance = 1, columns.stride  # of an element, and of what it reads
    if backward != 0:
        read, read_size, read_width = op.dy, op.output_size, columns.outputs
        written, written_size, high, wide = op.dx, op.input_size, rows.size, columns.size
        step, advance = columns.stride, 1
    for phase in range(step):
        v = phase
        while v < wide:
            run, s = 1, _taps_of(columns, v, backward)
            while (
                v + run * step < wide and _taps_of(columns, v + run * step, backward)[:3] == s[:3]
            ):
                run += 1
            along_samples = run < 4 and n > run
            count, others = (n, run) if along_samples else (run, n)
            source_row, source_other = advance * C, read_size
            target_row, target_other = step * C, written_size
            if along_samples:
                source_row, source_other = source_other, source_row
                target_row, target_other = target_other, target_row
            for other in range(others):
                for h in range(high):
                    r = _taps_of(rows, h, backward)
                    at = read + other * source_other + (r.position * read_width + s.position) * C
                    to = written + other * target_other + (h * wide + v) * C
                    source, target = Rows(work, at, source_row), Rows(work, to, target_row)
                    _sum(op, params, source, target, count, (r, s), read_width * C, backward)
            v += run * step


@njit(**JIT)
def _sum(op, params, source, target, count, taps, line, backward):
    """``count`` elements of the ``target``, each the sum over ``taps`` of as many of the
    ``source``. Of less than four the last one counts again."""
    (r, s), C, work = taps, op.input_channels, source.array
    w_row, w_step = r.step * op.kernel_width * C, s.step * C
    r_step, s_step = r.distance * line, s.distance * C
    first = op.weight + (r.first * op.kernel_width + s.first) * C
    adds, has_bias = backward != 0 and op.accumulate != 0, backward == 0 and op.bias >= 0
    for c in range(0, C, lanes_of(work)):
        valid = C - c
        start = load(params, op.bias + c, valid if has_bias else 0)
        for j in range(0, count, 4):
            second, third, fourth = (
                j + min(1, count - 1 - j),
                j + min(2, count - 1 - j),
                j + min(3, count - 1 - j),
            )
            to = target.offset + c
            t0, t1 = to + j * target.row, to + second * target.row
            t2, t3 = to + third * target.row, to + fourth * target.row
            a = b = d = e = start
            if adds:
                a, b = load(work, t0, valid), load(work, t1, valid)
                d, e = load(work, t2, valid), load(work, t3, valid)
            at = source.offset + c
            s0, s1 = at + j * source.row, at + second * source.row
            s2, s3 = at + third * source.row, at + fourth * source.row
            for i in range(r.count):
                w, pixel = first + i * w_row + c, i * r_step
                for _ in range(s.count):
                    factor = load(params, w, valid)
                    a = multiply_add(load(work, s0 + pixel, valid), factor, a)
                    b = multiply_add(load(work, s1 + pixel, valid), factor, b)
                    d = multiply_add(load(work, s2 + pixel, valid), factor, d)
                    e = multiply_add(load(work, s3 + pixel, valid), factor, e)
                    w, pixel = w + w_step, pixel + s_step
            put(work, t0, a, valid)
            put(work, t1, b, valid)
            put(work, t2, d, valid)
            put(work, t3, e, valid)


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    _correlate(plan[0], params, work, n, np.int64(0))


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw, db and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    together = 1 + _TOGETHER // (op.output_height * op.output_width)
    for i in range(0, n, together):
        for r in range(op.kernel_height):
            _filter_gradient(op, work, grads, (i, min(n, i + together)), r)
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * op.output_width)
    if op.dx >= 0:
        _correlate(op, params, work, n, np.int64(1))


@njit(**JIT)
def _filter_gradient(op, work, grads, samples, r):
    """dw of the filter's row ``r`` by some ``samples``, columns that belong to the same outputs
    together."""
    rows, columns, C = height(op), width(op), op.input_channels
    p, p_end = outputs_inside(rows, r)
    q = 0
    while q < columns.outputs and p < p_end:
        s, end = taps_inside(columns, q)
        run = 1
        while q + run < columns.outputs and taps_inside(columns, q + run) == (s, end):
            run += 1
        pixel = input_of(rows, p, r) * columns.size * C
        for tap in range(s, end, 3):
            x = op.x + pixel + input_of(columns, q, tap) * C
            dy = op.dy + (p * columns.outputs + q) * C
            dw = op.weight + (r * columns.taps + tap) * C
            _add_products(op, work, grads, samples, (x, dy, dw), p_end - p, run, end - tap)
        q += run


@njit(**JIT)
def _add_products(op, work, grads, samples, places, lines, run, taps):
    """dw of three taps from ``places`` on, each the sum of the products of ``lines`` of ``run``
    pixels. Two lines go side by side, for a sum waits for the one before; of less than three taps
    the last one counts again."""
    C, (x0, dy0, dw) = op.input_channels, places
    line, dy_line = op.stride_height * op.input_width * C, op.output_width * C
    second, third = min(1, taps - 1), min(2, taps - 1)
    x_second, x_third = second * op.dilation_width * C, third * op.dilation_width * C
    for c in range(0, C, lanes_of(work)):
        valid = C - c
        a, b, d = (
            load(grads, dw + c, valid),
            load(grads, dw + second * C + c, valid),
            load(grads, dw + third * C + c, valid),
        )
        e = f = g = load(work, x0, 0)  # zeros
        for i in range(samples[0], samples[1]):
            for p in range(0, lines, 2):
                also = valid if p + 1 < lines else 0
                x = x0 + i * op.input_size + p * line + c
                dy = dy0 + i * op.output_size + p * dy_line + c
                for _ in range(run):
                    above, below = load(work, dy, valid), load(work, dy + dy_line, also)
                    a = multiply_add(load(work, x, valid), above, a)
                    b = multiply_add(load(work, x + x_second, valid), above, b)
                    d = multiply_add(load(work, x + x_third, valid), above, d)
                    e = multiply_add(load(work, x + line, also), below, e)
                    f = multiply_add(load(work, x + line + x_second, also), below, f)
                    g = multiply_add(load(work, x + line + x_third, also), below, g)
                    x, dy = x + op.stride_width * C, dy + C
        store(grads, dw + c, add(a, e), valid)
        store(grads, dw + second * C + c, add(b, f), valid)
        store(grads, dw + third * C + c, add(d, g), valid)
