"""The geometry of windows along one axis of an image, height or width: tap t of the window of
output p reads the input at p·stride + t·dilation − padding."""

import numpy as np
from numba import njit

from minicnn.kernels.common import Axis
from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def height(op):
    """The axis from top to bottom."""
    return Axis(
        op.input_height,
        op.output_height,
        op.kernel_height,
        op.stride_height,
        op.dilation_height,
        op.padding_top,
    )


@njit(**JIT)
def width(op):
    """The axis from left to right."""
    return Axis(
        op.input_width,
        op.output_width,
        op.kernel_width,
        op.stride_width,
        op.dilation_width,
        op.padding_left,
    )


@njit(**JIT)
def input_of(axis, output, tap):
    """The position that this tap of the output reads."""
    return output * axis.stride + tap * axis.dilation - axis.padding


@njit(**JIT)
def output_of(axis, position, tap):
    """The output whose tap reads this position; −1 if there is none."""
    distance = position + axis.padding - tap * axis.dilation
    if distance < 0 or distance % axis.stride != 0 or distance // axis.stride >= axis.outputs:
        return -1
    return distance // axis.stride


@njit(**JIT)
def taps_inside(axis, output):
    """First and end tap of an output that read inside the image. The usual case needs no
    division."""
    start, first, end = input_of(axis, output, np.int64(0)), 0, axis.taps
    if start < 0:
        first = min(axis.taps, (axis.dilation - 1 - start) // axis.dilation)
    if start + (axis.taps - 1) * axis.dilation >= axis.size:
        end = max(0, (axis.size - 1 - start) // axis.dilation + 1)
    return first, end


@njit(**JIT)
def outputs_inside(axis, tap):
    """First and end output whose tap reads inside the image."""
    start = input_of(axis, np.int64(0), tap)
    first = 0 if start >= 0 else (axis.stride - 1 - start) // axis.stride
    last = axis.size - 1 - start
    return first, min(axis.outputs, last // axis.stride + 1) if last >= 0 else 0


@njit(**JIT)
def window(axis, output):
    """First and end position inside the image that an output reads, ``dilation`` apart."""
    start, dilation = input_of(axis, output, np.int64(0)), axis.dilation
    first = start if start >= 0 else start + (dilation - 1 - start) // dilation * dilation
    return first, min(axis.size, start + (axis.taps - 1) * dilation + 1)
