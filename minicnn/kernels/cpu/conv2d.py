"""Convolution (as in the field: cross-correlation) of NHWC images with HWIO filters, forward and backward.

    y[n,p,q,k]  = b[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k]        h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,c,k] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,k]                v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,k] · w[r,s,c,k]
    db[k]       = Σ_{n,p,q} dy[n,p,q,k]

N batch, H W C input, K R S filters, P Q output height and width. Source: Dumoulin and Visin, A guide to convolution
arithmetic for deep learning (2016).

Padding is never stored. A run of output columns that read the same filter columns is one matrix product over exactly
the input that exists; the columns near the edges are short runs of their own.

A constant argument is written ``np.int64(0)``: for a literal, Numba would compile the called function once more.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias, planar
from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES, multiply
from minicnn.kernels.cpu.vector import transpose
from minicnn.plan import ALIGNMENT


@njit(**JIT)
def _first_tap(position, stride, dilation, padding, taps):
    """The first filter row (or column) that reads inside the image for output ``position``."""
    outside = padding - position * stride
    if outside <= 0:  # the usual case needs no division
        return 0
    return min(taps, (outside + dilation - 1) // dilation)


@njit(**JIT)
def _end_tap(position, stride, dilation, padding, taps, length):
    """One past the last filter row (or column) that reads inside an image of ``length`` for output ``position``."""
    inside = length + padding - position * stride
    if inside > (taps - 1) * dilation:  # the usual case needs no division
        return taps
    return max(0, (inside + dilation - 1) // dilation)


@njit(**JIT)
def _end_of_run(q, positions, stride, dilation, padding, taps, length):
    """One past the last output column, from ``q`` on, that reads the same filter columns as ``q``."""
    first = _first_tap(q, stride, dilation, padding, taps)
    end = _end_tap(q, stride, dilation, padding, taps, length)
    q += 1
    while (
        q < positions
        and _first_tap(q, stride, dilation, padding, taps) == first
        and _end_tap(q, stride, dilation, padding, taps, length) == end
    ):
        q += 1
    return q


@njit(**JIT)
def _correlate(layer, N, H, W, C, P, Q, K, R, S, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
               x, x0, w, w0, b, b0, y, y0):  # fmt: skip
    """y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k], the buffers given as arrays and offsets; b0 < 0: no bias."""
    q = np.int64(0)
    while q < Q:
        run = _end_of_run(q, Q, stride_w, dilation_w, pad_left, S, W) - q
        s_first = _first_tap(q, stride_w, dilation_w, pad_left, S)
        taps = _end_tap(q, stride_w, dilation_w, pad_left, S, W) - s_first
        v = q * stride_w + s_first * dilation_w - pad_left
        # The rows of the product go along the output columns, or along the samples where these few columns fill no block.
        along_samples = run < 8 and N > run
        rows, others = (N, run) if along_samples else (run, N)
        x_row, x_other = (H * W * C, stride_w * C) if along_samples else (stride_w * C, H * W * C)
        y_row, y_other = (P * Q * K, K) if along_samples else (K, P * Q * K)
        for p in range(P):
            r_first = _first_tap(p, stride_h, dilation_h, pad_top, R)
            r_end = _end_tap(p, stride_h, dilation_h, pad_top, R, H)
            h = p * stride_h + r_first * dilation_h - pad_top
            for other in range(others):
                out = y0 + (p * Q + q) * K + other * y_other
                if r_end <= r_first or taps <= 0:
                    for row in range(rows):
                        for k in range(K):
                            y[out + row * y_row + k] = b[b0 + k] if b0 >= 0 else 0
                    continue
                at = x0 + (h * W + v) * C + other * x_other
                if dilation_w == 1:  # (s, c) is contiguous in x and in w
                    multiply(layer.multiply, rows, K, r_end - r_first, taps * C, x, at, x_row, dilation_h * W * C, 1,
                             w, w0 + (r_first * S + s_first) * C * K, S * C * K, K, b, b0, 0, y, out, y_row)  # fmt: skip
                else:
                    multiply(layer.multiply, rows, K, taps, C, x, at, x_row, dilation_w * C, 1,
                             w, w0 + (r_first * S + s_first) * C * K, C * K, K, b, b0, 0, y, out, y_row)  # fmt: skip
                    for r in range(r_first + 1, r_end):
                        line = at + (r - r_first) * dilation_h * W * C
                        multiply(layer.multiply, rows, K, taps, C, x, line, x_row, dilation_w * C, 1,
                                 w, w0 + (r * S + s_first) * C * K, C * K, K, y, out, y_row, y, out, y_row)  # fmt: skip
        q += run


@njit(**JIT)
def _joined_places(layer):
    """Where the filters of joined columns, their bias and their gradient begin in ``work``."""
    joined_width = layer.kernel_width + (layer.joined - 1) * layer.stride_width
    columns = layer.joined * layer.output_channels
    size = (layer.kernel_height * joined_width * layer.input_channels * columns + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    filters = layer.joined_filters
    return filters, filters + 2 * size, filters + size, size


@njit(**JIT)
def _joined_tap(layer, r, s, c, j):
    """Place, among the filters of joined columns [r, t, c, (j, k)], of column j's own filter element (r, s, c)."""
    joined_width = layer.kernel_width + (layer.joined - 1) * layer.stride_width
    t = s + j * layer.stride_width
    return (((r * joined_width + t) * layer.input_channels + c) * layer.joined + j) * layer.output_channels


@njit(**JIT)
def _join_filters(layer, params, work):
    """filters[r, t, c, (j, k)] = w[r, t − j·stride, c, k], zero where column j does not read: J columns become one."""
    K, C, S = layer.output_channels, layer.input_channels, layer.kernel_width
    filters, joined_bias, _, size = _joined_places(layer)
    work[filters : filters + size] = 0
    for j in range(layer.joined):
        for k in range(K):
            work[joined_bias + j * K + k] = params[layer.bias + k] if layer.bias >= 0 else 0
        for r in range(layer.kernel_height):
            for s in range(S):
                for c in range(C):
                    source, target = layer.weight + ((r * S + s) * C + c) * K, filters + _joined_tap(layer, r, s, c, j)
                    for k in range(K):
                        work[target + k] = params[source + k]


@njit(**JIT)
def forward(layer, params, work, n):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    if layer.pitch > 0:
        planar.forward(layer, params, work, n)
        return
    J = layer.joined
    w, w0, b0 = params, layer.weight, layer.bias
    if J > 1:
        _join_filters(layer, params, work)
        w, (w0, b0, _, _) = work, _joined_places(layer)
    _correlate(layer, n, layer.input_height, layer.input_width, layer.input_channels,
               layer.output_height, layer.output_width // J, layer.output_channels * J,
               layer.kernel_height, layer.kernel_width + (J - 1) * layer.stride_width,
               layer.stride_height, layer.stride_width * J, layer.padding_top, layer.padding_left,
               layer.dilation_height, layer.dilation_width, work, layer.input, w, w0, w, b0, work, layer.output)  # fmt: skip


@njit(**JIT)
def _scatters(layer, itemsize):
    """Whether dx is better made by adding filter rows where they belong than by reading dy with turned filters.

    It must be with a stride; and few channels fill a vector better as part of a filter row (s, c) than by themselves.
    """
    lanes, S, C = VECTOR_BYTES // itemsize, layer.kernel_width, layer.input_channels
    vectors_by_channel, vectors_by_row = S * ((C + lanes - 1) // lanes), (S * C + lanes - 1) // lanes
    strided = layer.stride_height != 1 or layer.stride_width != 1
    return strided or (layer.dilation_width == 1 and vectors_by_channel > 1.3 * vectors_by_row)


@njit(**JIT)
def turn(layer, params, turned, part, parts):
    """The filters as ``backward_data`` reads them: [R−1−r, S−1−s, k, c], or [r, k, s, c] where it scatters.

    Each of ``parts`` threads turns its own taps.
    """
    R, S, C, K = layer.kernel_height, layer.kernel_width, layer.input_channels, layer.output_channels
    scatters = _scatters(layer, params.itemsize)
    for tap in range(R * S * part // parts, R * S * (part + 1) // parts):
        source = layer.weight + tap * C * K
        if scatters:
            transpose(params, source, C, K, K, turned, layer.weight + (tap // S * K * S + tap % S) * C, S * C)
        else:
            transpose(params, source, C, K, K, turned, layer.weight + (R * S - 1 - tap) * K * C, C)


@njit(**JIT)
def backward_data(layer, turned, work, n):
    """dx from dy. With stride 1 it is itself a convolution: of dy with the turned filters."""
    if _scatters(layer, work.itemsize):
        _scatter(layer, turned, work, n)
    else:
        dilation_h, dilation_w = layer.dilation_height, layer.dilation_width
        _correlate(layer, n, layer.output_height, layer.output_width, layer.output_channels,
                   layer.input_height, layer.input_width, layer.input_channels,
                   layer.kernel_height, layer.kernel_width, np.int64(1), np.int64(1),
                   dilation_h * (layer.kernel_height - 1) - layer.padding_top,
                   dilation_w * (layer.kernel_width - 1) - layer.padding_left, dilation_h, dilation_w,
                   work, layer.d_output, turned, layer.weight, turned, np.int64(-1), work, layer.d_input)  # fmt: skip


@njit(**JIT)
def _scatter(layer, turned, work, n):
    """dx[n,h,v,c] += Σ_{r,k} dy[n,p,q,k] · w[r,s,c,k] for each (h, q), all (s, c) at once; the rows are the samples."""
    H, W, C = layer.input_height, layer.input_width, layer.input_channels
    P, Q, K = layer.output_height, layer.output_width, layer.output_channels
    R, S, dilation_w = layer.kernel_height, layer.kernel_width, layer.dilation_width
    stride_h, dilation_h = layer.stride_height, layer.dilation_height
    work[layer.d_input : layer.d_input + n * H * W * C] = 0
    for h in range(H):
        # The filter rows that read line h are equally far apart, and so are the lines p of dy that they were read for.
        first, lines, apart = 0, 0, 1
        for r in range(R):
            at = h + layer.padding_top - r * dilation_h
            if at >= 0 and at % stride_h == 0 and at // stride_h < P:
                if lines == 0:
                    first = r
                elif lines == 1:
                    apart = r - first
                lines += 1
        if lines == 0:
            continue
        p = (h + layer.padding_top - first * dilation_h) // stride_h
        for q in range(Q):
            s_first = _first_tap(q, layer.stride_width, dilation_w, layer.padding_left, S)
            taps = _end_tap(q, layer.stride_width, dilation_w, layer.padding_left, S, W) - s_first
            if taps <= 0:
                continue
            # The rows of dx that follow each other here do not overlap, so no load waits for the store before.
            v = q * layer.stride_width + s_first * dilation_w - layer.padding_left
            groups, width = (1, taps * C) if dilation_w == 1 else (taps, C)
            for s in range(groups):
                dx = layer.d_input + (h * W + v + s * dilation_w) * C
                multiply(layer.multiply, n, width, lines, K, work, layer.d_output + (p * Q + q) * K, P * Q * K,
                         -(apart * dilation_h // stride_h) * Q * K, 1, turned,
                         layer.weight + (first * K * S + s_first + s) * C, apart * K * S * C, S * C,
                         work, dx, H * W * C, work, dx, H * W * C)  # fmt: skip


@njit(**JIT)
def backward_filter(layer, work, grads, n):
    """dw += x ⋆ dy and db += Σ dy over the first ``n`` samples of the chunk."""
    if layer.pitch > 0:
        planar.backward_filter(layer, work, grads, n)
        return
    K, C, S = layer.output_channels, layer.input_channels, layer.kernel_width
    if layer.joined > 1:
        _, _, d_filters, size = _joined_places(layer)
        work[d_filters : d_filters + size] = 0
        _correlate_filter(layer, work, n, work, d_filters)
        for j in range(layer.joined):
            for r in range(layer.kernel_height):
                for s in range(S):
                    for c in range(C):
                        source = d_filters + _joined_tap(layer, r, s, c, j)
                        target = layer.weight + ((r * S + s) * C + c) * K
                        for k in range(K):
                            grads[target + k] += work[source + k]
    else:
        _correlate_filter(layer, work, n, grads, layer.weight)
    if layer.bias >= 0:
        bias.backward(layer, work, grads, n * layer.output_height * layer.output_width)


@njit(**JIT)
def _correlate_filter(layer, work, n, dw, dw0):
    """dw[r,s,c,k] += Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,k]; joined columns count as one column with more filters."""
    H, W, C, J = layer.input_height, layer.input_width, layer.input_channels, layer.joined
    P, Q, K = layer.output_height, layer.output_width // J, layer.output_channels * J
    stride_h, stride_w = layer.stride_height, layer.stride_width * J
    R, S = layer.kernel_height, layer.kernel_width + (J - 1) * layer.stride_width
    dilation_h, dilation_w = layer.dilation_height, layer.dilation_width
    pad_top, pad_left = layer.padding_top, layer.padding_left
    for i in range(n):
        x, dy = layer.input + i * H * W * C, layer.d_output + i * P * Q * K
        for r in range(R):
            p = max(0, (pad_top - r * dilation_h + stride_h - 1) // stride_h)
            lines = min(P, (H - 1 + pad_top - r * dilation_h) // stride_h + 1) - p
            h = p * stride_h + r * dilation_h - pad_top
            q = np.int64(0)
            while q < Q and lines > 0:
                run = _end_of_run(q, Q, stride_w, dilation_w, pad_left, S, W) - q
                s_first = _first_tap(q, stride_w, dilation_w, pad_left, S)
                taps = _end_tap(q, stride_w, dilation_w, pad_left, S, W) - s_first
                v = q * stride_w + s_first * dilation_w - pad_left
                # A run of one column is summed along the lines in one loop instead of two.
                outer, x_outer, dy_outer = lines, stride_h * W * C, Q * K
                inner, x_inner, dy_inner = run, stride_w * C, K
                if run == 1:
                    outer, inner, x_inner, dy_inner = 1, lines, x_outer, dy_outer
                groups, rows = (1, taps * C) if dilation_w == 1 else (taps, C)  # (s, c) is contiguous only undilated
                for s in range(groups if taps > 0 else 0):
                    at = dw0 + (r * S + s_first + s) * C * K
                    multiply(layer.multiply, rows, K, outer, inner, work, x + (h * W + v + s * dilation_w) * C, 1,
                             x_outer, x_inner, work, dy + (p * Q + q) * K, dy_outer, dy_inner,
                             dw, at, K, dw, at, K)  # fmt: skip
                q += run
