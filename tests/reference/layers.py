"""Forward and backward passes of every layer, in NumPy float64, as close to the formulas as plain
loops can be.

Here are the layers with weights; beside this file are the other kinds, which can be had from here
as well.

Letters: N batch; H W C input height, width, channels; R S K filter height, width, number; P Q
output height, width. Arrays: x [N,H,W,C], w [R,S,C,K], y and dy [N,P,Q,K]; dense x [N,I], w [I,O].
``stride``, ``dilation`` and ``kernel`` are (height, width); ``padding`` is (top, bottom, left,
right). A backward pass takes dy = dLoss/dy and returns dLoss/dx and the same of each parameter.
"""

import numpy as np

from .activations import *  # noqa: F403  # one name, `layers`, for all of them
from .joins import *  # noqa: F403
from .normalizations import *  # noqa: F403
from .pools import *  # noqa: F403
from .random_numbers import *  # noqa: F403
from .shapes import output_size, without_border, zero_bordered


def numeric_gradient(f, x, step=1e-6):
    """dx[i] = (f(x + step·e_i) - f(x - step·e_i)) / (2 step) for a scalar function f of the array
    x."""
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


def conv2d_forward(x, w, bias=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n,h,v,g·C/G + c] · w[r,s,c,k] with w [R,S,C/G,K] and filter
    k's group g = k // (K/G).

    h = p·stride_h + r·dilation_h - top and v = q·stride_w + s·dilation_w - left; the border is
    zero.
    """
    (N, H, W, C), (R, S, _, K) = x.shape, w.shape
    P = output_size(H, R, stride[0], padding[0], padding[1], dilation[0])
    Q = output_size(W, S, stride[1], padding[2], padding[3], dilation[1])
    bordered, w = zero_bordered(x, padding), np.asarray(w, np.float64)
    y = np.zeros((N, P, Q, K))
    for p, q, r, s, g in np.ndindex(P, Q, R, S, groups):
        h, v = p * stride[0] + r * dilation[0], q * stride[1] + s * dilation[1]
        own, filters = _channels_of(g, groups, C), _channels_of(g, groups, K)
        y[:, p, q, filters] += bordered[:, h, v, own] @ w[r, s, :, filters]
    return y if bias is None else y + np.asarray(bias, np.float64)


def conv2d_backward(x, dy, w, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """dx, dw, db: each product x[n,h,v,c] · w[r,s,c,k] of the forward pass hands dy[n,p,q,k] to
    both of its factors."""
    (R, S, _, K), (_, P, Q, _) = w.shape, dy.shape
    bordered, dy, w = (
        zero_bordered(x, padding),
        np.asarray(dy, np.float64),
        np.asarray(w, np.float64),
    )
    d_bordered, dw = np.zeros_like(bordered), np.zeros_like(w)
    for p, q, r, s, g in np.ndindex(P, Q, R, S, groups):
        h, v = p * stride[0] + r * dilation[0], q * stride[1] + s * dilation[1]
        own, filters = _channels_of(g, groups, x.shape[3]), _channels_of(g, groups, K)
        d_bordered[:, h, v, own] += dy[:, p, q, filters] @ w[r, s, :, filters].T
        dw[r, s, :, filters] += bordered[:, h, v, own].T @ dy[:, p, q, filters]
    return without_border(d_bordered, padding), dw, dy.sum(axis=(0, 1, 2))


def _channels_of(group, groups, channels):
    """The channels of one of ``groups`` equal groups, as a slice."""
    each = channels // groups
    return slice(group * each, (group + 1) * each)


def same_padding(size, kernel, stride, dilation=(1, 1)):
    """(top, bottom, left, right) of TensorFlow's "SAME": ⌈size / stride⌉ outputs, the odd element
    at the end."""
    sides = []
    for length, taps, step, spread in zip(size, kernel, stride, dilation, strict=True):
        outputs = -(-length // step)
        total = max(0, (outputs - 1) * step + spread * (taps - 1) + 1 - length)
        sides += [total // 2, total - total // 2]
    return tuple(sides)


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
