"""Pooling over windows of one channel, forward and backward; the formulas are in `minicnn.kernels.cpu.pool2d`.

A thread makes one number: an output of the forward pass, or an element of dx, which collects from all windows that hold
it. So nothing is added by two threads, whether the windows overlap or not. A block takes pieces of one sample.
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.tile import THREADS, device, divide

_ZERO = np.float32(0)


@device
def _larger(a, b):
    return a if a > b else b


@device
def _smaller(a, b):
    return a if a < b else b


@device
def _field(plan, layer, field):
    return np.int32(plan[layer, field])


@device
def _window(first, kernel, stride, padding, size):
    """First and end of the rows, or columns, of an image that window number ``first`` holds."""
    start = np.int32(first * stride - padding)
    return _larger(np.int32(0), start), _smaller(size, np.int32(start + kernel))


@device
def _windows_holding(position, kernel, stride, padding, count):
    """First and end of the ``count`` windows, along one side, that hold the row or column ``position``."""
    before = np.int32(position + padding - kernel)  # the last place that is not in the first window
    first = np.int32(divide(before, stride) + 1) if before >= 0 else np.int32(0)
    return first, _smaller(np.int32(divide(position + padding, stride) + 1), count)


@device
def _geometry(plan, layer):
    """Input width, channels, output width; and (size of the image, kernel, stride, padding, outputs) by height and width."""
    W, Q = _field(plan, layer, at.INPUT_WIDTH), _field(plan, layer, at.OUTPUT_WIDTH)
    along_height = (_field(plan, layer, at.KERNEL_HEIGHT), _field(plan, layer, at.STRIDE_HEIGHT),
                    _field(plan, layer, at.PADDING_TOP))  # fmt: skip
    along_width = (_field(plan, layer, at.KERNEL_WIDTH), _field(plan, layer, at.STRIDE_WIDTH),
                   _field(plan, layer, at.PADDING_LEFT))  # fmt: skip
    return (_field(plan, layer, at.INPUT_HEIGHT), W, _field(plan, layer, at.INPUT_CHANNELS),
            _field(plan, layer, at.OUTPUT_HEIGHT), Q, along_height, along_width)  # fmt: skip


@device
def _forward(plan, rates, layer, work, sample, n, part, parts, of_maximum):
    H, W, C, _, Q, along_height, along_width = _geometry(plan, layer)
    size = _field(plan, layer, at.OUTPUT_SIZE)
    pieces = (size + THREADS - 1) // THREADS
    for unit in range(part, n * pieces, parts):
        i = divide(unit, pieces)
        j = np.int32((unit - i * pieces) * THREADS + cuda.threadIdx.x)
        if j < size:
            pixel = divide(j, C)
            p = divide(pixel, Q)
            h_first, h_end = _window(p, along_height[0], along_height[1], along_height[2], H)
            v_first, v_end = _window(np.int32(pixel - p * Q), along_width[0], along_width[1], along_width[2], W)
            x0 = plan[layer, at.INPUT] + (sample + i) * plan[layer, at.INPUT_SIZE]
            c = np.int32(j - pixel * C)
            result = work[np.uint64(x0 + np.int32((h_first * W + v_first) * C + c))] if of_maximum else _ZERO
            for h in range(h_first, h_end):
                for v in range(v_first, v_end):
                    x = work[np.uint64(x0 + np.int32((h * W + v) * C + c))]
                    if not of_maximum:
                        result += x
                    elif x > result or x != x:
                        result = x
            if not of_maximum:
                result *= rates[layer]
            elif plan[layer, at.RECTIFIED] != 0 and result < _ZERO:
                result = _ZERO
            work[np.uint64(plan[layer, at.OUTPUT] + (sample + i) * size + j)] = result


@device
def _is_first_largest(work, x0, row, C, h, v, h_first, v_first, v_end, largest):
    """Whether (h, v) is the first element of a window, in reading order, that is not smaller than the maximum."""
    first = not work[np.uint64(x0 + np.int32(h * row + v * C))] < largest
    if first:
        for above in range(h_first, np.int32(h + 1)):
            for left in range(v_first, v if above == h else v_end):
                if not work[np.uint64(x0 + np.int32(above * row + left * C))] < largest:
                    first = False
    return first


@device
def _backward(plan, rates, layer, work, sample, n, part, parts, of_maximum):
    H, W, C, P, Q, along_height, along_width = _geometry(plan, layer)
    size, row = _field(plan, layer, at.INPUT_SIZE), np.int32(W * C)
    pieces = (size + THREADS - 1) // THREADS
    for unit in range(part, n * pieces, parts):
        i = divide(unit, pieces)
        j = np.int32((unit - i * pieces) * THREADS + cuda.threadIdx.x)
        if j < size:
            h = divide(j, row)
            v = divide(j - h * row, C)
            c = np.int32(j - h * row - v * C)
            p_first, p_end = _windows_holding(h, along_height[0], along_height[1], along_height[2], P)
            q_first, q_end = _windows_holding(v, along_width[0], along_width[1], along_width[2], Q)
            x0 = plan[layer, at.INPUT] + (sample + i) * size + c
            outputs = (sample + i) * plan[layer, at.OUTPUT_SIZE] + c
            dx = _ZERO
            for p in range(p_first, p_end):
                h_first, _ = _window(p, along_height[0], along_height[1], along_height[2], H)
                for q in range(q_first, q_end):
                    window = outputs + np.int32((p * Q + q) * C)
                    share = work[np.uint64(plan[layer, at.D_OUTPUT] + window)]
                    if of_maximum:
                        largest = work[np.uint64(plan[layer, at.OUTPUT] + window)]
                        v_first, v_end = _window(q, along_width[0], along_width[1], along_width[2], W)
                        if (plan[layer, at.RECTIFIED] != 0 and not largest > _ZERO) or not _is_first_largest(
                            work, x0, row, C, h, v, h_first, v_first, v_end, largest
                        ):
                            share = _ZERO
                    else:
                        share *= rates[layer]
                    dx += share
            work[np.uint64(plan[layer, at.D_INPUT] + (sample + i) * size + j)] = dx


@device
def max_forward(plan, rates, layer, work, sample, n, part, parts):
    """The largest number of each window (not-a-number wins), or 0 if ``rectified`` and that is larger."""
    _forward(plan, rates, layer, work, sample, n, part, parts, True)


@device
def max_backward(plan, rates, layer, work, sample, n, part, parts):
    """dy of each window goes to its first largest element, to none where ``rectified`` made y 0."""
    _backward(plan, rates, layer, work, sample, n, part, parts, True)


@device
def average_forward(plan, rates, layer, work, sample, n, part, parts):
    """The mean of each window."""
    _forward(plan, rates, layer, work, sample, n, part, parts, False)


@device
def average_backward(plan, rates, layer, work, sample, n, part, parts):
    """Each element of the window gets the same share of dy."""
    _backward(plan, rates, layer, work, sample, n, part, parts, False)
