"""Dropout with the same counter-based random numbers, bit by bit, as `minicnn.kernels.cpu.dropout`."""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.tile import THREADS, device, divide


@device
def mix(value):
    """A 64-bit hash of a 64-bit number: SplitMix64's finalizer."""
    z = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@device
def _scale_kept(plan, rates, layer, work, source, target, sample, n, part, parts, key, first_sample):
    """Multiply every kept element by 1 / (1 − rate) and every other one by 0. A block takes pieces of one sample."""
    size, threshold = plan[layer, at.OUTPUT_SIZE], np.uint64(plan[layer, at.THRESHOLD])
    pieces = (size + THREADS - 1) // THREADS
    for unit in range(part, n * pieces, parts):
        piece = divide(unit, pieces)
        i, j = sample + piece, (unit - piece * pieces) * THREADS + cuda.threadIdx.x
        if j < size:
            row = mix(mix(mix(key) ^ np.uint64(plan[layer, at.LAYER])) ^ np.uint64(first_sample + i))
            kept = mix(row + np.uint64(j)) >> np.uint64(32) >= threshold
            x = work[np.uint64(source + i * size + j)]
            work[np.uint64(target + i * size + j)] = x * (rates[layer] if kept else np.float32(0))


@device
def forward(plan, rates, layer, work, sample, n, part, parts, key, first_sample):
    """y from x; ``key`` stands for seed and step, ``first_sample`` is the place in the batch of sample 0."""
    _scale_kept(plan, rates, layer, work, plan[layer, at.INPUT], plan[layer, at.OUTPUT], sample, n, part, parts, key,
                first_sample)  # fmt: skip


@device
def backward(plan, rates, layer, work, sample, n, part, parts, key, first_sample):
    """dx from dy, in place, with the same numbers as in the forward pass."""
    _scale_kept(plan, rates, layer, work, plan[layer, at.D_OUTPUT], plan[layer, at.D_INPUT], sample, n, part, parts, key,
                first_sample)  # fmt: skip
