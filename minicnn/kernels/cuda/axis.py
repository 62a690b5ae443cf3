"""The geometry of windows along one axis of an image, height or width, in 32 bits: tap t of the
window of output p reads the input at p·stride + t·dilation − padding."""

import numpy as np

from minicnn.kernels.common import Axis
from minicnn.kernels.cuda.tile import device, digits, divide


@device
def height(op):
    """The axis from top to bottom."""
    return Axis(
        np.int32(op.input_height),
        np.int32(op.output_height),
        np.int32(op.kernel_height),
        np.int32(op.stride_height),
        np.int32(op.dilation_height),
        np.int32(op.padding_top),
    )


@device
def width(op):
    """The axis from left to right."""
    return Axis(
        np.int32(op.input_width),
        np.int32(op.output_width),
        np.int32(op.kernel_width),
        np.int32(op.stride_width),
        np.int32(op.dilation_width),
        np.int32(op.padding_left),
    )


@device
def output_at(op, place):
    """(sample, row, column, channel) of number ``place`` of y."""
    i = place // op.output_size
    within, width = np.int32(place - i * op.output_size), np.int32(op.output_width)
    return i, *digits(within, width, np.int32(op.output_channels))


@device
def input_at(op, place):
    """(sample, row, column, channel) of number ``place`` of x."""
    i = place // op.input_size
    within, width = np.int32(place - i * op.input_size), np.int32(op.input_width)
    return i, *digits(within, width, np.int32(op.input_channels))


@device
def input_of(axis, output, tap):
    """The position that this tap of the output reads."""
    return np.int32(output * axis.stride + tap * axis.dilation - axis.padding)


@device
def output_of(axis, position, tap):
    """The output whose tap reads this position; −1 if there is none."""
    distance = np.int32(position + axis.padding - tap * axis.dilation)
    output = divide(distance, axis.stride) if distance >= 0 else np.int32(-1)
    exact = output * axis.stride == distance and output < axis.outputs
    return output if exact else np.int32(-1)


@device
def window(axis, output):
    """First and end position inside the image that an output reads, ``dilation`` apart."""
    start, dilation = input_of(axis, output, 0), axis.dilation
    end = np.int32(start + (axis.taps - 1) * dilation + 1)
    if start < 0:
        start = np.int32(start + divide(dilation - 1 - start, dilation) * dilation)
    return start, end if end < axis.size else axis.size
