"""Depthwise convolution: each channel has a filter of its own, forward and backward.

    y[n,p,q,c]  = b[c] + Σ_{r,s} x[n,h,v,c] · w[r,s,0,c]          h = p·stride_h + r·dilation_h − pad_top
    dw[r,s,0,c] = Σ_{n,p,q} x[n,h,v,c] · dy[n,p,q,c]               v = q·stride_w + s·dilation_w − pad_left
    dx[n,h,v,c] = Σ over the (p,q,r,s) that read (h,v):  dy[n,p,q,c] · w[r,s,0,c]          db[c] = Σ_{n,p,q} dy[n,p,q,c]

Vectors run along the channels. The plain loop is `minicnn.kernels.cpu.conv2d.plain`. Source: Howard
et al.: MobileNets, 2017.
"""

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
from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import lanes_of, load, multiply_add, store


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    op = plan[0]
    rows, columns, C = height(op), width(op), op.input_channels
    W, S, y = columns.size, columns.taps, op.y
    for i in range(n):
        x = op.x + i * op.input_size
        for p in range(rows.outputs):
            r_first, r_end = taps_inside(rows, p)
            for q in range(columns.outputs):
                s_first, s_end = taps_inside(columns, q)
                for c in range(0, C, lanes_of(work)):
                    count = C - c
                    # A count of 0 loads zeros.
                    total = load(params, op.bias + c, count if op.bias >= 0 else 0)
                    for r in range(r_first, r_end):
                        line = x + input_of(rows, p, r) * W * C + c
                        for s in range(s_first, s_end):
                            w = load(params, op.weight + (r * S + s) * C + c, count)
                            pixel = load(work, line + input_of(columns, q, s) * C, count)
                            total = multiply_add(pixel, w, total)
                    store(work, y + c, total, count)
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
def _filter_gradient(op, work, grads, n):
    rows, columns, C = height(op), width(op), op.input_channels
    W, S, Q = columns.size, columns.taps, columns.outputs
    for i in range(n):
        x, dy = op.x + i * op.input_size, op.dy + i * op.output_size
        for r in range(rows.taps):
            p_first, p_end = outputs_inside(rows, r)
            for s in range(S):
                q_first, q_end = outputs_inside(columns, s)
                for c in range(0, C, lanes_of(work)):
                    count, dw = C - c, op.weight + (r * S + s) * C + c
                    total = load(grads, dw, count)
                    for p in range(p_first, p_end):
                        line = x + input_of(rows, p, r) * W * C + c
                        for q in range(q_first, q_end):
                            gradient = load(work, dy + (p * Q + q) * C + c, count)
                            pixel = load(work, line + input_of(columns, q, s) * C, count)
                            total = multiply_add(pixel, gradient, total)
                    store(grads, dw, total, count)


@njit(**JIT)
def _data_gradient(op, params, work, n):
    rows, columns, C = height(op), width(op), op.input_channels
    S, Q = columns.taps, columns.outputs
    for i in range(n):
        dx, dy = op.dx + i * op.input_size, op.dy + i * op.output_size
        for h in range(rows.size):
            for v in range(columns.size):
                for c in range(0, C, lanes_of(work)):
                    count = C - c
                    total = load(work, dx + c, count if op.accumulate != 0 else 0)
                    for r in range(rows.taps):
                        p = output_of(rows, h, r)
                        for s in range(S if p >= 0 else 0):
                            q = output_of(columns, v, s)
                            if q >= 0:
                                w = load(params, op.weight + (r * S + s) * C + c, count)
                                gradient = load(work, dy + (p * Q + q) * C + c, count)
                                total = multiply_add(gradient, w, total)
                    store(work, dx + c, total, count)
                dx += C
