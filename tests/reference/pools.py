"""The poolings of the oracle. Letters and arrays are those of `tests.reference.layers`."""

import numpy as np

from .shapes import output_size


def _outputs(size, kernel, stride, before, after, dilation, ceil_mode):
    """Number of windows on one side: PyTorch's rule.

    With ``ceil_mode`` a window more where elements are left over, unless it begins at or after the
    image's end, in the padding there.
    """
    outputs = output_size(size, kernel, stride, before, after, dilation)
    left_over = size + before + after - (dilation * (kernel - 1) + 1) - (outputs - 1) * stride
    begins = outputs * stride - before  # the next window, in the image
    return outputs + (ceil_mode and left_over > 0 and begins < size)


def _sizes(x, kernel, stride, padding, dilation, ceil_mode):
    return tuple(
        _outputs(
            x.shape[1 + a],
            kernel[a],
            stride[a],
            *padding[2 * a : 2 * a + 2],
            dilation[a],
            ceil_mode,
        )
        for a in (0, 1)
    )


def _max_in_windows(x, kernel, stride, padding, dilation, ceil_mode):
    """The maxima [N,P,Q,C] and which window element r·S + s each came from (-1: the window holds
    padding alone).

    As in PyTorch: an element takes over if it is larger or a NaN: of equal elements the first
    stays, of NaNs the last.
    """
    x = np.asarray(x, np.float64)
    (N, H, W, C), (R, S) = x.shape, kernel
    P, Q = _sizes(x, kernel, stride, padding, dilation, ceil_mode)
    y, winner = np.full((N, P, Q, C), -np.inf), np.full((N, P, Q, C), -1)
    for p, q, r, s in np.ndindex(P, Q, R, S):
        h, v = (
            p * stride[0] + r * dilation[0] - padding[0],
            q * stride[1] + s * dilation[1] - padding[2],
        )
        if 0 <= h < H and 0 <= v < W:
            value, best, first = x[:, h, v, :], y[:, p, q, :], winner[:, p, q, :] < 0
            takes = first | (value > best) | np.isnan(value)
            y[:, p, q, :] = np.where(takes, value, best)
            winner[:, p, q, :] = np.where(takes, r * S + s, winner[:, p, q, :])
    return y, winner


def maxpool2d_forward(x, kernel, stride, padding=(0, 0, 0, 0), dilation=(1, 1), ceil_mode=False):
    """y[n,p,q,c] = max_{r,s} x[n, p·stride + r·dilation - top, q·stride + s·dilation - left, c];
    the border is -inf."""
    return _max_in_windows(x, kernel, stride, padding, dilation, ceil_mode)[0]


def maxpool2d_backward(
    x, dy, kernel, stride, padding=(0, 0, 0, 0), dilation=(1, 1), ceil_mode=False
):
    """dx: all of dy[n,p,q,c] goes to the element that was the maximum (of equal ones the first in
    row-major order)."""
    winner = _max_in_windows(x, kernel, stride, padding, dilation, ceil_mode)[1]
    dx = np.zeros(x.shape)
    for n, p, q, c in np.ndindex(dy.shape):
        if winner[n, p, q, c] >= 0:
            r, s = divmod(winner[n, p, q, c], kernel[1])
            h, v = (
                p * stride[0] + r * dilation[0] - padding[0],
                q * stride[1] + s * dilation[1] - padding[2],
            )
            dx[n, h, v, c] += dy[n, p, q, c]
    return dx


def _average_windows(x, kernel, stride, padding, ceil_mode, count_include_pad):
    """((p, q), rows of x, columns of x, divisor) of every window; what a window has beyond the
    padding never counts."""
    (_, H, W, _), (top, bottom, left, right) = x.shape, padding
    for p, q in np.ndindex(_sizes(x, kernel, stride, padding, (1, 1), ceil_mode)):
        h, v = p * stride[0] - top, q * stride[1] - left
        h_end, v_end = min(h + kernel[0], H + bottom), min(v + kernel[1], W + right)
        padded = (h_end - h) * (v_end - v)
        rows, columns = slice(max(h, 0), min(h_end, H)), slice(max(v, 0), min(v_end, W))
        inside = (rows.stop - rows.start) * (columns.stop - columns.start)
        yield (p, q), rows, columns, padded if count_include_pad else inside


def avgpool2d_forward(
    x, kernel, stride, padding=(0, 0, 0, 0), ceil_mode=False, count_include_pad=True
):
    """y[n,p,q,c] = Σ of the window / D: D = R·S, the zeros of the padding counted, or the number of
    elements inside.

    With ``ceil_mode`` a last window is cut where the padding ends. PyTorch's rules.
    """
    x = np.asarray(x, np.float64)
    y = np.zeros((len(x), *_sizes(x, kernel, stride, padding, (1, 1), ceil_mode), x.shape[3]))
    for (p, q), rows, columns, divisor in _average_windows(
        x, kernel, stride, padding, ceil_mode, count_include_pad
    ):
        y[:, p, q, :] = x[:, rows, columns, :].sum(axis=(1, 2)) / divisor
    return y


def avgpool2d_backward(
    x, dy, kernel, stride, padding=(0, 0, 0, 0), ceil_mode=False, count_include_pad=True
):
    """dx: every element of a window receives dy[n,p,q,c] / D."""
    dx, dy = np.zeros(x.shape), np.asarray(dy, np.float64)
    for (p, q), rows, columns, divisor in _average_windows(
        x, kernel, stride, padding, ceil_mode, count_include_pad
    ):
        dx[:, rows, columns, :] += dy[:, p : p + 1, q : q + 1, :] / divisor
    return dx


def globalavgpool2d_forward(x):
    """y[n,c] = (1 / H·W) Σ_{h,v} x[n,h,v,c]."""
    return np.asarray(x, np.float64).sum(axis=(1, 2)) / (x.shape[1] * x.shape[2])


def globalavgpool2d_backward(x, dy):
    """dx[n,h,v,c] = dy[n,c] / (H·W)."""
    return np.zeros(x.shape) + np.asarray(dy, np.float64)[:, None, None, :] / (
        x.shape[1] * x.shape[2]
    )


def globalmaxpool2d_forward(x):
    """y[n,c] = max_{h,v} x[n,h,v,c]."""
    return maxpool2d_forward(x, x.shape[1:3], (1, 1))[:, 0, 0, :]


def globalmaxpool2d_backward(x, dy):
    """dx: dy[n,c] goes to the first of the largest elements in row-major order."""
    return maxpool2d_backward(x, np.asarray(dy, np.float64)[:, None, None, :], x.shape[1:3], (1, 1))
