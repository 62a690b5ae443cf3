"""A convolution of images of one channel with few filters, and the 2×2 max pooling after it, in planes.

Such a layer (the first of a network for grey images) leaves most of a vector empty where vectors run along its filters.
Here they run along the width instead: every filter has a plane of its own, y[k, p, q], with rows as far apart as those
of the image. Then all of a plane's pixels are one row of the product, x[p·W + q + r·W + s], and nothing is moved:

    y[k,p,q]   = Σ_{r,s} w[r,s,k] · x[p+r, q+s]           dw[r,s,k] = Σ_{p,q} x[p+r, q+s] · dy[k,p,q]

The last S−1 columns of a plane mix the end of one line with the beginning of the next: nobody reads them, and their dy
is 0. The pooling adds the bias, since max(x) + b = max(x + b), and turns its result to NHWC. LeNet-5's first two layers
take 6 tenths of the time that they took with the pixels of all filters side by side.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES, multiply
from minicnn.kernels.cpu.vector import (
    DOTS,
    dots,
    load,
    maximum,
    pair_maximum,
    plus,
    share,
    store,
    transpose,
    zero_unless_less,
)


@njit(**JIT)
def _length(layer):
    """From the first pixel of a plane of y to its last, those that mix two lines included."""
    return (layer.output_height - 1) * layer.pitch + layer.output_width


@njit(**JIT)
def _sum(numbers):
    total = numbers.dtype.type(0)
    for i in range(len(numbers)):
        total += numbers[i]
    return total


@njit(**JIT)
def forward(layer, params, work, n):
    """y = x * w without the bias, in planes, for the first ``n`` samples of the chunk."""
    K, S, W = layer.output_channels, layer.kernel_width, layer.pitch
    plane = layer.output_height * W
    for i in range(n):
        multiply(layer.multiply, K, _length(layer), layer.kernel_height, S, params, layer.weight, 1, S * K, K,
                 work, layer.input + i * layer.input_size, W, 1, work, -1, 0,
                 work, layer.output + i * K * plane, plane)  # fmt: skip


@njit(**JIT)
def backward_filter(layer, work, grads, n):
    """dw += x ⋆ dy and db += Σ dy; the sums of each lane are kept apart until the whole chunk is done."""
    K, R, S, W = layer.output_channels, layer.kernel_height, layer.kernel_width, layer.pitch
    lanes, plane = VECTOR_BYTES // work.itemsize, layer.output_height * layer.pitch
    taps, filters = DOTS
    size = taps * filters * lanes
    blocks = R * ((S + taps - 1) // taps) * ((K + filters - 1) // filters)
    work[layer.sums : layer.sums + blocks * size] = 0
    for i in range(n):
        x, dy = layer.input + i * layer.input_size, layer.d_output + i * K * plane
        sums = layer.sums
        for r in range(R):
            for s in range(0, S, taps):
                for k in range(0, K, filters):
                    dots(work, x + r * W + s, 1, S - s, dy + k * plane, plane, K - k, _length(layer), sums)
                    sums += size
        if layer.bias >= 0:
            for k in range(K):
                grads[layer.bias + k] += _sum(work[dy + k * plane : dy + (k + 1) * plane])
    sums = layer.sums
    for r in range(R):
        for s in range(0, S, taps):
            for k in range(0, K, filters):
                for tap in range(min(taps, S - s)):
                    for filter in range(min(filters, K - k)):
                        at = sums + (tap * filters + filter) * lanes
                        grads[layer.weight + (r * S + s + tap) * K + k + filter] += _sum(work[at : at + lanes])
                sums += size


@njit(**JIT)
def max_forward(layer, params, work, n):
    """y = the largest of each window of 2×2, plus the bias, and the ReLU if the layer is ``rectified``, in NHWC."""
    Q, K, pitch = layer.input_width, layer.input_channels, layer.pitch
    rows, columns, lanes = layer.output_height, layer.output_width, VECTOR_BYTES // work.itemsize
    scratch = layer.maxima + layer.chunk * layer.output_size
    for i in range(n):
        for q in range(0, columns, lanes):  # the outer loop, so that masks are made once
            count = Q - 2 * q
            for k in range(K):
                bias = params[layer.bias + k] if layer.bias >= 0 else work.dtype.type(0)
                for p in range(rows):
                    at = layer.input + ((i * K + k) * layer.input_height + 2 * p) * pitch + 2 * q
                    to = (k * rows + p) * columns + q
                    left = maximum(load(work, at + pitch, count), load(work, at, count))
                    right = maximum(load(work, at + pitch + lanes, count - lanes), load(work, at + lanes, count - lanes))
                    largest = pair_maximum(left, right)
                    store(work, layer.maxima + i * layer.output_size + to, largest, columns - q)
                    y = plus(largest, bias)
                    store(work, scratch + to, maximum(y, load(work, at, 0)) if layer.rectified else y, columns - q)
        transpose(work, scratch, K, rows * columns, rows * columns, work, layer.output + i * layer.output_size, K)


@njit(**JIT)
def max_backward(layer, work, n):
    """dy goes to the first element of the window, in reading order, that is not smaller than the maximum."""
    Q, K, pitch = layer.input_width, layer.input_channels, layer.pitch
    rows, columns, lanes = layer.output_height, layer.output_width, VECTOR_BYTES // work.itemsize
    scratch = layer.maxima + layer.chunk * layer.output_size
    for i in range(n):
        maxima = layer.maxima + i * layer.output_size
        y, dy = layer.output + i * layer.output_size, layer.d_output + i * layer.output_size
        for j in range(0, layer.output_size if layer.rectified else 0, lanes):
            count = layer.output_size - j
            slope = zero_unless_less(load(work, dy + j, count), load(work, y, 0), load(work, y + j, count))
            store(work, dy + j, slope, count)
        transpose(work, dy, rows * columns, K, K, work, scratch, rows * columns)
        for q in range(0, pitch, 2 * lanes):  # to the end of the line: what no window reads gets 0
            for k in range(K):
                for p in range(rows):
                    line, to = ((i * K + k) * layer.input_height + 2 * p) * pitch + q, (k * rows + p) * columns + q // 2
                    x, dx, count, room = layer.input + line, layer.d_input + line, Q - q, pitch - q
                    upper, upper_next, lower, lower_next = share(
                        load(work, x, count), load(work, x + lanes, count - lanes), load(work, x + pitch, count),
                        load(work, x + pitch + lanes, count - lanes), load(work, maxima + to, columns - q // 2),
                        load(work, scratch + to, columns - q // 2))  # fmt: skip
                    store(work, dx, upper, room)
                    store(work, dx + lanes, upper_next, room - lanes)
                    store(work, dx + pitch, lower, room)
                    store(work, dx + pitch + lanes, lower_next, room - lanes)
