"""The images of a batch, scaled, into the first operation's x."""

import functools

import numpy as np
from numba import cuda, types

from minicnn.kernels.cuda.launches import INTEGER, NUMBERS, PLAN, ROWS
from minicnn.kernels.cuda.tile import THREADS


@functools.cache
def gather_signature(images):
    """The signature of `gather` for images of the Numba type ``images``, uint8 or float32."""
    return types.void(
        PLAN, NUMBERS, images[:, ::1], types.int64[::1], INTEGER, INTEGER, types.float32
    )


@functools.cache
def channels_signature(images):
    """The signature of `gather_channels`."""
    return types.void(PLAN, NUMBERS, images[:, ::1], types.int64[::1], INTEGER, INTEGER, ROWS)


def gather_channels(plan, work, images, order, start, n, scale):
    """The same with the factors and offsets [2, C] of the channels."""
    size, x0 = plan[0].input_size, plan[0].x
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        image = order[start + i]
        for j in range(cuda.threadIdx.x, size, THREADS):
            c = j % scale.shape[1]
            value = np.float32(images[image, j]) * scale[0, c] + scale[1, c]
            work[np.uint64(x0 + i * size + j)] = value


def gather(plan, work, images, order, start, n, scale):
    """x[i] = images[order[start + i]] · scale; ``images`` [N, H·W·C] uint8 or float32."""
    size, x0 = plan[0].input_size, plan[0].x
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        image = order[start + i]
        for j in range(cuda.threadIdx.x, size, THREADS):
            work[np.uint64(x0 + i * size + j)] = np.float32(images[image, j]) * scale
