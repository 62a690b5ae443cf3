"""Convolution in groups: filter k reads the C/G channels of group k // (K/G) alone, forward and
backward.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, h, v, g·C/G + c] · w[r,s,c,k]          g = k // (K/G), 0 ≤ c < C/G

h, v and the gradients are those of `minicnn.kernels.cpu.conv2d`. Each tap of each group is a matrix
product whose rows are output columns. Source: Krizhevsky, Sutskever, Hinton: ImageNet
classification with deep convolutional networks, 2012.
"""

from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.depthwise_conv2d import outputs_of
from minicnn.kernels.cpu.tile import JIT, multiply


@njit(**JIT)
def _tap(op, r, s):
    """(p, lines, q, columns): the outputs whose tap (r, s) reads inside the image; and the pixel
    that the first reads."""
    p, p_end = outputs_of(
        r, op.stride_height, op.dilation_height, op.padding_top, op.input_height, op.output_height
    )
    q, q_end = outputs_of(
        s, op.stride_width, op.dilation_width, op.padding_left, op.input_width, op.output_width
    )
    h = p * op.stride_height + r * op.dilation_height - op.padding_top
    v = q * op.stride_width + s * op.dilation_width - op.padding_left
    return p, p_end - p, q, q_end - q, h * op.input_width + v


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x * w for the first ``n`` samples of the chunk."""
    op = plan[0]
    K, W, Q, C = op.output_channels, op.input_width, op.output_width, op.input_channels
    c_each, k_each = C // op.groups, K // op.groups
    for m in range(n * op.output_height * Q):
        for k in range(K):
            work[op.y + m * K + k] = params[op.bias + k] if op.bias >= 0 else 0
    for r in range(op.kernel_height):
        for s in range(op.kernel_width):
            p, lines, q, columns, pixel = _tap(op, r, s)
            tap = op.weight + (r * op.kernel_width + s) * c_each * K
            for i in range(n if columns > 0 else 0):
                for line in range(lines):
                    x = op.x + i * op.input_size + (pixel + line * op.stride_height * W) * C
                    y = op.y + i * op.output_size + ((p + line) * Q + q) * K
                    for g in range(op.groups):
                        multiply(
                            op.multiply,
                            columns,
                            k_each,
                            1,
                            c_each,
                            work,
                            x + g * c_each,
                            op.stride_width * C,
                            0,
                            1,
                            params,
                            tap + g * k_each,
                            0,
                            K,
                            work,
                            y + g * k_each,
                            K,
                            work,
                            y + g * k_each,
                            K,
                        )


@njit(**JIT)
def transpose(plan, params, transposed):
    """The filters as the backward pass reads them: [r, s, k, c]."""
    op = plan[0]
    K, c_each = op.output_channels, op.input_channels // op.groups
    for tap in range(op.kernel_height * op.kernel_width):
        for c in range(c_each):
            for k in range(K):
                transposed[op.weight + (tap * K + k) * c_each + c] = params[
                    op.weight + (tap * c_each + c) * K + k
                ]


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw, db and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    K, W, Q, C = op.output_channels, op.input_width, op.output_width, op.input_channels
    c_each, k_each = C // op.groups, K // op.groups
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * Q)
    if op.dx >= 0 and op.accumulate == 0:
        work[op.dx : op.dx + n * op.input_size] = 0
    for r in range(op.kernel_height):
        for s in range(op.kernel_width):
            p, lines, q, columns, pixel = _tap(op, r, s)
            tap = (r * op.kernel_width + s) * c_each * K
            for i in range(n if columns > 0 and lines > 0 else 0):
                first = pixel * C + i * op.input_size
                dy = op.dy + i * op.output_size + (p * Q + q) * K
                for g in range(op.groups):
                    dw = op.weight + tap + g * k_each
                    multiply(
                        op.multiply,
                        c_each,
                        k_each,
                        lines,
                        columns,
                        work,
                        op.x + first + g * c_each,
                        1,
                        op.stride_height * W * C,
                        op.stride_width * C,
                        work,
                        dy + g * k_each,
                        Q * K,
                        K,
                        grads,
                        dw,
                        K,
                        grads,
                        dw,
                        K,
                    )
                    for line in range(lines if op.dx >= 0 else 0):
                        dx = op.dx + first + line * op.stride_height * W * C + g * c_each
                        multiply(
                            op.multiply,
                            columns,
                            c_each,
                            1,
                            k_each,
                            work,
                            dy + line * Q * K + g * k_each,
                            K,
                            0,
                            1,
                            transposed,
                            op.weight + tap + g * k_each * c_each,
                            0,
                            c_each,
                            work,
                            dx,
                            op.stride_width * C,
                            work,
                            dx,
                            op.stride_width * C,
                        )
