"""Activations, element by element: y = f(x) and dx = f'(x) · dy; the formulas are in `minicnn.kernels.cpu.activation`."""

import math

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.tile import THREADS, device
from minicnn.plan import GELU, LEAKY_RELU, RELU, SIGMOID, SILU, TANH

_ROOT_HALF, _DENSITY_AT_ZERO = np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@device
def forward(plan, rates, layer, work, sample, n, part, parts):
    """y = f(x) for ``n`` samples from ``sample`` on; this block does share ``part`` of ``parts``."""
    kind, size = plan[layer, at.KIND], plan[layer, at.OUTPUT_SIZE]
    x0, y0 = plan[layer, at.INPUT] + sample * size, plan[layer, at.OUTPUT] + sample * size
    for i in range(part * THREADS + cuda.threadIdx.x, n * size, parts * THREADS):
        x = work[np.uint64(x0 + i)]
        if kind == RELU:
            y = _ZERO if x < _ZERO else x
        elif kind == LEAKY_RELU:
            y = x * rates[layer] if x < _ZERO else x
        elif kind == SIGMOID:
            y = _ONE / (_ONE + math.exp(-x))
        elif kind == TANH:
            y = math.tanh(x)
        elif kind == SILU:
            y = x / (_ONE + math.exp(-x))
        else:
            y = _HALF * x * (_ONE + math.erf(x * _ROOT_HALF))
        work[np.uint64(y0 + i)] = y


@device
def backward(plan, rates, layer, work, sample, n, part, parts):
    """dx = f'(x) · dy, in place: ``d_input`` and ``d_output`` are one buffer."""
    kind, size = plan[layer, at.KIND], plan[layer, at.OUTPUT_SIZE]
    x0, y0 = plan[layer, at.INPUT] + sample * size, plan[layer, at.OUTPUT] + sample * size
    d0 = plan[layer, at.D_OUTPUT] + sample * size
    for i in range(part * THREADS + cuda.threadIdx.x, n * size, parts * THREADS):
        d = work[np.uint64(d0 + i)]
        if kind in (SILU, GELU):
            x = work[np.uint64(x0 + i)]
            if kind == SILU:
                sigmoid = _ONE / (_ONE + math.exp(-x))
                d *= sigmoid * (_ONE + x * (_ONE - sigmoid))
            else:
                d *= _HALF * (_ONE + math.erf(x * _ROOT_HALF)) + x * _DENSITY_AT_ZERO * math.exp(-_HALF * x * x)
        else:
            y = work[np.uint64(y0 + i)]
            if kind == RELU:
                d = d if y > _ZERO else _ZERO
            elif kind == LEAKY_RELU:
                d = d if y > _ZERO else d * rates[layer]
            elif kind == SIGMOID:
                d *= y * (_ONE - y)
            else:
                d *= _ONE - y * y
        work[np.uint64(d0 + i)] = d
