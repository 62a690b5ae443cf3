"""Which part of an image a pooling window reads, and which windows hold an element."""

import numpy as np

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.tile import device, divide


@device
def _larger(a, b):
    return a if a > b else b


@device
def _smaller(a, b):
    return a if a < b else b


@device
def along_height(plan, op):
    """(kernel, stride, padding, dilation, size of the image, outputs) from top to bottom, in 32
    bits."""
    return (
        np.int32(plan[op, at.KERNEL_HEIGHT]),
        np.int32(plan[op, at.STRIDE_HEIGHT]),
        np.int32(plan[op, at.PADDING_TOP]),
        np.int32(plan[op, at.DILATION_HEIGHT]),
        np.int32(plan[op, at.INPUT_HEIGHT]),
        np.int32(plan[op, at.OUTPUT_HEIGHT]),
    )


@device
def along_width(plan, op):
    """The same from left to right."""
    return (
        np.int32(plan[op, at.KERNEL_WIDTH]),
        np.int32(plan[op, at.STRIDE_WIDTH]),
        np.int32(plan[op, at.PADDING_LEFT]),
        np.int32(plan[op, at.DILATION_WIDTH]),
        np.int32(plan[op, at.INPUT_WIDTH]),
        np.int32(plan[op, at.OUTPUT_WIDTH]),
    )


@device
def window(position, along):
    """First and end, along one side, of what window number ``position`` reads inside the image;
    steps are the dilation."""
    kernel, stride, padding, dilation, size, _ = along
    start = np.int32(position * stride - padding)
    first = (
        start if start >= 0 else np.int32(start + divide(dilation - 1 - start, dilation) * dilation)
    )
    return first, _smaller(size, np.int32(start + (kernel - 1) * dilation + 1))


@device
def windows_holding(position, along):
    """First and end of the windows, along one side, that may hold the row or column ``position``:
    `holds` says which do."""
    kernel, stride, padding, dilation, _, outputs = along
    before = np.int32(
        position + padding - (kernel - 1) * dilation - 1
    )  # the last place that is not in the first window
    first = np.int32(divide(before, stride) + 1) if before >= 0 else np.int32(0)
    return first, _smaller(np.int32(divide(position + padding, stride) + 1), outputs)


@device
def holds(output, position, along):
    """Whether window number ``output`` reads ``position``, and does not step over it."""
    _, stride, padding, dilation, _, _ = along
    away = np.int32(position + padding - output * stride)
    return away - divide(away, dilation) * dilation == 0
