"""Depthwise convolution: each channel has a filter of its own. It is a convolution in groups of one
channel."""

from minicnn.kernels.cuda.grouped_conv2d import LAUNCHES, backward, forward

__all__ = ["LAUNCHES", "backward", "forward"]
