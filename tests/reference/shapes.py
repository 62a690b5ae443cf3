"""What convolution and pooling share in the oracle: sizes of outputs, and images with a border."""

import numpy as np


def output_size(size, kernel, stride, pad_before, pad_after, dilation=1):
    """How often a dilated kernel fits into the padded size at this stride."""
    return (size + pad_before + pad_after - dilation * (kernel - 1) - 1) // stride + 1


def zero_bordered(x, padding):
    top, bottom, left, right = padding
    return np.pad(np.asarray(x, np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))


def without_border(x, padding):
    top, bottom, left, right = padding
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right, :].copy()
