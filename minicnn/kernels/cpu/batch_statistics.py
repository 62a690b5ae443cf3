"""Mean and variance of each channel over the whole batch: the first half of batch normalization.

    μ[c] = 1/M Σ x[n,h,w,c]     σ²[c] = 1/M Σ (x[n,h,w,c] − μ[c])²          M = N · H · W, the sums over n, h, w
    dx = γ·ρ · (dy − 1/M Σ dy − x̂ · 1/M Σ dy·x̂)     ρ = 1 / √(σ² + ε), x̂ = (x − μ)·ρ

Source: Ioffe, Szegedy: Batch normalization, 2015. The second half is
`minicnn.kernels.cpu.batch_norm`, whose x this operation's y is: the same numbers in the same place;
it has the plain loop of both.
Between the two, forward and backward, all shards are combined, in their order: counts, means and
sums of squared distances by Chan's formula (Chan, Golub, LeVeque: Updating formulae and a pairwise
algorithm for computing sample variances, 1979), in float64.

``saved`` begins with 6 C + 1 numbers of float64: M of this shard, and for each channel Σ d and Σ d²
of the distances d of this shard from a number near its mean, Σ dy and Σ dy · (x − μ), then mean and
unbiased variance of the batch. What all shards use follows: for each channel μ (until they are
combined, the number near the shard's mean), ρ, the factors a, b of y = a·x + b, and the factors
p, q, r of dx = p·dy + q·x + r. Backward, the sums of a part of the shard are where Σ d and Σ d² were.
"""

import math

import numpy as np
from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    multiply_add,
    repeat,
    store,
    subtract,
    zero_unless_less,
)
from minicnn.memory import CACHE_LINE

# that are summed up in the buffers' dtype, before float64 takes over; they stay in the first cache
ROWS = 64


@njit(**JIT)
def whole_vectors(array, channels):
    """Where a pixel is more than a cache line, how many of its numbers fill vectors; else 0. Loops
    over few channels keep what belongs to a channel in registers for a block of rows; over many,
    they go through memory as it lies."""
    lanes = lanes_of(array)
    return channels // lanes * lanes if channels * array.itemsize > CACHE_LINE else 0


@njit(**JIT)
def block(array, channels, rows):
    """(all numbers, numbers in a row, in a block of rows) for loops over channels. If a vector
    holds several rows of few channels, they count as one row."""
    lanes = lanes_of(array)
    width = lanes if channels < lanes and lanes % channels == 0 else channels
    return rows * channels, width, ROWS * width


@njit(**JIT)
def shard_sums(op, work):
    """The float64 numbers of this shard, as a view."""
    count = (6 * op.input_channels + 1) * (8 // work.itemsize)
    return work[op.saved : op.saved + count].view(np.float64)


@njit(**JIT)
def shared_numbers(op, itemsize):
    """Where μ begins in the workspace; ρ, a, b, p, q and r follow, each as many as there are
    channels."""
    return op.saved + (6 * op.input_channels + 1) * (8 // itemsize)


@njit(**JIT)
def saved_size(channels, itemsize):
    """How much of the workspace is what an operation on ``channels`` keeps of a shard; a multiple
    of 64 bytes."""
    size = (6 * channels + 1) * (8 // itemsize) + 7 * channels
    return (size * itemsize + 63) // 64 * 64 // itemsize


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """Count, and sums of distances and of their squares of this shard, part by part: y is x.

    Distances are those from the mean of the first rows, not from 0, so that no digits are lost.
    """
    op = plan[0]
    C, rows, lanes = (
        op.input_channels,
        n * op.input_height * op.input_width,
        lanes_of(work),
    )
    sums, near = shard_sums(op, work), shared_numbers(op, work.itemsize)
    partial = near + C  # two numbers per channel, not yet in use
    distances, of_squares = sums[1 : 1 + C], sums[1 + C : 1 + 2 * C]
    if op.part == 0:
        sums[0] = 0.0
        first = min(rows, ROWS)
        for c in range(C):
            total = 0.0
            for m in range(first):
                total += work[op.x + m * C + c]
            work[near + c] = total / first
            distances[c] = of_squares[c] = 0.0
    sums[0] += rows
    for begin in range(0, rows, ROWS):
        for c in range(0, C, lanes):
            count, center = C - c, load(work, near + c, C - c)
            total = squares = load(work, near, 0)  # zeros
            for m in range(begin, min(rows, begin + ROWS)):
                distance = subtract(load(work, op.x + m * C + c, count), center)
                total = add(total, distance)
                squares = multiply_add(distance, distance, squares)
            store(work, partial + c, total, count)
            store(work, partial + C + c, squares, count)
        for c in range(C):
            distances[c] += work[partial + c]
            of_squares[c] += work[partial + C + c]


@njit(**JIT)
def _moments(op, works, shard, c):
    """M, mean and sum of squared distances from it, of a channel of a shard."""
    C, sums = op.input_channels, shard_sums(op, works[shard])
    count, total = sums[0], sums[1 + c]
    near = works[shard, shared_numbers(op, works.itemsize) + c]
    return count, total / count + near, max(0.0, sums[1 + C + c] - total * total / count)


@njit(**JIT)
def combine(plan, params, works):
    """Mean and variance of the batch, and what follows from them, for every shard."""
    op = plan[0]
    C, at = op.input_channels, shared_numbers(op, works.itemsize)
    for c in range(C):
        count, mean, square = _moments(op, works, 0, c)
        for shard in range(1, len(works)):
            others, its_mean, its_square = _moments(op, works, shard, c)
            distance, total = its_mean - mean, count + others
            mean += distance * others / total
            square += its_square + distance * distance * count * others / total
            count = total
        inverse = 1.0 / math.sqrt(square / count + op.f0)
        a = inverse * params[op.weight + c]
        for shard in range(len(works)):
            sums = shard_sums(op, works[shard])
            sums[1 + 4 * C + c] = mean
            sums[1 + 5 * C + c] = square / (count - 1.0) if count > 1.0 else -1.0
            works[shard, at + c] = mean
            works[shard, at + C + c] = inverse
            works[shard, at + 2 * C + c] = a
            works[shard, at + 3 * C + c] = params[op.bias + c] - mean * a


@njit(**JIT)
def combine_backward(plan, params, works):
    """The factors of dx = p·dy + q·x + r, for every shard."""
    op = plan[0]
    C, at = op.input_channels, shared_numbers(op, works.itemsize)
    for c in range(C):
        count, total, product = 0.0, 0.0, 0.0
        for shard in range(len(works)):
            sums = shard_sums(op, works[shard])
            count += sums[0]
            total += sums[1 + 2 * C + c]
            product += sums[1 + 3 * C + c]
        mean, inverse = np.float64(works[0, at + c]), np.float64(works[0, at + C + c])
        p = inverse * params[op.weight + c]
        q = -p * inverse * inverse * product / count
        for shard in range(len(works)):
            works[shard, at + 4 * C + c] = p
            works[shard, at + 5 * C + c] = q
            works[shard, at + 6 * C + c] = -p * total / count - q * mean


@njit(**JIT)
def finish(plan, params, work):
    """The running mean and variance, the latter unbiased: r ← (1 − momentum) · r + momentum ·
    batch.

    A batch with one number per channel has no unbiased variance, and leaves the running one as it is.
    """
    op = plan[0]
    C, sums = op.input_channels, shard_sums(op, work)
    for c in range(C):
        mean, variance = params[op.running_mean + c], params[op.running_var + c]
        params[op.running_mean + c] = mean + op.f1 * (sums[1 + 4 * C + c] - mean)
        if sums[1 + 5 * C + c] >= 0.0:
            params[op.running_var + c] = variance + op.f1 * (sums[1 + 5 * C + c] - variance)


@njit(**JIT)
def _factors(work, at, C, count):
    """a, b, p, q and r of a vector of channels."""
    return (
        load(work, at, count),
        load(work, at + C, count),
        load(work, at + 2 * C, count),
        load(work, at + 3 * C, count),
        load(work, at + 4 * C, count),
    )


@njit(**JIT)
def _dx_vector(op, work, here, count, factors):
    """dx of a vector, ``here`` numbers from the first on."""
    a, b, p, q, r = factors
    dy, x = load(work, op.dy + here, count), load(work, op.x + here, count)
    if op.relu != 0:
        dy = zero_unless_less(dy, load(work, op.dy, 0), multiply_add(a, x, b))
    if op.accumulate != 0:
        r = add(r, load(work, op.dx + here, count))
    store(work, op.dx + here, multiply_add(p, dy, multiply_add(q, x, r)), count)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dx = p·dy + q·x + r for the first ``n`` samples of the shard; with ``relu`` dy is that of the
    ReLU after a·x + b."""
    op = plan[0]
    if op.dx < 0:
        return
    C, at = op.input_channels, shared_numbers(op, work.itemsize) + 2 * op.input_channels
    size, width, step = block(work, C, n * op.input_height * op.input_width)
    lanes, whole = lanes_of(work), whole_vectors(work, C)
    if whole > 0:
        for begin in range(0, size, C):
            for c in range(0, whole, lanes):
                _dx_vector(op, work, begin + c, lanes, _factors(work, at + c, C, lanes))
            if whole < C:
                count = C - whole
                _dx_vector(op, work, begin + whole, count, _factors(work, at + whole, C, count))
    else:
        for begin in range(0, size, step):
            for c in range(0, width, lanes):
                a, b, p, q, r = _factors(work, at + c, C, C - c)
                factors = repeat(a, C), repeat(b, C), repeat(p, C), repeat(q, C), repeat(r, C)
                for here in range(begin + c, min(size, begin + step), width):
                    count = min(size - here, width - c)
                    _dx_vector(op, work, here, count, factors)
