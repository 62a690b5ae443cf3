"""PReLU: a leaky ReLU whose factor below zero is a parameter of each channel.

y = x where x > 0, else w[c] · x          dx = dy or w[c] · dy     dw[c] = Σ dy · x where x ≤ 0
"""

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import ROWS, channels, column_of, pixels, store_sum, tasks
from minicnn.kernels.cuda.launches import Launch, each_gradient, each_output


def forward(op, params, work, i):
    """y from x."""
    x = work[np.uint64(op.x + i)]
    w = params[np.uint64(op.weight + i % op.input_channels)]
    work[np.uint64(op.y + i)] = x * w if x < 0 else x


def backward_weight(plan, params, work, index, n, key, first_sample):
    """dw in parts."""
    op = plan[index]
    C = op.input_channels
    for task in range(cuda.blockIdx.x, tasks(op, C), cuda.gridDim.x):
        c, split, first, end = column_of(op, task, C, pixels(op, n))
        total = float32(0)
        for m in range(first, end, ROWS):
            x = work[np.uint64(op.x + m * C + c)]
            if not x > 0:
                total += work[np.uint64(op.dy + m * C + c)] * x
        store_sum(op, work, split, c, total, first_sample > 0)


def backward(op, params, work, i):
    """dx from dy."""
    dx = work[np.uint64(op.dy + i)]
    if not work[np.uint64(op.x + i)] > 0:
        dx *= params[np.uint64(op.weight + i % op.input_channels)]
    store(work, op.dx + i, dx, op.accumulate)


LAUNCHES = {
    "forward": (each_output(forward),),
    "backward": (Launch(backward_weight, channels), each_gradient(backward)),
}
