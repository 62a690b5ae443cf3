"""Forward and backward passes of every layer, in NumPy float64, as close to the formulas as plain loops can be.

Letters: N batch; H W C input height, width, channels; R S K filter height, width, number; P Q output height, width.
Arrays: x [N,H,W,C], w [R,S,C,K], y and dy [N,P,Q,K]; dense x [N,I], w [I,O]. ``stride``, ``dilation`` and ``kernel``
are (height, width); ``padding`` is (top, bottom, left, right). A backward pass takes dy = dLoss/dy and returns
dLoss/dx and the same of each parameter.
"""

import math

import numpy as np


def numeric_gradient(f, x, step=1e-6):
    """dx[i] = (f(x + step·e_i) - f(x - step·e_i)) / (2 step) for a scalar function f of the array x."""
    x = np.array(x, np.float64)
    dx = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        value = x[i]
        x[i] = value + step
        above = f(x)
        x[i] = value - step
        below = f(x)
        x[i] = value
        dx[i] = (above - below) / (2 * step)
    return dx


def output_size(size, kernel, stride, pad_before, pad_after, dilation=1):
    """How often a dilated kernel fits into the padded size at this stride."""
    return (size + pad_before + pad_after - dilation * (kernel - 1) - 1) // stride + 1


def zero_bordered(x, padding):
    top, bottom, left, right = padding
    return np.pad(np.asarray(x, np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))


def without_border(x, padding):
    top, bottom, left, right = padding
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right, :].copy()


def conv2d_forward(x, w, bias=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)):
    """y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n,h,v,c] · w[r,s,c,k].

    h = p·stride_h + r·dilation_h - top and v = q·stride_w + s·dilation_w - left; the border is zero.
    """
    (N, H, W, _), (R, S, _, K) = x.shape, w.shape
    P = output_size(H, R, stride[0], padding[0], padding[1], dilation[0])
    Q = output_size(W, S, stride[1], padding[2], padding[3], dilation[1])
    bordered, w = zero_bordered(x, padding), np.asarray(w, np.float64)
    y = np.zeros((N, P, Q, K))
    for p, q, r, s in np.ndindex(P, Q, R, S):
        h, v = p * stride[0] + r * dilation[0], q * stride[1] + s * dilation[1]
        y[:, p, q, :] += bordered[:, h, v, :] @ w[r, s]
    return y if bias is None else y + np.asarray(bias, np.float64)


def conv2d_backward(x, dy, w, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)):
    """dx, dw, db: each product x[n,h,v,c] · w[r,s,c,k] of the forward pass hands dy[n,p,q,k] to both of its factors."""
    (R, S, _, _), (_, P, Q, _) = w.shape, dy.shape
    bordered, dy, w = zero_bordered(x, padding), np.asarray(dy, np.float64), np.asarray(w, np.float64)
    d_bordered, dw = np.zeros_like(bordered), np.zeros_like(w)
    for p, q, r, s in np.ndindex(P, Q, R, S):
        h, v = p * stride[0] + r * dilation[0], q * stride[1] + s * dilation[1]
        d_bordered[:, h, v, :] += dy[:, p, q, :] @ w[r, s].T
        dw[r, s] += bordered[:, h, v, :].T @ dy[:, p, q, :]
    return without_border(d_bordered, padding), dw, dy.sum(axis=(0, 1, 2))


def _max_in_windows(x, kernel, stride, padding):
    """The maxima [N,P,Q,C] and which window element r·S + s each came from (-1: the window holds padding alone).

    As in PyTorch: an element takes over if it is larger or a NaN: of equal elements the first stays, of NaNs the last.
    """
    x = np.asarray(x, np.float64)
    (N, H, W, C), (R, S) = x.shape, kernel
    P = output_size(H, R, stride[0], padding[0], padding[1])
    Q = output_size(W, S, stride[1], padding[2], padding[3])
    y, winner = np.full((N, P, Q, C), -np.inf), np.full((N, P, Q, C), -1)
    for p, q, r, s in np.ndindex(P, Q, R, S):
        h, v = p * stride[0] + r - padding[0], q * stride[1] + s - padding[2]
        if 0 <= h < H and 0 <= v < W:
            value, best, first = x[:, h, v, :], y[:, p, q, :], winner[:, p, q, :] < 0
            takes = first | (value > best) | np.isnan(value)
            y[:, p, q, :] = np.where(takes, value, best)
            winner[:, p, q, :] = np.where(takes, r * S + s, winner[:, p, q, :])
    return y, winner


def maxpool2d_forward(x, kernel, stride, padding=(0, 0, 0, 0)):
    """y[n,p,q,c] = max_{r,s} x[n, p·stride + r - top, q·stride + s - left, c], where the border counts as -inf."""
    return _max_in_windows(x, kernel, stride, padding)[0]


def maxpool2d_backward(x, dy, kernel, stride, padding=(0, 0, 0, 0)):
    """dx: all of dy[n,p,q,c] goes to the element that was the maximum (of equal ones the first in row-major order)."""
    winner = _max_in_windows(x, kernel, stride, padding)[1]
    dx = np.zeros(x.shape)
    for n, p, q, c in np.ndindex(dy.shape):
        if winner[n, p, q, c] >= 0:
            r, s = divmod(winner[n, p, q, c], kernel[1])
            dx[n, p * stride[0] + r - padding[0], q * stride[1] + s - padding[2], c] += dy[n, p, q, c]
    return dx


def avgpool2d_forward(x, kernel, stride, padding=(0, 0, 0, 0)):
    """y[n,p,q,c] = (1 / R·S) Σ_{r,s} x[n, p·stride + r - top, q·stride + s - left, c].

    The border is zero and counts in the divisor.
    """
    (N, H, W, C), (R, S) = x.shape, kernel
    P = output_size(H, R, stride[0], padding[0], padding[1])
    Q = output_size(W, S, stride[1], padding[2], padding[3])
    bordered, y = zero_bordered(x, padding), np.zeros((N, P, Q, C))
    for p, q in np.ndindex(P, Q):
        h, v = p * stride[0], q * stride[1]
        y[:, p, q, :] = bordered[:, h : h + R, v : v + S, :].sum(axis=(1, 2)) / (R * S)
    return y


def avgpool2d_backward(x, dy, kernel, stride, padding=(0, 0, 0, 0)):
    """dx: every element of a window receives dy[n,p,q,c] / (R·S)."""
    (_, P, Q, _), (R, S) = dy.shape, kernel
    d_bordered = np.zeros_like(zero_bordered(x, padding))
    for p, q in np.ndindex(P, Q):
        h, v = p * stride[0], q * stride[1]
        d_bordered[:, h : h + R, v : v + S, :] += np.asarray(dy, np.float64)[:, p : p + 1, q : q + 1, :] / (R * S)
    return without_border(d_bordered, padding)


def globalavgpool2d_forward(x):
    """y[n,c] = (1 / H·W) Σ_{h,v} x[n,h,v,c]."""
    return np.asarray(x, np.float64).sum(axis=(1, 2)) / (x.shape[1] * x.shape[2])


def globalavgpool2d_backward(x, dy):
    """dx[n,h,v,c] = dy[n,c] / (H·W)."""
    return np.zeros(x.shape) + np.asarray(dy, np.float64)[:, None, None, :] / (x.shape[1] * x.shape[2])


def flatten_forward(x):
    """y[n, (h·W + v)·C + c] = x[n,h,v,c]."""
    return np.array(x, np.float64).reshape(len(x), -1)


def flatten_backward(x, dy):
    """dx[n,h,v,c] = dy[n, (h·W + v)·C + c]."""
    return np.array(dy, np.float64).reshape(x.shape)


def dense_forward(x, w, bias=None):
    """y[n,o] = b[o] + Σ_i x[n,i] · w[i,o]."""
    y = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    return y if bias is None else y + np.asarray(bias, np.float64)


def dense_backward(x, dy, w):
    """dx[n,i] = Σ_o dy[n,o] · w[i,o];  dw[i,o] = Σ_n x[n,i] · dy[n,o];  db[o] = Σ_n dy[n,o]."""
    x, dy, w = (np.asarray(a, np.float64) for a in (x, dy, w))
    return dy @ w.T, x.T @ dy, dy.sum(axis=0)


def relu_forward(x):
    """y = max(x, 0)."""
    return np.maximum(np.asarray(x, np.float64), 0)


def relu_backward(x, dy):
    """dx = dy where x > 0, and 0 elsewhere, at 0 as well."""
    return np.where(np.asarray(x) <= 0, 0.0, np.asarray(dy, np.float64))


def leakyrelu_forward(x, negative_slope=0.01):
    """y = x where x > 0, else negative_slope · x."""
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x, negative_slope * x)


def leakyrelu_backward(x, dy, negative_slope=0.01):
    """dx = dy where x > 0, else negative_slope · dy."""
    dy = np.asarray(dy, np.float64)
    return np.where(np.asarray(x) > 0, dy, negative_slope * dy)


def sigmoid_forward(x):
    """y = 1 / (1 + exp(-x)), written so that nothing overflows."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def sigmoid_backward(x, dy):
    """dx = dy · σ(x) · σ(-x), since 1 - σ(x) = σ(-x)."""
    return np.asarray(dy, np.float64) * sigmoid_forward(x) * sigmoid_forward(-np.asarray(x, np.float64))


def tanh_forward(x):
    """y = tanh(x)."""
    return np.tanh(np.asarray(x, np.float64))


def tanh_backward(x, dy):
    """dx = dy · (1 - tanh²(x))."""
    return np.asarray(dy, np.float64) * (1 - tanh_forward(x) ** 2)


def silu_forward(x):
    """y = x · σ(x)."""
    return np.asarray(x, np.float64) * sigmoid_forward(x)


def silu_backward(x, dy):
    """dx = dy · (σ + x · σ · (1 - σ)) with σ = σ(x)."""
    x = np.asarray(x, np.float64)
    return np.asarray(dy, np.float64) * sigmoid_forward(x) + x * sigmoid_backward(x, dy)


def _normal_cdf(x):
    """Φ(x) = (1 + erf(x / √2)) / 2, the distribution function of the standard normal."""
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in np.ravel(x)]).reshape(np.shape(x))


def gelu_forward(x):
    """y = x · Φ(x), the exact GELU of Hendrycks and Gimpel (2016), not its tanh approximation."""
    x = np.asarray(x, np.float64)
    return x * _normal_cdf(x)


def gelu_backward(x, dy):
    """dx = dy · (Φ(x) + x · φ(x)) with the normal density φ(x) = exp(-x²/2) / √(2π)."""
    x = np.asarray(x, np.float64)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(dy, np.float64) * (_normal_cdf(x) + x * density)


def dropout_forward(x, mask, rate):
    """y = x · mask / (1 - rate) with mask 1 where an element is kept and 0 where it is dropped."""
    return np.asarray(x, np.float64) * np.asarray(mask, np.float64) / (1 - rate)


def dropout_backward(x, dy, mask, rate):
    """dx = dy · mask / (1 - rate)."""
    return np.asarray(dy, np.float64) * np.asarray(mask, np.float64) / (1 - rate)
