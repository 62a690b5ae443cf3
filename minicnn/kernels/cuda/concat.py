"""Two images of one height and width, channel after channel, forward and backward.

y[n,p,q,:] = x[n,p,q,:], x2[n,p,q,:]          dx and dx2 are the parts of dy
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch, each_output, outputs
from minicnn.kernels.cuda.tile import device


def forward(op, params, work, i):
    """y from x and x2."""
    C, K = op.input_channels, op.output_channels
    m = i // K
    c = i - m * K
    place = op.x + m * C + c if c < C else op.x2 + m * (K - C) + c - C
    work[np.uint64(op.y + i)] = work[np.uint64(place)]


@device
def _split(work, dy, row, dx, channels, pixels, adds):
    """dx from its channels of dy, whose pixels are ``row`` numbers apart."""
    for i in range(cuda.grid(1), pixels * channels, cuda.gridsize(1)):
        pixel = i // channels
        store(work, dx + i, work[np.uint64(dy + pixel * row + i - pixel * channels)], adds)


def backward(plan, params, work, index, n, key, first_sample):
    """dx and dx2 from dy. Where both are one value's, the thread that writes a number in the first
    also adds to it."""
    op = plan[index]
    C, K = op.input_channels, op.output_channels
    pixels = n * op.output_height * op.output_width
    if op.dx >= 0:
        _split(work, op.dy, K, op.dx, C, pixels, op.accumulate)
    if op.dx2 >= 0:
        _split(work, op.dy + C, K, op.dx2, K - C, pixels, op.accumulate2)


LAUNCHES = {"forward": (each_output(forward),), "backward": (Launch(backward, outputs),)}
