"""Maximum pooling over windows of one channel, forward and backward.

    y[n,p,q,c] = max over the window of x[n,h,v,c]          dy goes to the window's first largest element

with h = p·stride_h + r·dilation_h − pad_top, v = q·stride_w + s·dilation_w − pad_left, 0 ≤ r < R, 0
≤ s < S. Padding counts as −∞: PyTorch's convention. With ``relu`` also y = max(0, y): a ReLU before
the pooling may as well come after it.

Vectors run along the channels. Written as scalar loops, which LLVM does not vectorize for a few
channels, both passes of LeNet-5's first pooling layer took ten times as long.
"""

import numpy as np
from numba import njit

from minicnn.kernels.cpu.arrays import inputs, outputs
from minicnn.kernels.cpu.axis import height, width, window
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.kernels.cpu.vector import (
    add,
    lanes_of,
    load,
    maximum,
    store,
    store_whole,
    zero_unless_less,
    zero_where_less,
)


@njit(**ENTRY)
def plain(plan, params, work, n, key, first_sample):
    """The formula as it stands; NaN counts as the largest."""
    op = plan[0]
    x, y = inputs(op, work, n), outputs(op, work, n)
    for i, p, q, c in np.ndindex(y.shape):
        largest = -np.inf
        for r, s in np.ndindex((op.kernel_height, op.kernel_width)):
            h = p * op.stride_height + r * op.dilation_height - op.padding_top
            v = q * op.stride_width + s * op.dilation_width - op.padding_left
            if 0 <= h < op.input_height and 0 <= v < op.input_width:
                largest = np.maximum(largest, x[i, h, v, c])
        y[i, p, q, c] = np.maximum(largest, 0.0) if op.relu else largest


@njit(**JIT)
def _apart(op):
    """Whether the windows neither overlap nor reach beyond the image: each element belongs to one
    window, or, at the right and the lower edge, to none."""
    return (
        op.padding_top == 0
        and op.padding_left == 0
        and op.dilation_height == 1
        and op.dilation_width == 1
        and op.stride_height == op.kernel_height
        and op.stride_width == op.kernel_width
        and op.output_height * op.stride_height <= op.input_height
        and op.output_width * op.stride_width <= op.input_width
    )


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """The largest number of each window; NaN wins, so that a diverged run shows."""
    op = plan[0]
    if _apart(op) and op.kernel_height == 2 and op.kernel_width == 2:  # the usual case
        _forward_halves(op, work, n)
        return
    rows, columns = height(op), width(op)
    W, C, lanes, y = op.input_width, op.input_channels, lanes_of(work), op.y
    for i in range(n):
        x = op.x + i * op.input_size
        for p in range(op.output_height):
            for q in range(op.output_width):
                (h_first, h_end), (v_first, v_end) = window(rows, p), window(columns, q)
                for c in range(0, C, lanes):
                    first = x + (h_first * W + v_first) * C + c
                    largest = load(work, first, 0 if op.relu else C - c)  # from 0 on, or the first
                    for h in range(h_first, h_end, rows.dilation):
                        for v in range(v_first, v_end, columns.dilation):
                            number = load(work, x + (h * W + v) * C + c, C - c)
                            largest = maximum(number, largest)
                    store(work, y + c, largest, C - c)
                y += C


@njit(**JIT)
def _forward_halves(op, work, n):
    C, P, Q, lanes = op.input_channels, op.output_height, op.output_width, lanes_of(work)
    y, line = op.y, op.input_width * C
    for row in range(n * P):
        x = op.x + row // P * op.input_size + row % P * 2 * line
        for q in range(Q):
            room = C if C >= lanes else C * (Q - q)  # few channels may spill into later windows
            for c in range(0, C, lanes):
                if c + lanes <= room:
                    store_whole(work, y + c, _largest_of_four(op, work, x + c, line, lanes))
                else:
                    store(work, y + c, _largest_of_four(op, work, x + c, line, C - c), C - c)
            x += 2 * C
            y += C


@njit(**JIT)
def _largest_of_four(op, work, x, line, count):
    """The maximum of a window of 2×2, or 0 if that is larger and there is a ReLU."""
    C = op.input_channels
    upper = maximum(load(work, x + C, count), load(work, x, count))
    lower = maximum(load(work, x + line + C, count), load(work, x + line, count))
    largest = maximum(lower, upper)
    return maximum(largest, load(work, x, 0)) if op.relu else largest


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dy goes to the first element of the window, in reading order, that is not smaller than the
    maximum."""
    op = plan[0]
    # Where no element belongs to two windows, dx is written once, and need not be added to.
    once = _apart(op) and op.accumulate == 0
    if once and op.kernel_height == 2 and op.kernel_width == 2:
        _backward_halves(op, work, n)
        return
    rows, columns = height(op), width(op)
    W, C, lanes = op.input_width, op.input_channels, lanes_of(work)
    if op.accumulate == 0:
        work[op.dx : op.dx + n * op.input_size] = 0
    y, dy = op.y, op.dy
    for i in range(n):
        x, dx = op.x + i * op.input_size, op.dx + i * op.input_size
        for p in range(op.output_height):
            h_first, h_end = window(rows, p)
            for q in range(op.output_width):
                v_first, v_end = window(columns, q)
                for c in range(0, C, lanes):
                    count, largest = C - c, load(work, y + c, C - c)
                    left = _gradient(op, work, dy + c, largest, count)
                    for h in range(h_first, h_end, rows.dilation):
                        for v in range(v_first, v_end, columns.dilation):
                            at = (h * W + v) * C + c
                            candidate = load(work, x + at, count)
                            taken = zero_where_less(left, candidate, largest)
                            left = zero_unless_less(left, candidate, largest)
                            if not once:
                                taken = add(load(work, dx + at, count), taken)
                            store(work, dx + at, taken, count)
                y += C
                dy += C


@njit(**JIT)
def _backward_halves(op, work, n):
    C, P, Q, lanes = op.input_channels, op.output_height, op.output_width, lanes_of(work)
    y, dy, line = op.y, op.dy, op.input_width * C
    below = (op.input_height - 2 * P) * line
    for row in range(n * P):
        before = row // P * op.input_size + row % P * 2 * line
        x, dx, end = op.x + before, op.dx + before, op.dx + before + 2 * line
        for q in range(Q):
            room = C if C >= lanes else C * (Q - q)
            for c in range(0, C, lanes):
                if c + lanes <= room:
                    a, b, d, e = _routed(op, work, (x + c, y + c, dy + c, line), lanes)
                    store_whole(work, dx + c, a)
                    store_whole(work, dx + C + c, b)
                    store_whole(work, dx + line + c, d)
                    store_whole(work, dx + line + C + c, e)
                else:
                    a, b, d, e = _routed(op, work, (x + c, y + c, dy + c, line), C - c)
                    store(work, dx + c, a, C - c)
                    store(work, dx + C + c, b, C - c)
                    store(work, dx + line + c, d, C - c)
                    store(work, dx + line + C + c, e, C - c)
            x, dx = x + 2 * C, dx + 2 * C
            y, dy = y + C, dy + C
        if op.input_size > 4 * op.output_size:  # no window reads the last column or line
            work[dx : end - line] = 0
            work[dx + line : end + (below if row % P == P - 1 else 0)] = 0


@njit(**JIT)
def _routed(op, work, places, count):
    """The gradients of the four numbers of a window of 2×2."""
    x, y, dy, line = places
    largest, C = load(work, y, count), op.input_channels
    a, b = load(work, x, count), load(work, x + C, count)
    d, e = load(work, x + line, count), load(work, x + line + C, count)
    dy = _gradient(op, work, dy, largest, count)
    after_a = zero_unless_less(dy, a, largest)
    after_b = zero_unless_less(after_a, b, largest)
    after_d = zero_unless_less(after_b, d, largest)
    return (
        zero_where_less(dy, a, largest),
        zero_where_less(after_a, b, largest),
        zero_where_less(after_b, d, largest),
        zero_where_less(after_d, e, largest),
    )


@njit(**JIT)
def _gradient(op, work, dy, largest, count):
    """dy, or 0 where a ReLU made y 0: it goes to one element of the window."""
    left = load(work, dy, count)
    return zero_unless_less(left, load(work, dy, 0), largest) if op.relu else left
