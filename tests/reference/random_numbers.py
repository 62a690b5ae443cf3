"""Dropout in the oracle, and the counter-based random numbers that say what is kept.

Whether a number is kept is a hash of (key, layer, sample, place): Salmon et al., Parallel random
numbers: as easy as 1, 2, 3 (2011); the mixing function is SplitMix64's finalizer (Steele, Lea,
Flood: Fast splittable pseudorandom number generators, 2014). Here in whole numbers of Python.
"""

import numpy as np

_BITS = 2**64 - 1


def mixed(value):
    """A 64-bit hash of a number of 64 bits."""
    z = (value + 0x9E3779B97F4A7C15) & _BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _BITS
    return z ^ (z >> 31)


def kept(places, samples, rate, key, layer, first_sample=0):
    """The mask [samples, places]: 1 where the hash's upper half is at least rate · 2³²; the sum
    wraps at 2⁶⁴."""
    mask = np.zeros((samples, places))
    for i, j in np.ndindex(mask.shape):
        row = mixed(mixed(mixed(key) ^ layer) ^ (first_sample + i))
        mask[i, j] = mixed((row + j) & _BITS) >> 32 >= int(rate * 2**32)
    return mask


def dropout_mask(shape, rate, key, layer):
    """A place for each number of a sample, in the order height, width, channel."""
    return kept(int(np.prod(shape[1:])), shape[0], rate, key, layer).reshape(shape)


def dropout2d_mask(shape, rate, key, layer):
    """A place for each channel: [N,1,1,C] or [N,C]."""
    return kept(shape[-1], shape[0], rate, key, layer).reshape(
        shape[0], *(1 for _ in shape[1:-1]), shape[-1]
    )


def droppath_mask(shape, rate, key, layer):
    """One place for the sample: [N,1,...]."""
    return kept(1, shape[0], rate, key, layer).reshape(shape[0], *(1 for _ in shape[1:]))


def dropout_forward(x, mask, rate):
    """y = x · mask / (1 - rate) with mask 1 where an element is kept and 0 where it is dropped."""
    return np.asarray(x, np.float64) * np.asarray(mask, np.float64) / (1 - rate)


def dropout_backward(x, dy, mask, rate):
    """dx = dy · mask / (1 - rate)."""
    return np.asarray(dy, np.float64) * np.asarray(mask, np.float64) / (1 - rate)
