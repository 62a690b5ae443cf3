"""The fully-connected layer, forward and backward.

    y[n,o]  = b[o] + Σ_i x[n,i] · w[i,o]          dx[n,i] = Σ_o dy[n,o] · w[i,o]
    dw[i,o] = Σ_n x[n,i] · dy[n,o]                db[o]   = Σ_n dy[n,o]
"""

from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.tile import JIT, multiply
from minicnn.kernels.cpu.vector import transpose


@njit(**JIT)
def forward(layer, params, work, n):
    """y = b + x · w for the first ``n`` samples of the chunk."""
    inputs, outputs = layer.input_size, layer.output_size
    multiply(layer.multiply, n, outputs, 1, inputs, work, layer.input, inputs, 0, 1, params, layer.weight, 0, outputs,
             params, layer.bias, 0, work, layer.output, outputs)  # fmt: skip


@njit(**JIT)
def turn(layer, params, turned, part, parts):
    """turned[o,i] = w[i,o]: the weights as ``backward_data`` reads them. Each of ``parts`` threads turns its own rows."""
    inputs, outputs = layer.input_size, layer.output_size
    first, end = inputs * part // parts, inputs * (part + 1) // parts
    transpose(params, layer.weight + first * outputs, end - first, outputs, outputs, turned, layer.weight + first, inputs)


@njit(**JIT)
def backward_data(layer, turned, work, n):
    """dx = dy · wᵀ."""
    inputs, outputs = layer.input_size, layer.output_size
    multiply(layer.multiply, n, inputs, 1, outputs, work, layer.d_output, outputs, 0, 1, turned, layer.weight, 0, inputs,
             turned, -1, 0, work, layer.d_input, inputs)  # fmt: skip


@njit(**JIT)
def backward_filter(layer, work, grads, n):
    """dw += xᵀ · dy and db += Σ dy over the first ``n`` samples of the chunk."""
    inputs, outputs = layer.input_size, layer.output_size
    multiply(layer.multiply, inputs, outputs, 1, n, work, layer.input, 1, 0, inputs, work, layer.d_output, 0, outputs,
             grads, layer.weight, outputs, grads, layer.weight, outputs)  # fmt: skip
    if layer.bias >= 0:
        bias.backward(layer, work, grads, n)
