"""Dropout with counter-based random numbers, forward and backward.

    y = x / (1 − rate) where the element is kept, else 0          dx = dy / (1 − rate) where it is kept, else 0

Whether an element is kept is a hash of (seed, step, layer, sample, element): nothing is stored, and
neither chunks nor threads change it. Dropout2d drops whole channels (``a0`` = 1: the channel takes
the element's place), DropPath whole samples (``a0`` = 2). Sources: Srivastava et al. (2014);
Tompson et al. (2015) for Dropout2d; Huang et al.: Deep networks with stochastic depth (2016) for
DropPath; Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011), for the principle; the
mixing function is that of SplitMix64 (Steele et al. 2014).
"""

import numpy as np
from numba import njit

from minicnn.kernels import common
from minicnn.kernels.cpu.tile import JIT

mix = njit(**JIT)(common.mix)


@njit(**JIT)
def _scale_kept(op, work, source, target, adds, n, key, first_sample):
    """What is kept times 1 / (1 − rate), and the rest times 0; with ``adds`` added to the
    target."""
    number, size, channels = work.dtype.type, op.output_size, op.output_channels
    scale = number(1.0 / (1.0 - op.f0))
    threshold = np.uint64(op.f0 * 2.0**32)
    for i in range(n):
        row = mix(mix(mix(key) ^ np.uint64(op.layer)) ^ np.uint64(first_sample + i))
        for j in range(size):
            drawn = j if op.a0 == 0 else j % channels if op.a0 == 1 else 0
            kept = mix(row + np.uint64(drawn)) >> np.uint64(32) >= threshold
            value = work[source + i * size + j] * (scale if kept else number(0))
            work[target + i * size + j] = value + (
                work[target + i * size + j] if adds != 0 else number(0)
            )


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y from x; ``key`` stands for seed and step, ``first_sample`` is the chunk's place in its
    batch."""
    op = plan[0]
    _scale_kept(op, work, op.x, op.y, np.int64(0), n, key, first_sample)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx from dy with the same numbers as in the forward pass."""
    op = plan[0]
    _scale_kept(op, work, op.dy, op.dx, op.accumulate, n, key, first_sample)
