"""Batch normalization with the statistics of the whole batch, which
`minicnn.kernels.cpu.batch_statistics` takes before.

    y[n,h,w,c] = γ[c] · x̂ + β[c]     x̂ = (x − μ[c]) / √(σ²[c] + ε)
    dβ[c] = Σ dy     dγ[c] = Σ dy · x̂          over n, h, w

With ``relu`` also y = max(0, y), a ReLU after it: where y is not above 0, dy counts as 0.
The backward pass hands dy on; the operation before makes dx of it once the sums of all shards are
there. Source: Ioffe, Szegedy: Batch normalization: accelerating deep network training by reducing
internal covariate shift, 2015.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu.add import hand_on
from minicnn.kernels.cpu.arrays import inputs, outputs
from minicnn.kernels.cpu.batch_statistics import (
    ROWS,
    block,
    shard_sums,
    shared_numbers,
    whole_vectors,
)
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    multiply_add,
    repeat,
    store,
    subtract,
    zero_unless_less,
    zero_where_less,
)


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """The formula as it stands, statistics included, for a batch of ``n`` samples."""
    op = plan[0]
    x, y = inputs(op, work, n), outputs(op, work, n)
    for c in range(op.input_channels):
        mean = x[..., c].mean()
        deviation = np.sqrt(((x[..., c] - mean) ** 2).mean() + op.f0)
        for i, h, v in np.ndindex(x.shape[:3]):
            normal = (x[i, h, v, c] - mean) / deviation
            scaled = params[op.weight + c] * normal + params[op.bias + c]
            y[i, h, v, c] = np.maximum(scaled, 0.0) if op.relu else scaled


@njit(**JIT)
def _scale_vector(work, x, factor, shift, y, count, relu):
    """y of a vector."""
    scaled = multiply_add(factor, load(work, x, count), shift)
    if relu != 0:
        scaled = zero_where_less(scaled, scaled, work.dtype.type(0))
    store(work, y, scaled, count)


@njit(**JIT)
def scale_and_shift(work, x, a, b, y, channels, rows, relu):
    """y[m,c] = a[c] · x[m,c] + b[c]; all are places in ``work``. With ``relu`` what is below 0 is
    0."""
    size, width, step = block(work, channels, rows)
    lanes, whole = lanes_of(work), whole_vectors(work, channels)
    if whole > 0:
        for begin in range(0, size, channels):
            for c in range(0, whole, lanes):
                factor, shift = load(work, a + c, lanes), load(work, b + c, lanes)
                _scale_vector(work, x + begin + c, factor, shift, y + begin + c, lanes, relu)
            if whole < channels:
                count, at = channels - whole, begin + whole
                factor, shift = load(work, a + whole, count), load(work, b + whole, count)
                _scale_vector(work, x + at, factor, shift, y + at, count, relu)
    else:
        for begin in range(0, size, step):
            for c in range(0, width, lanes):
                factor = repeat(load(work, a + c, channels - c), channels)
                shift = repeat(load(work, b + c, channels - c), channels)
                for at in range(begin + c, min(size, begin + step), width):
                    count = min(size - at, width - c)
                    _scale_vector(work, x + at, factor, shift, y + at, count, relu)


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = a·x + b for the first ``n`` samples of the shard."""
    op = plan[0]
    C, at = op.input_channels, shared_numbers(op, work.itemsize)
    rows = n * op.input_height * op.input_width
    scale_and_shift(work, op.x, at + 2 * C, at + 3 * C, op.y, C, rows, op.relu)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dβ and dγ of this part, and the shard's sums for dx."""
    op = plan[0]
    C, rows, lanes = (
        op.input_channels,
        n * op.input_height * op.input_width,
        lanes_of(work),
    )
    at, sums = shared_numbers(op, work.itemsize), shard_sums(op, work)
    total, product = sums[1 : 1 + C], sums[1 + C : 1 + 2 * C]
    partial = at + 4 * C  # two numbers per channel, not yet in use
    total[:] = 0.0
    product[:] = 0.0
    for begin in range(0, rows, ROWS):
        for c in range(0, C, lanes):
            count, mean = C - c, load(work, at + c, C - c)
            a, b = load(work, at + 2 * C + c, count), load(work, at + 3 * C + c, count)
            sum_dy = sum_product = zeros = load(work, at, 0)
            for m in range(begin, min(rows, begin + ROWS)):
                dy, x = load(work, op.dy + m * C + c, count), load(work, op.x + m * C + c, count)
                if op.relu != 0:
                    dy = zero_unless_less(dy, zeros, multiply_add(a, x, b))
                sum_dy = add(sum_dy, dy)
                sum_product = multiply_add(dy, subtract(x, mean), sum_product)
            store(work, partial + c, sum_dy, count)
            store(work, partial + C + c, sum_product, count)
        for c in range(C):
            total[c] += work[partial + c]
            product[c] += work[partial + C + c]
    for c in range(C):
        here = 1 + 2 * C + c
        sums[here] = total[c] + (sums[here] if op.part > 0 else 0.0)
        sums[here + C] = product[c] + (sums[here + C] if op.part > 0 else 0.0)
        grads[op.bias + c] += total[c]
        grads[op.weight + c] += product[c] * work[at + C + c]
    hand_on(work, op.dy, op.dx, op.accumulate != 0, n * op.input_size)
