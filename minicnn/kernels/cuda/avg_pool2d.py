"""Average pooling over windows of one channel, forward and backward; formulas and fields:
`minicnn.kernels.cpu.avg_pool2d`.

A thread makes one number: an output of the forward pass, or an element of dx, which collects from
all windows that hold it.
"""

import numpy as np

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.axis import (
    height,
    input_at,
    input_of,
    output_at,
    output_of,
    width,
    window,
)
from minicnn.kernels.cuda.launches import each_gradient, each_output
from minicnn.kernels.cuda.tile import device


@device
def _counted(op, axis, output):
    """How many rows, or columns, of an output's window count."""
    first, end = window(axis, output)
    count = np.int32(end - first)
    if op.a0 != 0:
        count = axis.taps
        if op.a1 != 0:  # what lies beyond the padding never counts
            room = np.int32(axis.size + axis.padding - input_of(axis, output, 0))
            count = room if room < count else count
    return count


@device
def _area(op, rows, columns, p, q):
    return np.float32(_counted(op, rows, p) * _counted(op, columns, q))


def forward(op, params, work, place):
    """The mean of each window."""
    rows, columns, C = height(op), width(op), np.int32(op.input_channels)
    i, p, q, c = output_at(op, place)
    h_first, h_end = window(rows, p)
    v_first, v_end = window(columns, q)
    x0, total = op.x + i * op.input_size + c, np.float32(0)
    for h in range(h_first, h_end):
        for v in range(v_first, v_end):
            total += work[np.uint64(x0 + np.int32((h * columns.size + v) * C))]
    work[np.uint64(op.y + place)] = total / _area(op, rows, columns, p, q)


def backward(op, params, work, place):
    """Each element of a window gets the same part of dy."""
    rows, columns, C = height(op), width(op), np.int32(op.input_channels)
    i, h, v, c = input_at(op, place)
    dy0, dx = op.dy + i * op.output_size + c, np.float32(0)
    for r in range(rows.taps - 1, -1, -1):  # the windows in their order
        p = output_of(rows, h, r)
        for s in range(columns.taps - 1 if p >= 0 else -1, -1, -1):
            q = output_of(columns, v, s)
            if q >= 0:
                dy = work[np.uint64(dy0 + np.int32((p * columns.outputs + q) * C))]
                dx += dy / _area(op, rows, columns, p, q)
    store(work, op.dx + place, dx, op.accumulate)


LAUNCHES = {"forward": (each_output(forward),), "backward": (each_gradient(backward),)}
