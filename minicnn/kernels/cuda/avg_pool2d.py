"""Average pooling over windows of one channel, forward and backward; formulas and fields:
`minicnn.kernels.cpu.avg_pool2d`.

A thread makes one number: an output of the forward pass, or an element of dx, which collects from
all windows that hold it.
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch, gradients, outputs
from minicnn.kernels.cuda.tile import device, divide
from minicnn.kernels.cuda.window import along_height, along_width, holds, window, windows_holding

_ZERO = np.float32(0)


@device
def _counted(plan, op, position, along):
    """How many rows, or columns, of window number ``position`` count."""
    kernel, stride, padding, dilation, size, _ = along
    first, end = window(position, along)
    count = np.int32(divide(end - first + dilation - 1, dilation))
    if plan[op, at.A0] != 0:
        count = kernel
        if plan[op, at.A1] != 0:  # what lies beyond the padding never counts
            room = np.int32(size + 2 * padding - position * stride)
            inside = divide(room + dilation - 1, dilation)
            count = inside if inside < kernel else kernel
    return count


def forward(plan, floats, params, work, op, n, key, first_sample):
    """The mean of each window."""
    rows, columns = along_height(plan, op), along_width(plan, op)
    size, C, W, Q = (
        plan[op, at.OUTPUT_SIZE],
        np.int32(plan[op, at.INPUT_CHANNELS]),
        columns[4],
        columns[5],
    )
    for place in range(cuda.grid(1), n * size, cuda.gridsize(1)):
        i = place // size
        j = np.int32(place - i * size)
        pixel = divide(j, C)
        p = divide(pixel, Q)
        q = np.int32(pixel - p * Q)
        h_first, h_end = window(p, rows)
        v_first, v_end = window(q, columns)
        x0 = plan[op, at.X] + i * plan[op, at.INPUT_SIZE] + np.int32(j - pixel * C)
        total = _ZERO
        for h in range(h_first, h_end, rows[3]):
            for v in range(v_first, v_end, columns[3]):
                total += work[np.uint64(x0 + np.int32((h * W + v) * C))]
        count = np.int32(_counted(plan, op, p, rows) * _counted(plan, op, q, columns))
        work[np.uint64(plan[op, at.Y] + place)] = total / np.float32(count)


def backward(plan, floats, params, work, op, n, key, first_sample):
    """Each element of a window gets the same part of dy."""
    rows, columns = along_height(plan, op), along_width(plan, op)
    size, C, W, Q = (
        plan[op, at.INPUT_SIZE],
        np.int32(plan[op, at.INPUT_CHANNELS]),
        columns[4],
        columns[5],
    )
    for place in range(cuda.grid(1), n * size, cuda.gridsize(1)):
        i = place // size
        j = np.int32(place - i * size)
        pixel = divide(j, C)
        h = divide(pixel, W)
        v = np.int32(pixel - h * W)
        p_first, p_end = windows_holding(h, rows)
        q_first, q_end = windows_holding(v, columns)
        y0 = plan[op, at.DY] + i * plan[op, at.OUTPUT_SIZE] + np.int32(j - pixel * C)
        dx = _ZERO
        for p in range(p_first, p_end):
            for q in range(q_first, q_end):
                if holds(p, h, rows) and holds(q, v, columns):
                    count = np.int32(_counted(plan, op, p, rows) * _counted(plan, op, q, columns))
                    dx += work[np.uint64(y0 + np.int32((p * Q + q) * C))] / np.float32(count)
        store(work, plan[op, at.DX] + place, dx, plan[op, at.ACCUMULATE])


LAUNCHES = {"forward": (Launch(forward, outputs),), "backward": (Launch(backward, gradients),)}
