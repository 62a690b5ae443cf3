"""The fully-connected layer, forward and backward.

y[n,o]  = b[o] + Σ_i x[n,i] · w[i,o]          dx[n,i] = Σ_o dy[n,o] · w[i,o]
dw[i,o] = Σ_n x[n,i] · dy[n,o]                db[o]   = Σ_n dy[n,o]

In inference, with ``relu``, also y = max(0, y), a ReLU after it.
A convolution of 1×1 with stride 1 is the same for each pixel: n counts the pixels of all samples.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.tile import ENTRY, JIT, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import transpose as transpose_matrix

_ROWS = 256  # of a product: a slice of x stays in the cache for all outputs
_TERMS = 512  # of a sum, before those of the next are added


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """The formula as it stands."""
    op = plan[0]
    inputs, outputs = op.input_channels, op.output_channels
    rows = n * op.input_height * op.input_width
    x = work[op.x : op.x + rows * inputs].reshape((rows, inputs))
    y = work[op.y : op.y + rows * outputs].reshape((rows, outputs))
    w = params[op.weight : op.weight + inputs * outputs].reshape((inputs, outputs))
    for m, o in np.ndindex(y.shape):
        total = params[op.bias + o] if op.bias >= 0 else params.dtype.type(0)
        for i in range(inputs):
            total += x[m, i] * w[i, o]
        y[m, o] = np.maximum(total, 0.0) if op.relu else total


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x · w for the first ``n`` samples of the chunk, of ``output_channels`` outputs."""
    op = plan[0]
    inputs, pixels = op.input_channels, op.input_height * op.input_width
    rows, outputs = n * pixels, op.output_size // pixels
    for m in range(0, rows, _ROWS):
        count, y = min(_ROWS, rows - m), Rows(work, op.y + m * outputs, outputs)
        multiply(
            op.multiply,
            (count, op.output_channels, 1, min(_TERMS, inputs), op.relu if inputs <= _TERMS else 0),
            Scalars(work, op.x + m * inputs, inputs, 0, 1),
            Vectors(params, op.weight, 0, outputs),
            Rows(params, op.bias, 0),
            y,
        )
        for i in range(_TERMS, inputs, _TERMS):
            left = inputs - i
            multiply(
                op.multiply,
                (count, op.output_channels, 1, min(_TERMS, left), op.relu if left <= _TERMS else 0),
                Scalars(work, op.x + m * inputs + i, inputs, 0, 1),
                Vectors(params, op.weight + i * outputs, 0, outputs),
                y,
                y,
            )


@njit(**JIT)
def transpose(plan, params, transposed):
    """transposed[o,i] = w[i,o]: the weights as the backward pass reads them."""
    op = plan[0]
    inputs, outputs = op.input_channels, op.output_channels
    w, w_t = Rows(params, op.weight, outputs), Rows(transposed, op.weight, inputs)
    transpose_matrix(w, w_t, inputs, outputs)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw += xᵀ · dy and db += Σ dy over the first ``n`` samples of the chunk, and dx = dy · wᵀ."""
    op = plan[0]
    inputs, outputs = op.input_channels, op.output_channels
    rows = n * op.input_height * op.input_width
    dw = Rows(grads, op.weight, outputs)
    for m in range(0, rows, _ROWS):
        count, x, dy, dx = (
            min(_ROWS, rows - m),
            op.x + m * inputs,
            op.dy + m * outputs,
            op.dx + m * inputs,
        )
        multiply(
            op.multiply,
            (inputs, outputs, 1, count),
            Scalars(work, x, 1, 0, inputs),
            Vectors(work, dy, 0, outputs),
            dw,
            dw,
        )
        if op.dx >= 0:
            multiply(
                op.multiply,
                (count, inputs, 1, outputs),
                Scalars(work, dy, outputs, 0, 1),
                Vectors(transposed, op.weight, 0, inputs),
                Rows(work, dx if op.accumulate != 0 else -1, inputs),
                Rows(work, dx, inputs),
            )
    if op.bias >= 0:
        bias.backward(op, work, grads, rows)
