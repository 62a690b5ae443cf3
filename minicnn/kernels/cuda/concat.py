"""Two images of one height and width, channel after channel, forward and backward.

y[n,p,q,:] = x[n,p,q,:], x2[n,p,q,:]          dx and dx2 are the parts of dy
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch, outputs
from minicnn.kernels.cuda.tile import device


@device
def _copy_columns(work, source, source_row, target, target_row, columns, rows, adds):
    """target[m, :columns] = source[m, :columns], or += it; the rows are ``source_row`` and
    ``target_row`` apart."""
    columns = np.int32(columns)
    for i in range(cuda.grid(1), rows * columns, cuda.gridsize(1)):
        m = np.int64(i // columns)
        c = i - m * columns
        store(work, target + m * target_row + c, work[np.uint64(source + m * source_row + c)], adds)


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y from x and x2."""
    C, K, rows = (
        plan[op, at.INPUT_CHANNELS],
        plan[op, at.OUTPUT_CHANNELS],
        n * plan[op, at.OUTPUT_HEIGHT],
    )
    rows *= plan[op, at.OUTPUT_WIDTH]
    _copy_columns(work, plan[op, at.X], C, plan[op, at.Y], K, C, rows, 0)
    _copy_columns(work, plan[op, at.X2], K - C, plan[op, at.Y] + C, K, K - C, rows, 0)


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx and dx2 from dy. Where both are one value's, the thread that writes a number in the first
    also adds to it."""
    C, K, rows = (
        plan[op, at.INPUT_CHANNELS],
        plan[op, at.OUTPUT_CHANNELS],
        n * plan[op, at.OUTPUT_HEIGHT],
    )
    rows *= plan[op, at.OUTPUT_WIDTH]
    if plan[op, at.DX] >= 0:
        _copy_columns(
            work, plan[op, at.DY], K, plan[op, at.DX], C, C, rows, plan[op, at.ACCUMULATE]
        )
    if plan[op, at.DX2] >= 0:
        _copy_columns(
            work,
            plan[op, at.DY] + C,
            K,
            plan[op, at.DX2],
            K - C,
            K - C,
            rows,
            plan[op, at.ACCUMULATE2],
        )


LAUNCHES = {"forward": (Launch(forward, outputs),), "backward": (Launch(backward, outputs),)}
