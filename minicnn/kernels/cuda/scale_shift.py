"""Batch normalization with the running statistics; the formulas are in
`minicnn.kernels.cpu.scale_shift`."""

import math

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import channels, column_of, pixels, store_scale_sums, tasks
from minicnn.kernels.cuda.launches import Launch, each_gradient, each_output
from minicnn.kernels.cuda.tile import device


@device
def _inverse(op, params, c):
    """ρ[c] = 1 / √(σ²[c] + ε)."""
    return np.float32(1) / math.sqrt(params[np.uint64(op.running_var + c)] + op.f0)


@device
def _factor(op, params, c):
    return params[np.uint64(op.weight + c)] * _inverse(op, params, c)


def forward(op, params, work, i):
    """y = γρ · (x − μ) + β."""
    c = i % op.input_channels
    x = work[np.uint64(op.x + i)] - params[np.uint64(op.running_mean + c)]
    y = _factor(op, params, c) * x + params[np.uint64(op.bias + c)]
    work[np.uint64(op.y + i)] = y


def backward_scale(plan, params, work, index, n, key, first_sample):
    """dγ and dβ in parts."""
    op = plan[index]
    for task in range(cuda.blockIdx.x, tasks(op, op.input_channels), cuda.gridDim.x):
        column = column_of(op, task, op.input_channels, pixels(op, n))
        mean = inverse = float32(0)
        if column.split >= 0:
            mean = params[np.uint64(op.running_mean + column.number)]
            inverse = _inverse(op, params, column.number)
        store_scale_sums(op, work, column, mean, inverse, first_sample > 0)


def backward(op, params, work, i):
    """dx = γρ · dy."""
    dx = _factor(op, params, i % op.input_channels) * work[np.uint64(op.dy + i)]
    store(work, op.dx + i, dx, op.accumulate)


LAUNCHES = {
    "forward": (each_output(forward),),
    "backward": (Launch(backward_scale, channels), each_gradient(backward)),
}
