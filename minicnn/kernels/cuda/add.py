"""The sum of two values of one shape, forward and backward: y = x + x2, dx = dy, dx2 = dy."""

import numpy as np

from minicnn.kernels.cuda.launches import each_gradient, each_output, outputs
from minicnn.kernels.cuda.tile import device


def forward(op, params, work, i):
    """y = x + x2."""
    work[np.uint64(op.y + i)] = work[np.uint64(op.x + i)] + work[np.uint64(op.x2 + i)]


@device
def store(work, place, value, adds):
    """work[place] = value, or += value where ``adds`` is not 0."""
    if adds != 0:
        value += work[np.uint64(place)]
    work[np.uint64(place)] = value


def backward(op, params, work, i):
    """Both inputs get dy, unless it lies where theirs does."""
    dy = work[np.uint64(op.dy + i)]
    if op.dx >= 0 and op.dx != op.dy:
        store(work, op.dx + i, dy, op.accumulate)
    if op.dx2 >= 0 and op.dx2 != op.dy:
        store(work, op.dx2 + i, dy, op.accumulate2)


def handed_on(record, n):
    """Blocks of `backward`: none where both gradients are dy."""
    return outputs(record, n) * bool({record.dx, record.dx2} - {-1, record.dy})


HAND_ON = each_gradient(backward)._replace(blocks=handed_on)
LAUNCHES = {"forward": (each_output(forward),), "backward": (HAND_ON,)}
