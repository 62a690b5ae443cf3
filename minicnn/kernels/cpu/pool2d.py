"""Pooling over windows of one channel, forward and backward.

    max:      y[n,p,q,c] = max over the window of x[n,h,v,c]     dy goes to the window's first largest element
    average:  y[n,p,q,c] = Σ over the window of x[n,h,v,c] / (R·S)     each element gets dy / (R·S)

with h = p·stride_h + r − pad_top, v = q·stride_w + s − pad_left, 0 ≤ r < R, 0 ≤ s < S. Padding counts as −∞ for the
maximum and as 0, in a divisor that stays R·S, for the average: PyTorch's conventions.

Vectors run along the channels. Written as scalar loops, which LLVM does not vectorize for a few channels, both passes of
LeNet-5's first pooling layer took ten times as long.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES
from minicnn.kernels.cpu.vector import add, load, maximum, scale, store, zero_unless_less, zero_where_less


@njit(**JIT)
def _window(layer, p, q):
    """The part of output (p, q)'s window that lies inside the image: first and end row, first and end column."""
    top = p * layer.stride_height - layer.padding_top
    left = q * layer.stride_width - layer.padding_left
    return (
        max(0, top),
        min(layer.input_height, top + layer.kernel_height),
        max(0, left),
        min(layer.input_width, left + layer.kernel_width),
    )


@njit(**JIT)
def max_forward(layer, work, n):
    """The largest number of each window; not-a-number wins, so that a diverged run shows.

    With ``rectified`` also y = max(0, y): the ReLU before the pooling, which may as well come after it.
    """
    W, C = layer.input_width, layer.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    y = layer.output
    for i in range(n):
        x = layer.input + i * layer.input_size
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for c in range(0, C, lanes):
                    at, count = x + (h_first * W + v_first) * C + c, C - c
                    largest = load(work, at, count)
                    if h_end - h_first == 2 and v_end - v_first == 2:  # without loops: 1.7 times as fast
                        right, below, last = at + C, at + W * C, at + W * C + C
                        largest = maximum(load(work, right, count), largest)
                        largest = maximum(maximum(load(work, last, count), load(work, below, count)), largest)
                    else:
                        for h in range(h_first, h_end):
                            for v in range(v_first, v_end):
                                largest = maximum(load(work, x + (h * W + v) * C + c, count), largest)
                    if layer.rectified:
                        largest = maximum(largest, load(work, at, 0))  # zeros
                    store(work, y + c, largest, count)
                y += C


@njit(**JIT)
def _take(work, x, dx, left, largest, count, once):
    """Give dx what is left of dy where x is not smaller than the maximum; return what is left after that."""
    candidate = load(work, x, count)
    taken = zero_where_less(left, candidate, largest)
    store(work, dx, taken if once else add(load(work, dx, count), taken), count)
    return zero_unless_less(left, candidate, largest)


@njit(**JIT)
def max_backward(layer, work, n):
    """dy goes to the first element of the window, in reading order, that is not smaller than the maximum."""
    W, C = layer.input_width, layer.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    # Where windows neither overlap nor leave gaps, every element of dx is written once and need not be added to.
    once = (
        layer.stride_height == layer.kernel_height
        and layer.stride_width == layer.kernel_width
        and layer.output_height * layer.stride_height == layer.input_height
        and layer.output_width * layer.stride_width == W
    )
    if not once:
        work[layer.d_input : layer.d_input + n * layer.input_size] = 0
    y, dy = layer.output, layer.d_output
    for i in range(n):
        x, dx = layer.input + i * layer.input_size, layer.d_input + i * layer.input_size
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for c in range(0, C, lanes):
                    largest = load(work, y + c, C - c)
                    left = load(work, dy + c, C - c)  # what the elements before have left of dy: all or nothing
                    if layer.rectified:
                        left = zero_unless_less(left, load(work, y, 0), largest)
                    at, count = (h_first * W + v_first) * C + c, C - c
                    if once and h_end - h_first == 2 and v_end - v_first == 2:  # without loops: see max_forward
                        left = _take(work, x + at, dx + at, left, largest, count, once)
                        left = _take(work, x + at + C, dx + at + C, left, largest, count, once)
                        at += W * C
                        left = _take(work, x + at, dx + at, left, largest, count, once)
                        _take(work, x + at + C, dx + at + C, left, largest, count, once)
                        continue
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            at = (h * W + v) * C + c
                            left = _take(work, x + at, dx + at, left, largest, count, once)
                y += C
                dy += C


@njit(**JIT)
def average_forward(layer, work, n):
    """The mean of each window."""
    W, C = layer.input_width, layer.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    share = work.dtype.type(1.0 / (layer.kernel_height * layer.kernel_width))
    y = layer.output
    for i in range(n):
        x = layer.input + i * layer.input_size
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for c in range(0, C, lanes):
                    total = load(work, y + c, 0)  # zeros
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            total = add(total, load(work, x + (h * W + v) * C + c, C - c))
                    store(work, y + c, scale(total, share), C - c)
                y += C


@njit(**JIT)
def average_backward(layer, work, n):
    """Each element of the window gets the same share of dy."""
    W, C = layer.input_width, layer.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    share = work.dtype.type(1.0 / (layer.kernel_height * layer.kernel_width))
    work[layer.d_input : layer.d_input + n * layer.input_size] = 0
    dy = layer.d_output
    for i in range(n):
        dx = layer.d_input + i * layer.input_size
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for c in range(0, C, lanes):
                    each = scale(load(work, dy + c, C - c), share)
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            at = dx + (h * W + v) * C + c
                            store(work, at, add(load(work, at, C - c), each), C - c)
                dy += C
