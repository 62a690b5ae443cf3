"""Pooling over windows of one channel, forward and backward.

    max:      y[n,p,q,c] = max over the window of x[n,h,v,c]     dy goes to the window's first largest element
    average:  y[n,p,q,c] = Σ over the window of x[n,h,v,c] / (R·S)     each element gets dy / (R·S)

with h = p·stride_h + r − pad_top, v = q·stride_w + s − pad_left, 0 ≤ r < R, 0 ≤ s < S. Padding counts as −∞ for the
maximum and as 0, in a divisor that stays R·S, for the average: PyTorch's conventions.

Vectors run along the channels. Written as scalar loops, which LLVM does not vectorize for a few channels, both passes of
LeNet-5's first pooling layer took ten times as long.
"""

from numba import njit

from minicnn.kernels.cpu import planar
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
def _covers(layer):
    """Whether the windows cover the image and neither overlap nor reach beyond it: each element belongs to one window."""
    return (
        layer.stride_height == layer.kernel_height
        and layer.stride_width == layer.kernel_width
        and layer.output_height * layer.stride_height == layer.input_height
        and layer.output_width * layer.stride_width == layer.input_width
    )


@njit(**JIT)
def max_forward(layer, params, work, n):
    """The largest number of each window; not-a-number wins, so that a diverged run shows.

    With ``rectified`` also y = max(0, y): the ReLU before the pooling, which may as well come after it.
    """
    if layer.pitch > 0:
        planar.max_forward(layer, params, work, n)
        return
    W, C = layer.input_width, layer.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    y, halves = layer.output, _covers(layer) and layer.kernel_height == 2 and layer.kernel_width == 2
    for i in range(n):
        x = layer.input + i * layer.input_size
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                if halves:  # the usual case, without loops and edges: twice as fast
                    top = x + 2 * (p * W + q) * C
                    for c in range(0, C, lanes):
                        at, below, count = top + c, top + W * C + c, C - c
                        upper = maximum(load(work, at + C, count), load(work, at, count))
                        lower = maximum(load(work, below + C, count), load(work, below, count))
                        _store_largest(layer, work, y + c, maximum(lower, upper), count)
                    y += C
                    continue
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for c in range(0, C, lanes):
                    largest = load(work, x + (h_first * W + v_first) * C + c, C - c)
                    for h in range(h_first, h_end):
                        for v in range(v_first, v_end):
                            largest = maximum(load(work, x + (h * W + v) * C + c, C - c), largest)
                    _store_largest(layer, work, y + c, largest, C - c)
                y += C


@njit(**JIT)
def _store_largest(layer, work, at, largest, count):
    """Write the maximum of a window, or 0 if that is larger and the layer is ``rectified``."""
    store(work, at, maximum(largest, load(work, at, 0)) if layer.rectified else largest, count)


@njit(**JIT)
def max_backward(layer, work, n):
    """dy goes to the first element of the window, in reading order, that is not smaller than the maximum."""
    if layer.pitch > 0:
        planar.max_backward(layer, work, n)
        return
    W, C = layer.input_width, layer.input_channels
    lanes = VECTOR_BYTES // work.itemsize
    once = _covers(layer)  # then every element of dx is written once, and need not be added to
    halves = once and layer.kernel_height == 2 and layer.kernel_width == 2
    if not once:
        work[layer.d_input : layer.d_input + n * layer.input_size] = 0
    y, dy = layer.output, layer.d_output
    for i in range(n):
        x, dx = layer.input + i * layer.input_size, layer.d_input + i * layer.input_size
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                if halves:  # without loops and edges, as in max_forward
                    top = 2 * (p * W + q) * C
                    for c in range(0, C, lanes):
                        count = C - c
                        largest, left = load(work, y + c, count), _slope(layer, work, y + c, dy + c, count)
                        for at in (top + c, top + C + c, top + W * C + c, top + W * C + C + c):
                            left = _take(work, x + at, dx + at, left, largest, count, once)
                else:
                    h_first, h_end, v_first, v_end = _window(layer, p, q)
                    for c in range(0, C, lanes):
                        count = C - c
                        largest, left = load(work, y + c, count), _slope(layer, work, y + c, dy + c, count)
                        for h in range(h_first, h_end):
                            for v in range(v_first, v_end):
                                at = (h * W + v) * C + c
                                left = _take(work, x + at, dx + at, left, largest, count, once)
                y += C
                dy += C


@njit(**JIT)
def _slope(layer, work, y, dy, count):
    """dy, or 0 where a ``rectified`` layer put out 0: what the elements of a window have to share, all or nothing."""
    left = load(work, dy, count)
    return zero_unless_less(left, load(work, y, 0), load(work, y, count)) if layer.rectified else left


@njit(**JIT)
def _take(work, x, dx, left, largest, count, once):
    """Give dx what is left of dy where x is not smaller than the maximum; return what is left after that."""
    candidate = load(work, x, count)
    taken = zero_where_less(left, candidate, largest)
    store(work, dx, taken if once else add(load(work, dx, count), taken), count)
    return zero_unless_less(left, candidate, largest)


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
