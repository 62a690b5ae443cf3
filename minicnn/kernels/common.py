"""What is the same number by number on the CPU and on CUDA, as plain functions that each compiles."""

from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """One axis of a convolution or a pooling."""

    size: int  # of the input
    outputs: int
    taps: int  # of a window
    stride: int
    dilation: int
    padding: int  # before the input


def mix(value):
    """A 64-bit hash of a 64-bit number: SplitMix64's finalizer."""
    z = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def largest(row):
    """Index of the first largest number: the predicted class."""
    best = 0
    for k in range(1, len(row)):
        if row[k] > row[best]:
            best = k
    return best
