"""Maximum pooling over windows of one channel, forward and backward; the formulas are in
`minicnn.kernels.cpu.max_pool2d`.

A thread makes one number: an output of the forward pass, or an element of dx, which collects from
all windows that hold it. So nothing is added by two threads, whether the windows overlap or not.
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch, gradients, outputs
from minicnn.kernels.cuda.tile import device, divide
from minicnn.kernels.cuda.window import along_height, along_width, holds, window, windows_holding

_ZERO = np.float32(0)


def forward(plan, floats, params, work, op, n, key, first_sample):
    """The largest number of each window (NaN wins), or 0 if there is a ReLU and that is larger."""
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
        h_first, h_end = window(p, rows)
        v_first, v_end = window(np.int32(pixel - p * Q), columns)
        x0 = plan[op, at.X] + i * plan[op, at.INPUT_SIZE] + np.int32(j - pixel * C)
        largest = work[np.uint64(x0 + np.int32((h_first * W + v_first) * C))]
        for h in range(h_first, h_end, rows[3]):
            for v in range(v_first, v_end, columns[3]):
                x = work[np.uint64(x0 + np.int32((h * W + v) * C))]
                if x > largest or x != x:
                    largest = x
        if plan[op, at.RELU] != 0 and largest < _ZERO:
            largest = _ZERO
        work[np.uint64(plan[op, at.Y] + place)] = largest


@device
def _is_first_largest(work, x0, C, h, v, p, q, rows, columns, largest):
    """Whether (h, v) is the first element of window (p, q), in reading order, that is not smaller
    than the maximum."""
    W = columns[4]
    first = not work[np.uint64(x0 + np.int32((h * W + v) * C))] < largest
    if first:
        h_first, _ = window(p, rows)
        v_first, v_end = window(q, columns)
        for above in range(h_first, np.int32(h + 1), rows[3]):
            for left in range(v_first, v if above == h else v_end, columns[3]):
                if not work[np.uint64(x0 + np.int32((above * W + left) * C))] < largest:
                    first = False
    return first


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dy of each window goes to its first largest element, to none where a ReLU made y 0."""
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
        h, c = divide(pixel, W), np.int32(j - pixel * C)
        v = np.int32(pixel - h * W)
        p_first, p_end = windows_holding(h, rows)
        q_first, q_end = windows_holding(v, columns)
        x0 = plan[op, at.X] + i * size + c
        y0 = i * plan[op, at.OUTPUT_SIZE] + c
        dx = _ZERO
        for p in range(p_first, p_end):
            for q in range(q_first, q_end):
                if holds(p, h, rows) and holds(q, v, columns):
                    there = y0 + np.int32((p * Q + q) * C)
                    largest = work[np.uint64(plan[op, at.Y] + there)]
                    if (plan[op, at.RELU] == 0 or largest > _ZERO) and _is_first_largest(
                        work, x0, C, h, v, p, q, rows, columns, largest
                    ):
                        dx += work[np.uint64(plan[op, at.DY] + there)]
        store(work, plan[op, at.DX] + place, dx, plan[op, at.ACCUMULATE])


LAUNCHES = {"forward": (Launch(forward, outputs),), "backward": (Launch(backward, gradients),)}
