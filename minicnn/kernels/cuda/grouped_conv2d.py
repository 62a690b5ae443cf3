"""Convolution in groups: filter k reads the C/G channels of group k // (K/G) alone, forward and
backward.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, h, v, g·C/G + c] · w[r,s,c,k]          g = k // (K/G), 0 ≤ c < C/G

with h = p·stride_h + r·dilation_h − pad_top, v = q·stride_w + s·dilation_w − pad_left. A thread
makes one number of y, or of dx; the filters' gradients are summed in parts
(`minicnn.kernels.cuda.column`), a column a weight, and then a bias.
"""

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.axis import (
    height,
    input_at,
    input_of,
    output_at,
    output_of,
    width,
)
from minicnn.kernels.cuda.column import ROWS, blocks, column_of, store_sum, tasks
from minicnn.kernels.cuda.launches import Launch, each_gradient, each_output
from minicnn.kernels.cuda.tile import device, digits, divide


@device
def _groups(op):
    """Channels and filters of a group, and all of both."""
    C, K = np.int32(op.input_channels), np.int32(op.output_channels)
    return divide(C, op.groups), divide(K, op.groups), C, K


def forward(op, params, work, place):
    """y = b + x * w."""
    rows, columns = height(op), width(op)
    c_each, k_each, C, K = _groups(op)
    i, p, q, k = output_at(op, place)
    x0 = op.x + i * op.input_size + divide(k, k_each) * c_each
    total = params[np.uint64(op.bias + k)] if op.bias >= 0 else float32(0)
    for r in range(rows.taps):
        h = input_of(rows, p, r)
        for s in range(columns.taps):
            v = input_of(columns, q, s)
            if 0 <= h < rows.size and 0 <= v < columns.size:
                x = x0 + np.int32((h * columns.size + v) * C)
                w = op.weight + np.int32((r * columns.taps + s) * c_each * K + k)
                for c in range(c_each):
                    total += work[np.uint64(x + c)] * params[np.uint64(w + np.int32(c * K))]
    work[np.uint64(op.y + place)] = total


def backward_filter(plan, params, work, index, n, key, first_sample):
    """dw and db in parts: rows are positions (n, p, q), columns weights [r,s,c,k] and then
    biases."""
    op = plan[index]
    rows, columns = height(op), width(op)
    c_each, k_each, C, K = _groups(op)
    weights = np.int32(rows.taps * columns.taps * c_each * K)
    count = np.int32(weights + K if op.bias >= 0 else weights)
    positions = n * rows.outputs * columns.outputs
    for task in range(cuda.blockIdx.x, tasks(op, count), cuda.gridDim.x):
        weight, split, first, end = column_of(op, task, count, positions)
        tap, k = divide(weight, K), np.int32(weight % K)
        r, s, c = digits(tap, columns.taps, c_each)
        x0 = op.x + divide(k, k_each) * c_each + c
        total = float32(0)
        for position in range(first, end, ROWS):
            i, p, q = digits(position, rows.outputs, columns.outputs)
            h, v = input_of(rows, p, r), input_of(columns, q, s)
            dy = work[np.uint64(op.dy + position * K + k)]
            if weight >= weights:
                total += dy
            elif 0 <= h < rows.size and 0 <= v < columns.size:
                pixel = i * op.input_size + np.int32((h * columns.size + v) * C)
                total += dy * work[np.uint64(x0 + pixel)]
        store_sum(op, work, split, weight, total, first_sample > 0)


def backward(op, params, work, place):
    """dx from dy: each number collects from the positions and taps that read it."""
    rows, columns = height(op), width(op)
    c_each, k_each, _, K = _groups(op)
    i, h, v, channel = input_at(op, place)
    group = divide(channel, c_each)
    dy0 = op.dy + i * op.output_size + group * k_each
    filters = op.weight + (channel - group * c_each) * K + group * k_each
    total = float32(0)
    for r in range(rows.taps):
        p = output_of(rows, h, r)
        for s in range(columns.taps if p >= 0 else 0):
            q = output_of(columns, v, s)
            if q >= 0:
                dy = dy0 + np.int32((p * columns.outputs + q) * K)
                w = filters + np.int32((r * columns.taps + s) * c_each * K)
                for k in range(k_each):
                    total += work[np.uint64(dy + k)] * params[np.uint64(w + k)]
    store(work, op.dx + place, total, op.accumulate)


def _weights(record, n):
    taps = record.kernel_height * record.kernel_width
    rows = taps * (record.input_channels // record.groups) + (record.bias >= 0)
    return blocks(rows * record.output_channels, record.splits)


LAUNCHES = {
    "forward": (each_output(forward),),
    "backward": (Launch(backward_filter, _weights), each_gradient(backward)),
}
