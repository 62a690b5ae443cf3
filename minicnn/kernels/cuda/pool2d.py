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
def _window(plan, layer, p, q):
    """The part of output (p, q)'s window that lies inside the image: first and end row, first and end column."""
    top = p * plan[layer, at.STRIDE_HEIGHT] - plan[layer, at.PADDING_TOP]
    left = q * plan[layer, at.STRIDE_WIDTH] - plan[layer, at.PADDING_LEFT]
    return (
        _larger(0, top),
        _smaller(plan[layer, at.INPUT_HEIGHT], top + plan[layer, at.KERNEL_HEIGHT]),
        _larger(0, left),
        _smaller(plan[layer, at.INPUT_WIDTH], left + plan[layer, at.KERNEL_WIDTH]),
    )


@device
def _windows_holding(position, kernel, stride, padding, count):
    """First and end of the ``count`` windows, along one side, that hold the row or column ``position``."""
    before = position + padding - kernel  # the last place that is not in the first window
    first = divide(before, stride) + 1 if before >= 0 else 0
    return first, _smaller(divide(position + padding, stride) + 1, count)


@device
def _forward(plan, rates, layer, work, sample, n, part, parts, of_maximum):
    W, C, Q = plan[layer, at.INPUT_WIDTH], plan[layer, at.INPUT_CHANNELS], plan[layer, at.OUTPUT_WIDTH]
    size = plan[layer, at.OUTPUT_SIZE]
    pieces = (size + THREADS - 1) // THREADS
    for unit in range(part, n * pieces, parts):
        i = divide(unit, pieces)
        j = np.int32((unit - i * pieces) * THREADS + cuda.threadIdx.x)
        if j < size:
            pixel = divide(j, C)
            p = divide(pixel, Q)
            h_first, h_end, v_first, v_end = _window(plan, layer, p, pixel - p * Q)
            x0 = plan[layer, at.INPUT] + (sample + i) * plan[layer, at.INPUT_SIZE] + (j - pixel * C)
            result = work[np.uint64(x0 + (h_first * W + v_first) * C)] if of_maximum else _ZERO
            for h in range(h_first, h_end):
                for v in range(v_first, v_end):
                    x = work[np.uint64(x0 + (h * W + v) * C)]
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
def _is_first_largest(work, x0, W, C, h, v, h_first, v_first, v_end, largest):
    """Whether (h, v) is the first element of a window, in reading order, that is not smaller than the maximum."""
    if work[np.uint64(x0 + (h * W + v) * C)] < largest:
        return False
    first = True
    for above in range(h_first, h + 1):
        for left in range(v_first, v if above == h else v_end):
            if not work[np.uint64(x0 + (above * W + left) * C)] < largest:
                first = False
    return first


@device
def _backward(plan, rates, layer, work, sample, n, part, parts, of_maximum):
    W, C, Q = plan[layer, at.INPUT_WIDTH], plan[layer, at.INPUT_CHANNELS], plan[layer, at.OUTPUT_WIDTH]
    size = plan[layer, at.INPUT_SIZE]
    pieces = (size + THREADS - 1) // THREADS
    for unit in range(part, n * pieces, parts):
        i = divide(unit, pieces)
        j = np.int32((unit - i * pieces) * THREADS + cuda.threadIdx.x)
        if j < size:
            pixel = divide(j, C)
            h = divide(pixel, W)
            v, c = pixel - h * W, j - pixel * C
            p_first, p_end = _windows_holding(h, plan[layer, at.KERNEL_HEIGHT], plan[layer, at.STRIDE_HEIGHT],
                                              plan[layer, at.PADDING_TOP], plan[layer, at.OUTPUT_HEIGHT])  # fmt: skip
            q_first, q_end = _windows_holding(v, plan[layer, at.KERNEL_WIDTH], plan[layer, at.STRIDE_WIDTH],
                                              plan[layer, at.PADDING_LEFT], Q)  # fmt: skip
            x0 = plan[layer, at.INPUT] + (sample + i) * size + c
            outputs = (sample + i) * plan[layer, at.OUTPUT_SIZE] + c
            dx = _ZERO
            for p in range(p_first, p_end):
                for q in range(q_first, q_end):
                    window = outputs + (p * Q + q) * C
                    share = work[np.uint64(plan[layer, at.D_OUTPUT] + window)]
                    if of_maximum:
                        largest = work[np.uint64(plan[layer, at.OUTPUT] + window)]
                        h_first, _, v_first, v_end = _window(plan, layer, p, q)
                        if (plan[layer, at.RECTIFIED] != 0 and not largest > _ZERO) or not _is_first_largest(
                            work, x0, W, C, h, v, h_first, v_first, v_end, largest
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
