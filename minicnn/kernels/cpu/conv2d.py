"""Convolution (as in the field: cross-correlation) of NHWC images with HWIO filters, forward and
backward.

    y[n,p,q,k]  = b[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k]        h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,c,k] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,k]                v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,k] · w[r,s,c,k]
    db[k]       = Σ_{n,p,q} dy[n,p,q,k]

N batch, H W C input, K R S filters, P Q output height and width. Source: Dumoulin and Visin, A
guide to convolution arithmetic for deep learning (2016).

Padding is never stored. A run of output columns that read the same filter columns is one matrix
product over exactly the input that exists; the columns near the edges are short runs of their own.

A constant argument is written ``np.int64(0)``: for a literal, Numba would compile the called
function once more.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES, multiply
from minicnn.kernels.cpu.vector import transpose as transpose_matrix


@njit(**JIT)
def _first_tap(position, stride, dilation, padding, taps):
    """The first filter row (or column) that reads inside the image for output ``position``."""
    outside = padding - position * stride
    if outside <= 0:  # the usual case needs no division
        return 0
    return min(taps, (outside + dilation - 1) // dilation)


@njit(**JIT)
def _end_tap(position, stride, dilation, padding, taps, length):
    """One past the last filter row (or column) that reads inside an image of ``length`` for output
    ``position``."""
    inside = length + padding - position * stride
    if inside > (taps - 1) * dilation:  # the usual case needs no division
        return taps
    return max(0, (inside + dilation - 1) // dilation)


@njit(**JIT)
def _end_of_run(q, positions, stride, dilation, padding, taps, length):
    """One past the last output column, from ``q`` on, that reads the same filter columns as
    ``q``."""
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
def _correlate(
    op,
    N,
    H,
    W,
    C,
    P,
    Q,
    K,
    R,
    S,
    stride_h,
    stride_w,
    pad_top,
    pad_left,
    dilation_h,
    dilation_w,
    x,
    x0,
    w,
    w0,
    b,
    b0,
    adds,
    y,
    y0,
):
    """y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k], the buffers given as arrays and
    offsets; b0 < 0: no bias.

    With ``adds`` y is added to in place of the bias.
    """
    q = np.int64(0)
    while q < Q:
        run = _end_of_run(q, Q, stride_w, dilation_w, pad_left, S, W) - q
        s_first = _first_tap(q, stride_w, dilation_w, pad_left, S)
        taps = _end_tap(q, stride_w, dilation_w, pad_left, S, W) - s_first
        v = q * stride_w + s_first * dilation_w - pad_left
        # The rows of the product go along the output columns, or along the samples where these few
        # columns fill no block.
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
                    for row in range(rows if adds == 0 else 0):
                        for k in range(K):
                            y[out + row * y_row + k] = b[b0 + k] if b0 >= 0 else 0
                    continue
                start, start0, start_row = (y, out, y_row) if adds != 0 else (b, b0, 0)
                at = x0 + (h * W + v) * C + other * x_other
                if dilation_w == 1:  # (s, c) is contiguous in x and in w
                    multiply(
                        op.multiply,
                        rows,
                        K,
                        r_end - r_first,
                        taps * C,
                        x,
                        at,
                        x_row,
                        dilation_h * W * C,
                        1,
                        w,
                        w0 + (r_first * S + s_first) * C * K,
                        S * C * K,
                        K,
                        start,
                        start0,
                        start_row,
                        y,
                        out,
                        y_row,
                    )
                else:
                    multiply(
                        op.multiply,
                        rows,
                        K,
                        taps,
                        C,
                        x,
                        at,
                        x_row,
                        dilation_w * C,
                        1,
                        w,
                        w0 + (r_first * S + s_first) * C * K,
                        C * K,
                        K,
                        start,
                        start0,
                        start_row,
                        y,
                        out,
                        y_row,
                    )
                    for r in range(r_first + 1, r_end):
                        line = at + (r - r_first) * dilation_h * W * C
                        multiply(
                            op.multiply,
                            rows,
                            K,
                            taps,
                            C,
                            x,
                            line,
                            x_row,
                            dilation_w * C,
                            1,
                            w,
                            w0 + (r * S + s_first) * C * K,
                            C * K,
                            K,
                            y,
                            out,
                            y_row,
                            y,
                            out,
                            y_row,
                        )
        q += run


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    op = plan[0]
    _correlate(
        op,
        n,
        op.input_height,
        op.input_width,
        op.input_channels,
        op.output_height,
        op.output_width,
        op.output_channels,
        op.kernel_height,
        op.kernel_width,
        op.stride_height,
        op.stride_width,
        op.padding_top,
        op.padding_left,
        op.dilation_height,
        op.dilation_width,
        work,
        op.x,
        params,
        op.weight,
        params,
        op.bias,
        np.int64(0),
        work,
        op.y,
    )


@njit(**JIT)
def _scatters(op, itemsize):
    """Whether dx is better made by adding filter rows where they belong than by reading dy with
    transposed filters.

    It must be with a stride; and few channels fill a vector better as part of a filter row (s, c)
    than by themselves.
    """
    lanes, S, C = VECTOR_BYTES // itemsize, op.kernel_width, op.input_channels
    vectors_by_channel, vectors_by_row = (
        S * ((C + lanes - 1) // lanes),
        (S * C + lanes - 1) // lanes,
    )
    strided = op.stride_height != 1 or op.stride_width != 1
    return strided or (op.dilation_width == 1 and vectors_by_channel > 1.3 * vectors_by_row)


@njit(**JIT)
def transpose(plan, params, transposed):
    """The filters as the backward pass reads them: [R−1−r, S−1−s, k, c], or [r, k, s, c] where it
    scatters."""
    op = plan[0]
    R, S, C, K = op.kernel_height, op.kernel_width, op.input_channels, op.output_channels
    scatters = _scatters(op, params.itemsize)
    for tap in range(R * S):
        source = op.weight + tap * C * K
        if scatters:
            transpose_matrix(
                params,
                source,
                C,
                K,
                K,
                transposed,
                op.weight + (tap // S * K * S + tap % S) * C,
                S * C,
            )
        else:
            transpose_matrix(
                params, source, C, K, K, transposed, op.weight + (R * S - 1 - tap) * K * C, C
            )


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw += x ⋆ dy and db += Σ dy over the first ``n`` samples of the chunk; dx from dy, which is a
    convolution with stride 1."""
    op = plan[0]
    _correlate_filter(op, work, n, grads)
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * op.output_width)
    if op.dx < 0:
        return
    if _scatters(op, work.itemsize):
        _scatter(op, transposed, work, n)
        return
    dilation_h, dilation_w = op.dilation_height, op.dilation_width
    _correlate(
        op,
        n,
        op.output_height,
        op.output_width,
        op.output_channels,
        op.input_height,
        op.input_width,
        op.input_channels,
        op.kernel_height,
        op.kernel_width,
        np.int64(1),
        np.int64(1),
        dilation_h * (op.kernel_height - 1) - op.padding_top,
        dilation_w * (op.kernel_width - 1) - op.padding_left,
        dilation_h,
        dilation_w,
        work,
        op.dy,
        transposed,
        op.weight,
        transposed,
        np.int64(-1),
        op.accumulate,
        work,
        op.dx,
    )


@njit(**JIT)
def _scatter(op, transposed, work, n):
    """dx[n,h,v,c] += Σ_{r,k} dy[n,p,q,k] · w[r,s,c,k] for each (h, q), all (s, c) at once; the rows
    are the samples."""
    H, W, C = op.input_height, op.input_width, op.input_channels
    P, Q, K = op.output_height, op.output_width, op.output_channels
    R, S, dilation_w = op.kernel_height, op.kernel_width, op.dilation_width
    stride_h, dilation_h = op.stride_height, op.dilation_height
    if op.accumulate == 0:
        work[op.dx : op.dx + n * H * W * C] = 0
    for h in range(H):
        # The filter rows that read line h are equally far apart, and so are the lines p of dy that
        # they were read for.
        first, lines, apart = 0, 0, 1
        for r in range(R):
            at = h + op.padding_top - r * dilation_h
            if at >= 0 and at % stride_h == 0 and at // stride_h < P:
                if lines == 0:
                    first = r
                elif lines == 1:
                    apart = r - first
                lines += 1
        if lines == 0:
            continue
        p = (h + op.padding_top - first * dilation_h) // stride_h
        for q in range(Q):
            s_first = _first_tap(q, op.stride_width, dilation_w, op.padding_left, S)
            taps = _end_tap(q, op.stride_width, dilation_w, op.padding_left, S, W) - s_first
            if taps <= 0:
                continue
            # The rows of dx that follow each other here do not overlap, so no load waits for the
            # store before.
            v = q * op.stride_width + s_first * dilation_w - op.padding_left
            groups, width = (1, taps * C) if dilation_w == 1 else (taps, C)
            for s in range(groups):
                dx = op.dx + (h * W + v + s * dilation_w) * C
                multiply(
                    op.multiply,
                    n,
                    width,
                    lines,
                    K,
                    work,
                    op.dy + (p * Q + q) * K,
                    P * Q * K,
                    -(apart * dilation_h // stride_h) * Q * K,
                    1,
                    transposed,
                    op.weight + (first * K * S + s_first + s) * C,
                    apart * K * S * C,
                    S * C,
                    work,
                    dx,
                    H * W * C,
                    work,
                    dx,
                    H * W * C,
                )


@njit(**JIT)
def _correlate_filter(op, work, n, grads):
    """dw[r,s,c,k] += Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,k]."""
    H, W, C = op.input_height, op.input_width, op.input_channels
    P, Q, K = op.output_height, op.output_width, op.output_channels
    stride_h, stride_w = op.stride_height, op.stride_width
    R, S = op.kernel_height, op.kernel_width
    dilation_h, dilation_w = op.dilation_height, op.dilation_width
    pad_top, pad_left = op.padding_top, op.padding_left
    for i in range(n):
        x, dy = op.x + i * H * W * C, op.dy + i * P * Q * K
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
                groups, rows = (
                    (1, taps * C) if dilation_w == 1 else (taps, C)
                )  # (s, c) is contiguous only undilated
                for s in range(groups if taps > 0 else 0):
                    at = op.weight + (r * S + s_first + s) * C * K
                    multiply(
                        op.multiply,
                        rows,
                        K,
                        outer,
                        inner,
                        work,
                        x + (h * W + v + s * dilation_w) * C,
                        1,
                        x_outer,
                        x_inner,
                        work,
                        dy + (p * Q + q) * K,
                        dy_outer,
                        dy_inner,
                        grads,
                        at,
                        K,
                        grads,
                        at,
                        K,
                    )
                q += run
