"""A convolution of images of one channel with few filters, and the 2×2 max pooling after it, fused:
both work in planes.

Such a convolution (the first of a network for grey images) leaves most of a vector empty where
vectors run along its filters. Here they run along the width instead: every filter has a plane of
its own, y[k, p, q], with rows as far apart as those of the image. Then all of a plane's pixels are
one row of the product, x[p·W + q + r·W + s], and nothing is moved:

    y[k,p,q]   = Σ_{r,s} w[r,s,k] · x[p+r, q+s]           dw[r,s,k] = Σ_{p,q} x[p+r, q+s] · dy[k,p,q]

The last S−1 columns of a plane mix the end of one line with the beginning of the next: nobody reads
them, and their dy is 0. The pooling adds the bias, since max(x) + b = max(x + b), and transposes
its result to NHWC. LeNet-5's first two layers take 6 tenths of the time that they took with the
pixels of all filters side by side.

Kept for the backward pass (``saved``) are the planes of all samples and the maxima; one sample's
maxima or their gradient, the gradient of its planes, and the sums of each lane are ``scratch``.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu.arrays import filters, inputs, outputs
from minicnn.kernels.cpu.tile import ENTRY, JIT, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    maximum,
    pair_maximum,
    route_to_first_maximum,
    store,
    zero_unless_less,
)
from minicnn.kernels.cpu.vector import transpose as transpose_matrix
from minicnn.kernels.cpu.vector_sums import DOTS, dots
from minicnn.memory import ALIGNMENT


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """Both formulas as they stand: y is the largest of four sums of the convolution."""
    op = plan[0]
    x, y, w = inputs(op, work, n), outputs(op, work, n), filters(op, params)
    for i, p, q, k in np.ndindex(y.shape):
        largest = -np.inf
        for h, v in (
            (2 * p, 2 * q),
            (2 * p, 2 * q + 1),
            (2 * p + 1, 2 * q),
            (2 * p + 1, 2 * q + 1),
        ):
            total = params[op.bias + k] if op.bias >= 0 else params.dtype.type(0)
            for r, s in np.ndindex(w.shape[:2]):
                total += x[i, h + r, v + s, 0] * w[r, s, 0, k]
            largest = np.maximum(largest, total)
        y[i, p, q, k] = np.maximum(largest, 0.0) if op.relu else largest


@njit(**JIT)
def _places(op):
    """Rows of a plane, its size, and where maxima, gradient of the planes and sums begin."""
    rows = 2 * op.output_height
    plane = rows * op.input_width
    maxima = op.saved + _round_up(op.chunk * op.output_channels * plane)
    d_planes = op.scratch + _round_up(op.output_size)
    return rows, plane, maxima, d_planes, d_planes + _round_up(op.output_channels * plane)


@njit(**JIT)
def _round_up(count):
    return (count + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@njit(**JIT)
def _length(op):
    """From the first pixel of a plane to its last, those that mix two lines included."""
    return (2 * op.output_height - 1) * op.input_width + 2 * op.output_width


@njit(**JIT)
def _sum(numbers):
    total = numbers.dtype.type(0)
    for i in range(len(numbers)):
        total += numbers[i]
    return total


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = the largest of each window of 2×2 of x * w, plus the bias, and the ReLU if there is one,
    in NHWC."""
    op = plan[0]
    K, S, W = op.output_channels, op.kernel_width, op.input_width
    rows, plane, maxima, _, _ = _places(op)
    for i in range(n):
        multiply(
            op.multiply,
            (K, _length(op), op.kernel_height, S),
            Scalars(params, op.weight, 1, S * K, K),
            Vectors(work, op.x + i * op.input_size, W, 1),
            Rows(work, -1, 0),
            Rows(work, op.saved + i * K * plane, plane),
        )
    P, Q, lanes = op.output_height, op.output_width, lanes_of(work)
    for i in range(n):
        for q in range(0, Q, lanes):  # the outer loop, so that masks are made once
            count = 2 * (Q - q)
            for k in range(K):
                bias = params[op.bias + k] if op.bias >= 0 else work.dtype.type(0)
                for p in range(P):
                    at = op.saved + ((i * K + k) * rows + 2 * p) * W + 2 * q
                    to = (k * P + p) * Q + q
                    largest = pair_maximum(
                        _pair(work, at, W, count), _pair(work, at + lanes, W, count - lanes)
                    )
                    store(work, maxima + i * op.output_size + to, largest, Q - q)
                    y = add(largest, bias)
                    y = maximum(y, load(work, at, 0)) if op.relu else y
                    store(work, op.scratch + to, y, Q - q)
        y = Rows(work, op.y + i * op.output_size, K)
        transpose_matrix(Rows(work, op.scratch, P * Q), y, K, P * Q)


@njit(**JIT)
def _pair(work, at, row, count):
    """The larger of two numbers one below the other."""
    return maximum(load(work, at + row, count), load(work, at, count))


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dy goes to the first largest element of each window; dw += x ⋆ that, db += its sum.

    The sums of each lane are kept apart until the whole chunk is done. The image needs no gradient.
    """
    op = plan[0]
    K, R, S, W = op.output_channels, op.kernel_height, op.kernel_width, op.input_width
    _, plane, _, d_planes, sums_at = _places(op)
    lanes = lanes_of(work)
    taps, filters = DOTS
    size = taps * filters * lanes
    blocks = R * ((S + taps - 1) // taps) * ((K + filters - 1) // filters)
    work[sums_at : sums_at + blocks * size] = 0
    for i in range(n):
        _pool_backward(op, work, i)
        x, sums = op.x + i * op.input_size, sums_at
        for r in range(R):
            for s in range(0, S, taps):
                for k in range(0, K, filters):
                    pixels = Rows(work, x + r * W + s, 1)
                    gradients = Rows(work, d_planes + k * plane, plane)
                    dots(pixels, S - s, gradients, K - k, _length(op), sums)
                    sums += size
        if op.bias >= 0:
            for k in range(K):
                grads[op.bias + k] += _sum(work[d_planes + k * plane : d_planes + (k + 1) * plane])
    sums = sums_at
    for r in range(R):
        for s in range(0, S, taps):
            for k in range(0, K, filters):
                for tap in range(min(taps, S - s)):
                    for j in range(min(filters, K - k)):
                        at = sums + (tap * filters + j) * lanes
                        dw = op.weight + (r * S + s + tap) * K + k + j
                        grads[dw] += _sum(work[at : at + lanes])
                sums += size


@njit(**JIT)
def _pool_backward(op, work, i):
    """The gradient of sample ``i``'s planes from dy, all columns written: those that nobody reads
    get 0."""
    K, W, width = op.output_channels, op.input_width, 2 * op.output_width
    rows, plane, maxima, d_planes, _ = _places(op)
    P, Q, lanes = op.output_height, op.output_width, lanes_of(work)
    maxima += i * op.output_size
    y, dy = op.y + i * op.output_size, op.dy + i * op.output_size
    for j in range(0, op.output_size if op.relu else 0, lanes):
        count = op.output_size - j
        gradient = zero_unless_less(
            load(work, dy + j, count), load(work, y, 0), load(work, y + j, count)
        )
        store(work, dy + j, gradient, count)
    transpose_matrix(Rows(work, dy, K), Rows(work, op.scratch, P * Q), P * Q, K)
    for q in range(0, W, 2 * lanes):
        for k in range(K):
            for p in range(P):
                line, to = (k * rows + 2 * p) * W + q, (k * P + p) * Q + q // 2
                x, dx = op.saved + i * K * plane + line, d_planes + line
                count, room = width - q, W - q
                upper, upper_next, lower, lower_next = route_to_first_maximum(
                    load(work, x, count),
                    load(work, x + lanes, count - lanes),
                    load(work, x + W, count),
                    load(work, x + W + lanes, count - lanes),
                    load(work, maxima + to, Q - q // 2),
                    load(work, op.scratch + to, Q - q // 2),
                )
                store(work, dx, upper, room)
                store(work, dx + lanes, upper_next, room - lanes)
                store(work, dx + W, lower, room)
                store(work, dx + W + lanes, lower_next, room - lanes)
