"""Maximum pooling over windows of one channel, forward and backward; the formulas are in
`minicnn.kernels.cpu.max_pool2d`.

A thread makes one number: an output of the forward pass, or an element of dx, which collects from
all windows that hold it. So nothing is added by two threads, whether the windows overlap or not.
"""

import numpy as np

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.axis import height, input_at, output_at, output_of, width, window
from minicnn.kernels.cuda.launches import each_gradient, each_output
from minicnn.kernels.cuda.tile import device

_ZERO = np.float32(0)


def forward(op, params, work, place):
    """The largest number of each window (NaN wins), or 0 if there is a ReLU and that is larger."""
    rows, columns, C = height(op), width(op), np.int32(op.input_channels)
    i, p, q, c = output_at(op, place)
    h_first, h_end = window(rows, p)
    v_first, v_end = window(columns, q)
    x0, W = op.x + i * op.input_size + c, columns.size
    largest = work[np.uint64(x0 + np.int32((h_first * W + v_first) * C))]
    for h in range(h_first, h_end, rows.dilation):
        for v in range(v_first, v_end, columns.dilation):
            x = work[np.uint64(x0 + np.int32((h * W + v) * C))]
            if x > largest or x != x:
                largest = x
    if op.relu != 0 and largest < _ZERO:
        largest = _ZERO
    work[np.uint64(op.y + place)] = largest


@device
def _is_first_largest(work, x0, C, pixel, output, rows, columns, largest):
    """Whether the pixel (h, v) is the first element of the output's window, in reading order, that
    is not smaller than the maximum."""
    (h, v), W = pixel, columns.size
    first = not work[np.uint64(x0 + np.int32((h * W + v) * C))] < largest
    if first:
        h_first, _ = window(rows, output[0])
        v_first, v_end = window(columns, output[1])
        for above in range(h_first, np.int32(h + 1), rows.dilation):
            for left in range(v_first, v if above == h else v_end, columns.dilation):
                if not work[np.uint64(x0 + np.int32((above * W + left) * C))] < largest:
                    first = False
    return first


def backward(op, params, work, place):
    """dy of each window goes to its first largest element, to none where a ReLU made y 0."""
    rows, columns, C = height(op), width(op), np.int32(op.input_channels)
    i, h, v, c = input_at(op, place)
    x0, y0, dx = op.x + i * op.input_size + c, i * op.output_size + c, _ZERO
    for r in range(rows.taps - 1, -1, -1):  # the windows in their order
        p = output_of(rows, h, r)
        for s in range(columns.taps - 1 if p >= 0 else -1, -1, -1):
            q = output_of(columns, v, s)
            if q >= 0:
                at = y0 + np.int32((p * columns.outputs + q) * C)
                largest = work[np.uint64(op.y + at)]
                if (op.relu == 0 or largest > _ZERO) and _is_first_largest(
                    work, x0, C, (h, v), (p, q), rows, columns, largest
                ):
                    dx += work[np.uint64(op.dy + at)]
    store(work, op.dx + place, dx, op.accumulate)


LAUNCHES = {"forward": (each_output(forward),), "backward": (each_gradient(backward),)}
