"""The product of two values, forward and backward: of one shape, or the second with one number a
channel, a gate.

    y[n,p,q,c] = x[n,p,q,c] · g          dx = dy · g,  dg = dy · x, summed over p and q for a gate

with g = x2[n,p,q,c] or x2[n,c]. Source: Hu, Shen, Sun: Squeeze-and-excitation networks, 2018.
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch, outputs
from minicnn.kernels.cuda.tile import THREADS, device


@device
def _of_gate(i, size, gate_size):
    """The number of x2 that number ``i`` of x is multiplied by."""
    sample = i // size
    return sample * gate_size + (i - sample * size) % gate_size


def forward(plan, floats, params, work, op, n, key, first_sample):
    """y = x · x2."""
    size, gate_size = plan[op, at.INPUT_SIZE], plan[op, at.SECOND_SIZE]
    for i in range(cuda.grid(1), n * size, cuda.gridsize(1)):
        gate = work[np.uint64(plan[op, at.X2] + _of_gate(i, size, gate_size))]
        work[np.uint64(plan[op, at.Y] + i)] = work[np.uint64(plan[op, at.X] + i)] * gate


def backward(plan, floats, params, work, op, n, key, first_sample):
    """dx, a thread for each of its numbers."""
    size, gate_size = plan[op, at.INPUT_SIZE], plan[op, at.SECOND_SIZE]
    for i in range(cuda.grid(1), n * size, cuda.gridsize(1)):
        gate = work[np.uint64(plan[op, at.X2] + _of_gate(i, size, gate_size))]
        store(
            work,
            plan[op, at.DX] + i,
            work[np.uint64(plan[op, at.DY] + i)] * gate,
            plan[op, at.ACCUMULATE],
        )


def backward_gate(plan, floats, params, work, op, n, key, first_sample):
    """dx2, a thread for each of its numbers."""
    size, gate_size = plan[op, at.INPUT_SIZE], plan[op, at.SECOND_SIZE]
    for i in range(cuda.grid(1), n * gate_size, cuda.gridsize(1)):
        sample = i // gate_size
        first, total = sample * size + i - sample * gate_size, np.float32(0)
        for j in range(first, (sample + 1) * size, gate_size):
            total += work[np.uint64(plan[op, at.DY] + j)] * work[np.uint64(plan[op, at.X] + j)]
        store(work, plan[op, at.DX2] + i, total, plan[op, at.ACCUMULATE2])


LAUNCHES = {
    "forward": (Launch(forward, outputs),),
    "backward": (
        Launch(backward, lambda record, n: outputs(record, n) if record["dx"] >= 0 else 0),
        Launch(
            backward_gate,
            lambda record, n: (
                -(-n * int(record["second_size"]) // THREADS) if record["dx2"] >= 0 else 0
            ),
        ),
    ),
}
