"""Activations, element by element: y = f(x) and dx = f'(x) · dy.

    ReLU        max(0, x)                          y > 0
    LeakyReLU   x or slope · x                     1 or slope
    Sigmoid     1 / (1 + exp(−x))                  y · (1 − y)
    Tanh        tanh(x)                            1 − y²
    SiLU        x · σ(x)                           σ(x) · (1 + x · (1 − σ(x)))
    GELU        x · Φ(x)                           Φ(x) + x · φ(x)        Φ, φ: normal distribution and density

Sources: Hendrycks and Gimpel (2016) for GELU, Elfwing et al. (2018) for SiLU. All work in place, on the output and on
the gradient: the plan gives both sides one buffer, or, where the derivative needs x (SiLU, GELU), a copy is made.
"""

import math

from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import copy
from minicnn.plan import GELU, LEAKY_RELU, RELU, SIGMOID, SILU, TANH


@njit(**JIT)
def forward(layer, work, n):
    """y = f(x) for the first ``n`` samples of the chunk."""
    count = n * layer.output_size
    y = work[layer.output : layer.output + count]
    if layer.input != layer.output:
        copy(work, layer.input, work, layer.output, count)
    number, kind = work.dtype.type, layer.kind
    zero, half, one = number(0), number(0.5), number(1)
    if kind == RELU:
        for i in range(count):
            y[i] = zero if y[i] < zero else y[i]
    elif kind == LEAKY_RELU:
        slope = number(layer.slope_or_rate)
        for i in range(count):
            y[i] = y[i] * slope if y[i] < zero else y[i]
    elif kind == SIGMOID:
        for i in range(count):
            y[i] = one / (one + math.exp(-y[i]))
    elif kind == TANH:
        for i in range(count):
            y[i] = math.tanh(y[i])
    elif kind == SILU:
        for i in range(count):
            y[i] = y[i] / (one + math.exp(-y[i]))
    elif kind == GELU:
        root = number(math.sqrt(0.5))
        for i in range(count):
            y[i] = half * y[i] * (one + math.erf(y[i] * root))


@njit(**JIT)
def backward(layer, work, n):
    """dx = f'(x) · dy, in place: ``d_input`` and ``d_output`` are one buffer."""
    count = n * layer.output_size
    x = work[layer.input : layer.input + count]
    y = work[layer.output : layer.output + count]
    d = work[layer.d_output : layer.d_output + count]
    number, kind = work.dtype.type, layer.kind
    zero, half, one = number(0), number(0.5), number(1)
    if kind == RELU:
        for i in range(count):
            dy = d[i]  # loaded on both sides of the choice, so that it needs no branch
            d[i] = dy if y[i] > zero else zero
    elif kind == LEAKY_RELU:
        slope = number(layer.slope_or_rate)
        for i in range(count):
            dy = d[i]
            d[i] = dy if y[i] > zero else dy * slope
    elif kind == SIGMOID:
        for i in range(count):
            d[i] *= y[i] * (one - y[i])
    elif kind == TANH:
        for i in range(count):
            d[i] *= one - y[i] * y[i]
    elif kind == SILU:
        for i in range(count):
            sigmoid = one / (one + math.exp(-x[i]))
            d[i] *= sigmoid * (one + x[i] * (one - sigmoid))
    elif kind == GELU:
        root, density_at_zero = number(math.sqrt(0.5)), number(1 / math.sqrt(2 * math.pi))
        for i in range(count):
            distribution = half * (one + math.erf(x[i] * root))
            d[i] *= distribution + x[i] * density_at_zero * math.exp(-half * x[i] * x[i])
