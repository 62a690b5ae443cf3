"""The sum of two values of one shape, forward and backward: y = x + x2, dx = dy, dx2 = dy."""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.launches import Launch, outputs
from minicnn.kernels.cuda.tile import device


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y = x + x2."""
    x0, other, y0 = plan[op, at.X], plan[op, at.X2], plan[op, at.Y]
    for i in range(cuda.grid(1), n * plan[op, at.OUTPUT_SIZE], cuda.gridsize(1)):
        work[np.uint64(y0 + i)] = work[np.uint64(x0 + i)] + work[np.uint64(other + i)]


@device
def store(work, place, value, adds):
    """work[place] = value, or += value where ``adds`` is not 0."""
    if adds != 0:
        value += work[np.uint64(place)]
    work[np.uint64(place)] = value


def backward(plan, floats, params, work, op, n, key, first_sample):
    """Both inputs get dy, unless it lies where theirs does."""
    dx, other, dy = plan[op, at.DX], plan[op, at.DX2], plan[op, at.DY]
    for i in range(cuda.grid(1), n * plan[op, at.OUTPUT_SIZE], cuda.gridsize(1)):
        d = work[np.uint64(dy + i)]
        if dx >= 0 and dx != dy:
            store(work, dx + i, d, plan[op, at.ACCUMULATE])
        if other >= 0 and other != dy:
            store(work, other + i, d, plan[op, at.ACCUMULATE2])


def handed_on(record, n):
    """Blocks of `backward`: none where both gradients are dy."""
    return (
        outputs(record, n)
        if {int(record["dx"]), int(record["dx2"])} - {-1, int(record["dy"])}
        else 0
    )


LAUNCHES = {"forward": (Launch(forward, outputs),), "backward": (Launch(backward, handed_on),)}
