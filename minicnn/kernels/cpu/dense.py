"""The fully-connected layer, forward and backward.

y[n,o]  = b[o] + Σ_i x[n,i] · w[i,o]          dx[n,i] = Σ_o dy[n,o] · w[i,o]
dw[i,o] = Σ_n x[n,i] · dy[n,o]                db[o]   = Σ_n dy[n,o]
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.tile import ENTRY, JIT, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import transpose as transpose_matrix


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """The formula as it stands."""
    op = plan[0]
    x = work[op.x : op.x + n * op.input_size].reshape((n, op.input_size))
    w = params[op.weight : op.weight + op.input_size * op.output_size]
    for i, o in np.ndindex((n, op.output_size)):
        total = params[op.bias + o] if op.bias >= 0 else params.dtype.type(0)
        for j in range(op.input_size):
            total += x[i, j] * w[j * op.output_size + o]
        work[op.y + i * op.output_size + o] = total


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x · w for the first ``n`` samples of the chunk."""
    op = plan[0]
    inputs, outputs = op.input_size, op.output_size
    multiply(
        op.multiply,
        (n, outputs, 1, inputs),
        Scalars(work, op.x, inputs, 0, 1),
        Vectors(params, op.weight, 0, outputs),
        Rows(params, op.bias, 0),
        Rows(work, op.y, outputs),
    )


@njit(**JIT)
def transpose(plan, params, transposed):
    """transposed[o,i] = w[i,o]: the weights as the backward pass reads them."""
    op = plan[0]
    inputs, outputs = op.input_size, op.output_size
    w, w_t = Rows(params, op.weight, outputs), Rows(transposed, op.weight, inputs)
    transpose_matrix(w, w_t, inputs, outputs)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw += xᵀ · dy and db += Σ dy over the first ``n`` samples of the chunk, and dx = dy · wᵀ."""
    op = plan[0]
    inputs, outputs = op.input_size, op.output_size
    x, dy = Scalars(work, op.x, 1, 0, inputs), Vectors(work, op.dy, 0, outputs)
    dw = Rows(grads, op.weight, outputs)
    multiply(op.multiply, (inputs, outputs, 1, n), x, dy, dw, dw)
    if op.bias >= 0:
        bias.backward(op, work, grads, n)
    if op.dx >= 0:
        multiply(
            op.multiply,
            (n, inputs, 1, outputs),
            Scalars(work, op.dy, outputs, 0, 1),
            Vectors(transposed, op.weight, 0, inputs),
            Rows(work, op.dx if op.accumulate != 0 else -1, inputs),
            Rows(work, op.dx, inputs),
        )
