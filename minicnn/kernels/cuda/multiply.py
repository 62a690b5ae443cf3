"""The product of two values, forward and backward: of one shape, or the second with one number a
channel, a gate.

    y[n,p,q,c] = x[n,p,q,c] · g          dx = dy · g,  dg = dy · x, summed over p and q for a gate

with g = x2[n,p,q,c] or x2[n,c]. Source: Hu, Shen, Sun: Squeeze-and-excitation networks, 2018.
"""

import numpy as np
from numba import cuda

from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch, each_gradient, each_output
from minicnn.kernels.cuda.tile import THREADS, device


@device
def _gate(op, work, i):
    """The number of x2 that number ``i`` of x is multiplied by."""
    sample = i // op.input_size
    place = sample * op.second_size + (i - sample * op.input_size) % op.second_size
    return work[np.uint64(op.x2 + place)]


def forward(op, params, work, i):
    """y = x · x2."""
    work[np.uint64(op.y + i)] = work[np.uint64(op.x + i)] * _gate(op, work, i)


def backward(op, params, work, i):
    """dx."""
    dx = work[np.uint64(op.dy + i)] * _gate(op, work, i)
    store(work, op.dx + i, dx, op.accumulate)


def backward_gate(plan, params, work, index, n, key, first_sample):
    """dx2, a thread for each of its numbers."""
    op = plan[index]
    size, gate_size = op.input_size, op.second_size
    for i in range(cuda.grid(1), n * gate_size, cuda.gridsize(1)):
        sample = i // gate_size
        first, total = sample * size + i - sample * gate_size, np.float32(0)
        for j in range(first, (sample + 1) * size, gate_size):
            total += work[np.uint64(op.dy + j)] * work[np.uint64(op.x + j)]
        store(work, op.dx2 + i, total, op.accumulate2)


def _gates(record, n):
    return -(-n * record.second_size // THREADS) * (record.dx2 >= 0)


LAUNCHES = {
    "forward": (each_output(forward),),
    "backward": (each_gradient(backward), Launch(backward_gate, _gates)),
}
