"""Pooling over windows of one channel, forward and backward.

    max:      y[n,p,q,c] = max over the window of x[n,h,v,c]     dy goes to the window's first largest element
    average:  y[n,p,q,c] = Σ over the window of x[n,h,v,c] / (R·S)     each element gets dy / (R·S)

with h = p·stride_h + r − pad_top, v = q·stride_w + s − pad_left, 0 ≤ r < R, 0 ≤ s < S. Padding counts as −∞ for the
maximum and as 0, in a divisor that stays R·S, for the average: PyTorch's conventions.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT


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
    """The largest number of each window; not-a-number wins, so that a diverged run shows."""
    W, C = layer.input_width, layer.input_channels
    for i in range(n):
        x = work[layer.input + i * layer.input_size :][: layer.input_size]
        y = work[layer.output + i * layer.output_size :][: layer.output_size]
        out = 0
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for c in range(C):
                    y[out + c] = x[(h_first * W + v_first) * C + c]
                for h in range(h_first, h_end):
                    for v in range(v_first, v_end):
                        at = (h * W + v) * C
                        for c in range(C):
                            candidate, largest = x[at + c], y[out + c]
                            y[out + c] = largest if candidate <= largest or largest != largest else candidate
                out += C


@njit(**JIT)
def max_backward(layer, work, n):
    """dy goes to the first element of the window, in reading order, that is not smaller than the maximum."""
    W, C = layer.input_width, layer.input_channels
    work[layer.d_input : layer.d_input + n * layer.input_size] = 0
    for i in range(n):
        x = work[layer.input + i * layer.input_size :][: layer.input_size]
        y = work[layer.output + i * layer.output_size :][: layer.output_size]
        dx = work[layer.d_input + i * layer.input_size :][: layer.input_size]
        dy = work[layer.d_output + i * layer.output_size :][: layer.output_size]
        out = 0
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for h in range(h_first, h_end):
                    for v in range(v_first, v_end):
                        at = (h * W + v) * C
                        for c in range(C):
                            # What is left of dy after the elements before; the first maximum takes it all.
                            left, hit = dy[out + c], not x[at + c] < y[out + c]
                            dx[at + c] += left if hit else 0
                            dy[out + c] = 0 if hit else left
                out += C


@njit(**JIT)
def average_forward(layer, work, n):
    """The mean of each window."""
    W, C = layer.input_width, layer.input_channels
    area = work.dtype.type(layer.kernel_height * layer.kernel_width)
    for i in range(n):
        x = work[layer.input + i * layer.input_size :][: layer.input_size]
        y = work[layer.output + i * layer.output_size :][: layer.output_size]
        out = 0
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                y[out : out + C] = 0
                for h in range(h_first, h_end):
                    for v in range(v_first, v_end):
                        at = (h * W + v) * C
                        for c in range(C):
                            y[out + c] += x[at + c]
                for c in range(C):
                    y[out + c] /= area
                out += C


@njit(**JIT)
def average_backward(layer, work, n):
    """Each element of the window gets the same share of dy."""
    W, C = layer.input_width, layer.input_channels
    area = work.dtype.type(layer.kernel_height * layer.kernel_width)
    work[layer.d_input : layer.d_input + n * layer.input_size] = 0
    for i in range(n):
        dx = work[layer.d_input + i * layer.input_size :][: layer.input_size]
        dy = work[layer.d_output + i * layer.output_size :][: layer.output_size]
        out = 0
        for p in range(layer.output_height):
            for q in range(layer.output_width):
                h_first, h_end, v_first, v_end = _window(layer, p, q)
                for h in range(h_first, h_end):
                    for v in range(v_first, v_end):
                        at = (h * W + v) * C
                        for c in range(C):
                            dx[at + c] += dy[out + c] / area
                out += C
