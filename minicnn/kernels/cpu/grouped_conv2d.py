"""Convolution in groups: filter k reads the C/G channels of group k // (K/G) alone, forward and
backward.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, h, v, g·C/G + c] · w[r,s,c,k]          g = k // (K/G), 0 ≤ c < C/G

h, v, the gradients and the plain loop are those of `minicnn.kernels.cpu.conv2d`. Each tap of each group is a matrix
product whose rows are output columns. Source: Krizhevsky, Sutskever, Hinton: ImageNet
classification with deep convolutional networks, 2012.
"""

from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.axis import height, input_of, outputs_inside, width
from minicnn.kernels.cpu.tile import JIT, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import transpose as transpose_matrix


@njit(**JIT)
def _outputs(op, r, s):
    """(p, lines, q, columns): the outputs whose tap (r, s) reads inside the image; and the place in
    a sample of the pixel that the first reads."""
    rows, columns = height(op), width(op)
    p, p_end = outputs_inside(rows, r)
    q, q_end = outputs_inside(columns, s)
    pixel = input_of(rows, p, r) * op.input_width + input_of(columns, q, s)
    return p, p_end - p, q, q_end - q, pixel * op.input_channels


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
            p, lines, q, columns, pixel = _outputs(op, r, s)
            tap = op.weight + (r * op.kernel_width + s) * c_each * K
            for i in range(n if columns > 0 else 0):
                for line in range(lines):
                    x0 = op.x + i * op.input_size + pixel + line * op.stride_height * W * C
                    y0 = op.y + i * op.output_size + ((p + line) * Q + q) * K
                    for g in range(op.groups):
                        x = Scalars(work, x0 + g * c_each, op.stride_width * C, 0, 1)
                        w, y = (
                            Vectors(params, tap + g * k_each, 0, K),
                            Rows(work, y0 + g * k_each, K),
                        )
                        multiply(op.multiply, (columns, k_each, 1, c_each), x, w, y, y)


@njit(**JIT)
def transpose(plan, params, transposed):
    """The filters as the backward pass reads them: [r, s, k, c]."""
    op = plan[0]
    K, c_each = op.output_channels, op.input_channels // op.groups
    for tap in range(op.kernel_height * op.kernel_width):
        place = op.weight + tap * c_each * K
        transpose_matrix(Rows(params, place, K), Rows(transposed, place, c_each), c_each, K)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw, db and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    K, W, Q, C = op.output_channels, op.input_width, op.output_width, op.input_channels
    c_each, k_each = C // op.groups, K // op.groups
    x_line, x_column = op.stride_height * W * C, op.stride_width * C
    if op.bias >= 0:
        bias.backward(op, work, grads, n * op.output_height * Q)
    if op.dx >= 0 and op.accumulate == 0:
        work[op.dx : op.dx + n * op.input_size] = 0
    for r in range(op.kernel_height):
        for s in range(op.kernel_width):
            p, lines, q, columns, pixel = _outputs(op, r, s)
            tap = op.weight + (r * op.kernel_width + s) * c_each * K
            for i in range(n if columns > 0 and lines > 0 else 0):
                for g in range(op.groups):
                    first = pixel + i * op.input_size + g * c_each
                    dy = op.dy + i * op.output_size + (p * Q + q) * K + g * k_each
                    dw = Rows(grads, tap + g * k_each, K)
                    multiply(
                        op.multiply,
                        (c_each, k_each, lines, columns),
                        Scalars(work, op.x + first, 1, x_line, x_column),
                        Vectors(work, dy, Q * K, K),
                        dw,
                        dw,
                    )
                    w = Vectors(transposed, tap + g * k_each * c_each, 0, c_each)
                    for line in range(lines if op.dx >= 0 else 0):
                        d_line = Scalars(work, dy + line * Q * K, K, 0, 1)
                        dx = Rows(work, op.dx + first + line * x_line, x_column)
                        multiply(op.multiply, (columns, c_each, 1, k_each), d_line, w, dx, dx)
