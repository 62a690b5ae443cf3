"""Dropout with counter-based random numbers, forward and backward.

    y = x / (1 − rate) where the element is kept, else 0          dx = dy / (1 − rate) where it is kept, else 0

Whether an element is kept is a hash of (seed, step, layer, sample, element): nothing is stored, and neither chunks nor
threads change it. Sources: Srivastava et al. (2014); Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011),
for the principle; the mixing function is that of SplitMix64 (Steele et al. 2014).
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import copy


@njit(**JIT)
def mix(value):
    """A 64-bit hash of a 64-bit number: SplitMix64's finalizer."""
    z = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(**JIT)
def _scale_kept(layer, numbers, start, size, n, key, first_sample):
    """Multiply every kept element by 1 / (1 − rate) and every other one by 0."""
    scale = numbers.dtype.type(1.0 / (1.0 - layer.slope_or_rate))
    threshold = np.uint64(layer.slope_or_rate * 2.0**32)
    for i in range(n):
        row = mix(mix(mix(key) ^ np.uint64(layer.layer)) ^ np.uint64(first_sample + i))
        for j in range(size):
            kept = mix(row + np.uint64(j)) >> np.uint64(32) >= threshold
            numbers[start + i * size + j] *= scale if kept else numbers.dtype.type(0)


@njit(**JIT)
def forward(layer, work, n, key, first_sample):
    """y from x; ``key`` stands for seed and step, ``first_sample`` is the chunk's place in its batch."""
    count = n * layer.output_size
    if layer.input != layer.output:
        copy(work, layer.input, work, layer.output, count)
    _scale_kept(layer, work, layer.output, layer.output_size, n, key, first_sample)


@njit(**JIT)
def backward(layer, work, n, key, first_sample):
    """dx from dy, in place, with the same numbers as in the forward pass."""
    _scale_kept(layer, work, layer.d_output, layer.output_size, n, key, first_sample)
