"""PReLU: a leaky ReLU whose slope below zero is a parameter of each channel.

y = x where x > 0, else w[c] · x          dx = dy or w[c] · dy     dw[c] = Σ dy · x where x ≤ 0
"""

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.column import ROWS, blocks, own, store_part, sum_rows, tasks
from minicnn.kernels.cuda.launches import Launch, gradients, outputs


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y from x."""
    C = plan[op, at.INPUT_CHANNELS]
    for i in range(cuda.grid(1), n * plan[op, at.INPUT_SIZE], cuda.gridsize(1)):
        x = work[np.uint64(plan[op, at.X] + i)]
        y = x * params[np.uint64(plan[op, at.WEIGHT] + i % C)] if x < 0 else x
        work[np.uint64(plan[op, at.Y] + i)] = y


def backward_weight(plan, floats, params, work, op, n, key, first_sample):
    """dw in parts."""
    C, rows = plan[op, at.INPUT_CHANNELS], n * plan[op, at.INPUT_HEIGHT] * plan[op, at.INPUT_WIDTH]
    for task in range(cuda.blockIdx.x, tasks(plan, op, C), cuda.gridDim.x):
        c, split, first, end = own(plan, op, task, C, rows)
        total = float32(0)
        for m in range(first, end if c < C else first, ROWS):
            x = work[np.uint64(plan[op, at.X] + m * C + c)]
            if not x > 0:
                total += work[np.uint64(plan[op, at.DY] + m * C + c)] * x
        total = sum_rows(total)
        if c < C:
            store_part(plan, op, work, split, c, total, first_sample > 0)


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx from dy."""
    C = plan[op, at.INPUT_CHANNELS]
    for i in range(cuda.grid(1), n * plan[op, at.INPUT_SIZE], cuda.gridsize(1)):
        dy = work[np.uint64(plan[op, at.DY] + i)]
        dx = (
            dy
            if work[np.uint64(plan[op, at.X] + i)] > 0
            else dy * params[np.uint64(plan[op, at.WEIGHT] + i % C)]
        )
        store(work, plan[op, at.DX] + i, dx, plan[op, at.ACCUMULATE])


LAUNCHES = {
    "forward": (Launch(forward, outputs),),
    "backward": (
        Launch(
            backward_weight,
            lambda record, n: blocks(int(record["input_channels"]), int(record["splits"])),
        ),
        Launch(backward, gradients),
    ),
}
