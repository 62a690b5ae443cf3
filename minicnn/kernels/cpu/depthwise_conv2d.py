"""Depthwise convolution: each channel has a filter of its own, forward and backward.

    y[n,p,q,c]  = b[c] + Σ_{r,s} x[n,h,v,c] · w[r,s,0,c]          h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,0,c] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,c]               v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,c] · w[r,s,0,c]          db[c] = Σ_{n,p,q} dy[n,p,q,c]

Vectors run along the channels. Source: Howard et al.: MobileNets, 2017.
"""

from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES
from minicnn.kernels.cpu.vector import load, multiply_add, store


@njit(**JIT)
def _taps(position, stride, dilation, padding, taps, length):
    """First and end tap that read inside an image of ``length`` for an output ``position``."""
    start = position * stride - padding
    first = 0 if start >= 0 else (dilation - 1 - start) // dilation
    last = length - 1 - start
    return first, min(taps, last // dilation + 1) if last >= 0 else 0


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    op = plan[0]
    H, W, C, Q, S = (
        op.input_height,
        op.input_width,
        op.input_channels,
        op.output_width,
        op.kernel_width,
    )
    lanes, y = VECTOR_BYTES // work.itemsize, op.y
    for i in range(n):
        x = op.x + i * op.input_size
        for p in range(op.output_height):
            r_first, r_end = _taps(
                p, op.stride_height, op.dilation_height, op.padding_top, op.kernel_height, H
            )
            h = p * op.stride_height - op.padding_top
            for q in range(Q):
                s_first, s_end = _taps(q, op.stride_width, op.dilation_width, op.padding_left, S, W)
                v = q * op.stride_width - op.padding_left
                for c in range(0, C, lanes):
                    total = (
                        load(params, op.bias + c, C - c)
                        if op.bias >= 0
                        else load(params, op.weight, 0)
                    )
                    for r in range(r_first, r_end):
                        for s in range(s_first, s_end):
                            at = (
                                x
                                + ((h + r * op.dilation_height) * W + v + s * op.dilation_width) * C
                                + c
                            )
                            w = load(params, op.weight + (r * S + s) * C + c, C - c)
                            total = multiply_add(load(work, at, C - c), w, total)
                    store(work, y + c, total, C - c)
                y += C


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw, db and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    _filter_gradient(op, work, grads, n)
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * op.output_width)
    if op.dx >= 0:
        _data_gradient(op, params, work, n)


@njit(**JIT)
def outputs_of(tap, stride, dilation, padding, length, outputs):
    """First and end output position whose tap number ``tap`` reads inside the image."""
    start = tap * dilation - padding
    first = 0 if start >= 0 else (stride - 1 - start) // stride
    last = length - 1 - start
    return first, min(outputs, last // stride + 1) if last >= 0 else 0


@njit(**JIT)
def _filter_gradient(op, work, grads, n):
    W, C, Q, S = op.input_width, op.input_channels, op.output_width, op.kernel_width
    lanes = VECTOR_BYTES // work.itemsize
    for i in range(n):
        x, dy = op.x + i * op.input_size, op.dy + i * op.output_size
        for r in range(op.kernel_height):
            p_first, p_end = outputs_of(
                r,
                op.stride_height,
                op.dilation_height,
                op.padding_top,
                op.input_height,
                op.output_height,
            )
            for s in range(S):
                q_first, q_end = outputs_of(
                    s, op.stride_width, op.dilation_width, op.padding_left, W, Q
                )
                for c in range(0, C, lanes):
                    dw = op.weight + (r * S + s) * C + c
                    total = load(grads, dw, C - c)
                    for p in range(p_first, p_end):
                        line = (
                            x
                            + (p * op.stride_height + r * op.dilation_height - op.padding_top)
                            * W
                            * C
                            + c
                        )
                        for q in range(q_first, q_end):
                            v = q * op.stride_width + s * op.dilation_width - op.padding_left
                            gradient = load(work, dy + (p * Q + q) * C + c, C - c)
                            total = multiply_add(load(work, line + v * C, C - c), gradient, total)
                    store(grads, dw, total, C - c)


@njit(**JIT)
def _data_gradient(op, params, work, n):
    H, W, C, P, Q, S = (
        op.input_height,
        op.input_width,
        op.input_channels,
        op.output_height,
        op.output_width,
        op.kernel_width,
    )
    lanes = VECTOR_BYTES // work.itemsize
    for i in range(n):
        dx, dy = op.dx + i * op.input_size, op.dy + i * op.output_size
        for h in range(H):
            for v in range(W):
                for c in range(0, C, lanes):
                    total = load(work, dx + c, C - c) if op.accumulate != 0 else load(work, dx, 0)
                    for r in range(op.kernel_height):
                        p = h + op.padding_top - r * op.dilation_height
                        if p < 0 or p % op.stride_height != 0 or p // op.stride_height >= P:
                            continue
                        line = dy + p // op.stride_height * Q * C + c
                        for s in range(S):
                            q = v + op.padding_left - s * op.dilation_width
                            if q >= 0 and q % op.stride_width == 0 and q // op.stride_width < Q:
                                w = load(params, op.weight + (r * S + s) * C + c, C - c)
                                total = multiply_add(
                                    load(work, line + q // op.stride_width * C, C - c), w, total
                                )
                    store(work, dx + c, total, C - c)
                dx += C
