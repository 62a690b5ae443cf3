"""Convolution in groups: filter k reads the C/G channels of group k // (K/G) alone, forward and
backward.

    y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, h, v, g·C/G + c] · w[r,s,c,k]          g = k // (K/G), 0 ≤ c < C/G

with h = p·stride_h + r·dilation_h − pad_top, v = q·stride_w + s·dilation_w − pad_left. A thread
makes one number of y, or of dx; the filters' gradients are summed in parts
(`minicnn.kernels.cuda.column`), a column a weight, and then a bias.
"""

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import ROWS, blocks, own, store_part, sum_rows, tasks
from minicnn.kernels.cuda.launches import Launch, gradients, outputs
from minicnn.kernels.cuda.tile import device, divide
from minicnn.kernels.cuda.window import along_height, along_width


@device
def _groups(plan, op):
    """Channels and filters of a group, and all of both."""
    C, K, G = (
        np.int32(plan[op, at.INPUT_CHANNELS]),
        np.int32(plan[op, at.OUTPUT_CHANNELS]),
        plan[op, at.GROUPS],
    )
    return divide(C, G), divide(K, G), C, K


@device
def _pixel(j, channels, width):
    """(row, column, channel) of number ``j`` of an image."""
    pixel = divide(j, channels)
    row = divide(pixel, width)
    return row, np.int32(pixel - row * width), np.int32(j - pixel * channels)


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y = b + x * w."""
    rows, columns = along_height(plan, op), along_width(plan, op)
    c_each, k_each, C, K = _groups(plan, op)
    size = plan[op, at.OUTPUT_SIZE]
    for place in range(cuda.grid(1), n * size, cuda.gridsize(1)):
        i = place // size
        p, q, k = _pixel(place - i * size, K, columns[5])
        x0 = plan[op, at.X] + i * plan[op, at.INPUT_SIZE] + divide(k, k_each) * c_each
        total = float32(0)
        if plan[op, at.BIAS] >= 0:
            total = params[np.uint64(plan[op, at.BIAS] + k)]
        for r in range(rows[0]):
            h = np.int32(p * rows[1] + r * rows[3] - rows[2])
            for s in range(columns[0]):
                v = np.int32(q * columns[1] + s * columns[3] - columns[2])
                if 0 <= h < rows[4] and 0 <= v < columns[4]:
                    there = x0 + np.int32((h * columns[4] + v) * C)
                    filters = plan[op, at.WEIGHT] + np.int32((r * columns[0] + s) * c_each * K + k)
                    for c in range(c_each):
                        total += (
                            work[np.uint64(there + c)]
                            * params[np.uint64(filters + np.int32(c * K))]
                        )
        work[np.uint64(plan[op, at.Y] + place)] = total


def backward_filter(plan, floats, params, work, op, n, key, first_sample):
    """dw and db in parts: rows are positions (n, p, q), columns weights [r,s,c,k] and then
    biases."""
    rows, columns = along_height(plan, op), along_width(plan, op)
    c_each, k_each, C, K = _groups(plan, op)
    weights = np.int32(rows[0] * columns[0] * c_each * K)
    count = np.int32(weights + K if plan[op, at.BIAS] >= 0 else weights)
    P, Q = rows[5], columns[5]
    positions = n * P * Q
    for task in range(cuda.blockIdx.x, tasks(plan, op, count), cuda.gridDim.x):
        weight, split, first, end = own(plan, op, task, count, positions)
        tap, k = divide(weight, K), np.int32(weight % K)
        c = np.int32(tap % c_each)
        r, s, _ = _pixel(tap, c_each, columns[0])
        x0 = plan[op, at.X] + divide(k, k_each) * c_each + c
        total = float32(0)
        for position in range(first, end if weight < count else first, ROWS):
            i = position // (P * Q)
            p, q, _ = _pixel(position - i * (P * Q), 1, Q)
            h = np.int32(p * rows[1] + r * rows[3] - rows[2])
            v = np.int32(q * columns[1] + s * columns[3] - columns[2])
            dy = work[np.uint64(plan[op, at.DY] + position * K + k)]
            if weight >= weights:
                total += dy
            elif 0 <= h < rows[4] and 0 <= v < columns[4]:
                total += (
                    dy
                    * work[
                        np.uint64(
                            x0 + i * plan[op, at.INPUT_SIZE] + np.int32((h * columns[4] + v) * C)
                        )
                    ]
                )
        total = sum_rows(total)
        if weight < count:
            store_part(plan, op, work, split, weight, total, first_sample > 0)


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx from dy: each number collects from the positions and taps that read it."""
    rows, columns = along_height(plan, op), along_width(plan, op)
    c_each, k_each, C, K = _groups(plan, op)
    size = plan[op, at.INPUT_SIZE]
    for place in range(cuda.grid(1), n * size, cuda.gridsize(1)):
        i = place // size
        h, v, channel = _pixel(place - i * size, C, columns[4])
        group = divide(channel, c_each)
        dy0 = plan[op, at.DY] + i * plan[op, at.OUTPUT_SIZE] + group * k_each
        filters = plan[op, at.WEIGHT] + (channel - group * c_each) * K + group * k_each
        total = float32(0)
        for r in range(rows[0]):
            p, fits = _output(h, r, rows)
            for s in range(columns[0]):
                q, fits_too = _output(v, s, columns)
                if fits and fits_too:
                    there = dy0 + np.int32((p * columns[5] + q) * K)
                    tap = filters + np.int32((r * columns[0] + s) * c_each * K)
                    for k in range(k_each):
                        total += work[np.uint64(there + k)] * params[np.uint64(tap + k)]
        store(work, plan[op, at.DX] + place, total, plan[op, at.ACCUMULATE])


@device
def _output(position, tap, along):
    """The output whose tap reads ``position``, and whether there is one."""
    _, stride, padding, dilation, _, outputs_along = along
    away = np.int32(position + padding - tap * dilation)
    output = divide(away, stride) if away >= 0 else np.int32(0)
    return output, away >= 0 and output * stride == away and output < outputs_along


def _weights(record, n):
    taps = int(record["kernel_height"] * record["kernel_width"])
    rows = taps * int(record["input_channels"] // record["groups"]) + int(record["bias"] >= 0)
    return blocks(rows * int(record["output_channels"]), int(record["splits"]))


LAUNCHES = {
    "forward": (Launch(forward, outputs),),
    "backward": (Launch(backward_filter, _weights), Launch(backward, gradients)),
}
