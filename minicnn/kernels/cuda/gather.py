"""The images of a batch, scaled, into the first operation's x."""

import functools

import numpy as np
from numba import cuda, types

from minicnn.kernels.cuda.launches import INTEGER, NUMBERS, PLAN
from minicnn.kernels.cuda.tile import THREADS


@functools.cache
def gather_signature(images):
    """The signature of `gather` for images of the Numba type ``images``, uint8 or float32."""
    return types.void(
        PLAN, NUMBERS, images[:, ::1], types.int64[::1], INTEGER, INTEGER, types.float32
    )


def gather(plan, work, images, order, start, n, scale):
    """x[i] = images[order[start + i]] · scale; ``images`` [N, H·W·C] uint8 or float32."""
    size, x0 = plan[0].input_size, plan[0].x
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        image = order[start + i]
        for j in range(cuda.threadIdx.x, size, THREADS):
            work[np.uint64(x0 + i * size + j)] = np.float32(images[image, j]) * scale
