"""Convolution (as in the field: cross-correlation) of NHWC images with HWIO filters, forward and
backward.

    y[n,p,q,k]  = b[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k]        h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,c,k] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,k]                v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,k] · w[r,s,c,k]
    db[k]       = Σ_{n,p,q} dy[n,p,q,k]

In inference, with ``relu``, also y = max(0, y), a ReLU after it.
N batch, H W C input, K R S filters, P Q output height and width. Source: Dumoulin and Visin, A
guide to convolution arithmetic for deep learning (2016).

Padding is never stored. A run of outputs that read the same taps of the filters is one matrix
product over exactly the input that exists; those near the edges are short runs of their own. Large
filters are read once, a tap after the other, each for all outputs for which it is inside.

A constant argument is written ``np.int64(0)``: for a literal, Numba would compile the called
function once more.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from minicnn.kernels.common import Axis
from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.arrays import filters, inputs, outputs
from minicnn.kernels.cpu.axis import (
    height,
    input_of,
    output_of,
    outputs_inside,
    taps_inside,
    width,
)
from minicnn.kernels.cpu.tile import ENTRY, JIT, VECTOR_BYTES, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import transpose as transpose_matrix


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """The formula as it stands, of groups too, which all convolutions are tested against."""
    op = plan[0]
    x, y, w = inputs(op, work, n), outputs(op, work, n), filters(op, params)
    R, S, C, K = w.shape
    for i, p, q, k in np.ndindex(y.shape):
        total = params[op.bias + k] if op.bias >= 0 else params.dtype.type(0)
        for r, s, c in np.ndindex((R, S, C)):
            h = p * op.stride_height + r * op.dilation_height - op.padding_top
            v = q * op.stride_width + s * op.dilation_width - op.padding_left
            if 0 <= h < op.input_height and 0 <= v < op.input_width:
                total += x[i, h, v, k // (K // op.groups) * C + c] * w[r, s, c, k]
        y[i, p, q, k] = np.maximum(total, 0.0) if op.relu else total


# Bytes of filters that stay in a core's own cache from one product to the next.
_CACHED = 1 << 19
# Outputs of a sample below which a product of dw sums over all samples: a sum of few would spend its
# time with reading and writing dw.
_FEW = 32


class Pass(NamedTuple):
    """A convolution as one pass sees it, of x [n, H, W, C] into y [n, P, Q, K]."""

    rows: Axis
    columns: Axis
    C: int
    K: int
    row: int  # from a pixel of y, or a channel of a filter tap, to the next: K of all filters
    x: int  # places in the workspace
    y: int


@njit(**JIT)
def _end_of_run(columns, q):
    """One past the last output, from ``q`` on, that reads the same taps as ``q``."""
    taps = taps_inside(columns, q)
    q += 1
    while q < columns.outputs and taps_inside(columns, q) == taps:
        q += 1
    return q


@njit(**JIT)
def _correlate(op, geometry, n, work, weights, bias, adds):
    """y[n,p,q,k] = bias[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k]; the filters and, unless it is −1,
    the place ``bias`` are in ``weights``.

    With ``adds`` y is added to in place of the bias.
    """
    rows, columns, C, K, row, _, y = geometry
    P, Q, none = rows.outputs, columns.outputs, np.int64(0)
    size = rows.taps * columns.taps * C * row  # of all filters, whatever piece this is
    before = max(rows.padding - rows.taps, columns.padding - columns.taps)
    after = max(
        input_of(rows, P - 1, none) - rows.size, input_of(columns, Q - 1, none) - columns.size
    )
    # Taps further apart than the image is high may miss it on both sides. What no tap reads has the
    # bias alone. How the others are summed does not depend on that: a piece has other padding.
    all_read = max(before, after) < 0 and rows.dilation <= rows.size
    runs = columns.dilation == 1 and size * work.itemsize <= _CACHED
    rest = 0 if runs and all_read else n * P * Q  # what the products do not begin and end
    for pixel in range(rest if adds == 0 else 0):
        for k in range(K):
            work[y + pixel * row + k] = weights[bias + k] if bias >= 0 else 0
    if runs:
        q = none
        while q < Q:
            q_end, p = _end_of_run(columns, q), none
            while p < P:
                p_end = _end_of_run(rows, p)
                outputs = p, p_end, q, q_end
                taps = taps_inside(rows, p) + taps_inside(columns, q)
                _products(op, geometry, n, work, outputs, taps, (weights, bias, adds, op.relu))
                p = p_end
            q = q_end
    for r in range(0 if runs else rows.taps):
        lines = outputs_inside(rows, r)
        for s in range(columns.taps):
            outputs, taps = lines + outputs_inside(columns, s), (r, r + 1, s, s + 1)
            _products(op, geometry, n, work, outputs, taps, (weights, bias, np.int64(1), none))
    for pixel in range(rest if op.relu != 0 else 0):
        for k in range(y + pixel * row, y + pixel * row + K):
            work[k] = 0 if work[k] < 0 else work[k]


@njit(**JIT)
def _products(op, geometry, n, work, outputs, taps, given):
    """``outputs`` (p, end of p, q, end of q) by ``taps`` (r, end, s, end), which they all read
    inside the image; ``given`` are weights, bias and adds of `_correlate`, and whether a ReLU ends
    it."""
    (rows, columns, C, K, row, x, y), (weights, bias, adds, relu) = geometry, given
    (p, p_end, q, q_end), (r, r_end, s, s_end) = outputs, taps
    S, W, Q = columns.taps, columns.size, columns.outputs
    # How many, and from one to the next in x and in y. The rows of a product go along the columns,
    # or where these few fill no block, along the lines or the samples.
    along, outer = (q_end - q, columns.stride * C, row), (p_end - p, rows.stride * W * C, Q * row)
    inner = n, rows.size * W * C, rows.outputs * Q * row
    if along[0] < 8 and along[0] < max(outer[0], n):
        if outer[0] >= n:
            along, outer = outer, along
        else:
            along, inner = inner, along
    x += (input_of(rows, p, r) * W + input_of(columns, q, s)) * C
    y += (p * Q + q) * row
    filters = Vectors(weights, op.weight + (r * S + s) * C * row, S * C * row, row)
    shape = along[0], K, r_end - r, (s_end - s) * C, relu  # (s, c) is contiguous in x and in w
    # none, where a tap is outside for all
    for i in range(outer[0] if r_end > r and s_end > s else 0):
        for j in range(inner[0]):
            first, line = x + i * outer[1] + j * inner[1], rows.dilation * W * C
            sums = Rows(work, y + i * outer[2] + j * inner[2], along[2])
            init = sums if adds != 0 else Rows(weights, bias, np.int64(0))
            pixels = Scalars(work, first, along[1], line, 1)
            multiply(op.multiply, shape, pixels, filters, init, sums)


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    op = plan[0]
    row = op.output_size // (op.output_height * op.output_width)
    geometry = Pass(height(op), width(op), op.input_channels, op.output_channels, row, op.x, op.y)
    _correlate(op, geometry, n, work, params, op.bias, np.int64(0))


@njit(**JIT)
def _scatters(op, itemsize):
    """Whether dx is better made by adding filter rows where they belong than by reading dy with
    transposed filters.

    It must be with a stride; and few channels fill a vector better as part of a filter row (s, c)
    than by themselves.
    """
    lanes, S, C = VECTOR_BYTES // itemsize, op.kernel_width, op.input_channels
    vectors_per_channel = S * ((C + lanes - 1) // lanes)
    vectors_per_row = (S * C + lanes - 1) // lanes
    strided = op.stride_height != 1 or op.stride_width != 1
    return strided or (op.dilation_width == 1 and vectors_per_channel > vectors_per_row)


@njit(**JIT)
def transpose(plan, params, transposed):
    """The filters as the backward pass reads them: [R−1−r, S−1−s, k, c], or [r, k, s, c] where it
    scatters."""
    op = plan[0]
    R, S, C, K = op.kernel_height, op.kernel_width, op.input_channels, op.output_channels
    scatters = _scatters(op, params.itemsize)
    for tap in range(R * S):
        target, row = op.weight + (R * S - 1 - tap) * K * C, C
        if scatters:
            target, row = op.weight + (tap // S * K * S + tap % S) * C, S * C
        source = Rows(params, op.weight + tap * C * K, K)
        transpose_matrix(source, Rows(transposed, target, row), C, K)


@njit(**JIT)
def reverse(axis):
    """The axis from dy to dx: a convolution with stride 1."""
    padding = axis.dilation * (axis.taps - 1) - axis.padding
    return Axis(axis.outputs, axis.size, axis.taps, np.int64(1), axis.dilation, padding)


@njit(**JIT)
def backward_weights(plan, params, transposed, work, grads, n, key, first_sample):
    """dw += x ⋆ dy and db += Σ dy over the first ``n`` samples of the chunk."""
    op = plan[0]
    _correlate_filter(op, work, n, grads)
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * op.output_width)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """The same, and dx from dy, which is a convolution with stride 1."""
    op = plan[0]
    backward_weights(plan, params, transposed, work, grads, n, key, first_sample)
    if _scatters(op, work.itemsize):
        _scatter(op, transposed, work, n)
        return
    rows, columns = reverse(height(op)), reverse(width(op))
    C = op.input_channels
    geometry = Pass(rows, columns, op.output_channels, C, C, op.dy, op.dx)
    _correlate(op, geometry, n, work, transposed, np.int64(-1), op.accumulate)


@njit(**JIT)
def _scatter(op, transposed, work, n):
    """dx[n,h,v,c] += Σ_{r,k} dy[n,p,q,k] · w[r,s,c,k] for each (h, q), all (s, c) at once; the rows
    are the samples."""
    rows, columns = height(op), width(op)
    C, K, S, W, Q = (
        op.input_channels,
        op.output_channels,
        columns.taps,
        columns.size,
        columns.outputs,
    )
    if op.accumulate == 0:
        work[op.dx : op.dx + n * op.input_size] = 0
    for h in range(rows.size):
        # The filter rows that read line h are equally far apart, and so are the lines p of dy that
        # they were read for.
        first, lines, step = np.int64(0), 0, 1
        for r in range(rows.taps):
            if output_of(rows, h, r) >= 0:
                if lines == 0:
                    first = r
                elif lines == 1:
                    step = r - first
                lines += 1
        if lines == 0:
            continue
        p = output_of(rows, h, first)
        dy_line = -(step * rows.dilation // rows.stride) * Q * K
        for q in range(Q):
            s, end = taps_inside(columns, q)
            if end <= s:
                continue
            # The rows of dx that follow each other here do not overlap, so no load waits for the
            # store before.
            place = op.dx + (h * W + input_of(columns, q, s)) * C
            products, channels = (1, (end - s) * C) if columns.dilation == 1 else (end - s, C)
            for i in range(products):
                dx = Rows(work, place + i * columns.dilation * C, op.input_size)
                w = op.weight + (first * K * S + s + i) * C
                multiply(
                    op.multiply,
                    (n, channels, lines, K),
                    Scalars(work, op.dy + (p * Q + q) * K, op.output_size, dy_line, 1),
                    Vectors(transposed, w, step * K * S * C, S * C),
                    dx,
                    dx,
                )


@njit(**JIT)
def _correlate_filter(op, work, n, grads):
    """dw[r,s,c,k] += Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,k]."""
    rows, columns = height(op), width(op)
    C, K, S, W, Q = (
        op.input_channels,
        op.output_channels,
        columns.taps,
        columns.size,
        columns.outputs,
    )
    few = rows.outputs * Q < _FEW
    together = n if few else np.int64(1)
    for i in range(0, n, together):
        for r in range(rows.taps):
            p, p_end = outputs_inside(rows, r)
            x_line = op.x + i * op.input_size + input_of(rows, p, r) * W * C
            q = np.int64(0)
            while q < Q and p_end > p:
                run = _end_of_run(columns, q) - q
                s, end = taps_inside(columns, q)
                # How many, and from one to the next in x and in dy. A product sums along two of
                # lines, columns and samples; the third is gone through, of few outputs the shorter
                # of lines and columns.
                outer, inner = (p_end - p, rows.stride * W * C, Q * K), (run, columns.stride * C, K)
                third = together, op.input_size, op.output_size
                if few or run == 1:
                    shorter, longer = (inner, outer) if inner[0] < outer[0] else (outer, inner)
                    outer, inner, third = third, longer, shorter
                # (s, c) is contiguous only undilated
                products, m = (1, (end - s) * C) if columns.dilation == 1 else (end - s, C)
                dy = op.dy + i * op.output_size + (p * Q + q) * K
                for tap in range(products if end > s else 0):
                    x = x_line + (input_of(columns, q, s) + tap * columns.dilation) * C
                    dw = Rows(grads, op.weight + (r * S + s + tap) * C * K, K)
                    for j in range(third[0]):
                        multiply(
                            op.multiply,
                            (m, K, outer[0], inner[0]),
                            Scalars(work, x + j * third[1], 1, outer[1], inner[1]),
                            Vectors(work, dy + j * third[2], outer[2], inner[2]),
                            dw,
                            dw,
                        )
                q += run
