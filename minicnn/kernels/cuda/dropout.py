"""Dropout with the same counter-based random numbers, bit by bit, as
`minicnn.kernels.cpu.dropout`."""

import numpy as np
from numba import cuda

from minicnn.kernels import common
from minicnn.kernels.cuda.add import store
from minicnn.kernels.cuda.launches import Launch
from minicnn.kernels.cuda.tile import THREADS, device, divide

mix = device(common.mix)


@device
def _scale_kept(op, work, source, target, adds, n, key, first_sample):
    """What is kept times 1 / (1 − rate), and the rest times 0. A block takes pieces of one
    sample."""
    size, scale = op.output_size, np.float32(1) / (np.float32(1) - op.f0)
    pieces = (size + THREADS - 1) // THREADS
    for unit in range(cuda.blockIdx.x, n * pieces, cuda.gridDim.x):
        i = divide(unit, pieces)
        j = (unit - i * pieces) * THREADS + cuda.threadIdx.x
        if j < size:
            drawn = j
            if op.a0 == 1:  # a channel
                drawn = j % op.output_channels
            elif op.a0 == 2:  # the sample
                drawn = j * 0
            row = mix(mix(mix(key) ^ np.uint64(op.layer)) ^ np.uint64(first_sample + i))
            kept = mix(row + np.uint64(drawn)) >> np.uint64(32) >= np.uint64(op.threshold)
            value = work[np.uint64(source + i * size + j)] * (scale if kept else np.float32(0))
            store(work, target + i * size + j, value, adds)


def forward(plan, params, work, index, n, key, first_sample):
    """y from x; ``key`` stands for seed and step, ``first_sample`` is the place in the batch of
    sample 0."""
    op = plan[index]
    _scale_kept(op, work, op.x, op.y, 0, n, key, first_sample)


def backward(plan, params, work, index, n, key, first_sample):
    """dx from dy with the same numbers as in the forward pass."""
    op = plan[index]
    _scale_kept(op, work, op.dy, op.dx, op.accumulate, n, key, first_sample)


def _pieces(record, n):
    return n * -(-record.output_size // THREADS)


LAUNCHES = {
    "forward": (Launch(forward, _pieces),),
    "backward": (Launch(backward, lambda record, n: _pieces(record, n) * (record.dx >= 0)),),
}
