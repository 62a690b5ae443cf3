"""The activations of the oracle: y = f(x) and dx = dy · f'(x); at a corner of f, the derivative
that PyTorch takes."""

import math

import numpy as np


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
    return (
        np.asarray(dy, np.float64)
        * sigmoid_forward(x)
        * sigmoid_forward(-np.asarray(x, np.float64))
    )


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
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in np.ravel(x)]).reshape(
        np.shape(x)
    )


def gelu_forward(x):
    """y = x · Φ(x), the exact GELU of Hendrycks and Gimpel (2016), not its tanh approximation."""
    x = np.asarray(x, np.float64)
    return x * _normal_cdf(x)


def gelu_backward(x, dy):
    """dx = dy · (Φ(x) + x · φ(x)) with the normal density φ(x) = exp(-x²/2) / √(2π)."""
    x = np.asarray(x, np.float64)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(dy, np.float64) * (_normal_cdf(x) + x * density)


def relu6_forward(x):
    """y = min(max(x, 0), 6)."""
    return np.clip(np.asarray(x, np.float64), 0, 6)


def relu6_backward(x, dy):
    """dx = dy where 0 < x < 6, and 0 elsewhere."""
    x = np.asarray(x, np.float64)
    return np.where((x <= 0) | (x >= 6), 0.0, np.asarray(dy, np.float64))


def hardsigmoid_forward(x):
    """y = min(max(x / 6 + 1/2, 0), 1)."""
    return np.clip(np.asarray(x, np.float64) / 6 + 0.5, 0, 1)


def hardsigmoid_backward(x, dy):
    """dx = dy / 6 where -3 < x < 3, and 0 elsewhere."""
    x = np.asarray(x, np.float64)
    return np.where((x <= -3) | (x >= 3), 0.0, np.asarray(dy, np.float64) / 6)


def hardswish_forward(x):
    """y = x · min(max(x / 6 + 1/2, 0), 1)."""
    return np.asarray(x, np.float64) * hardsigmoid_forward(x)


def hardswish_backward(x, dy):
    """dx = dy · (x / 3 + 1/2) where -3 < x < 3, 0 below and dy above."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    return np.where(x <= -3, 0.0, np.where(x >= 3, dy, dy * (x / 3 + 0.5)))


def elu_forward(x, alpha=1.0):
    """y = x where x > 0, else alpha · (exp(x) - 1)."""
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(x, dy, alpha=1.0):
    """dx = dy where x > 0, else dy · alpha · exp(x)."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    return np.where(x > 0, dy, dy * alpha * np.exp(np.minimum(x, 0)))


def softplus_forward(x):
    """y = log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    x = np.asarray(x, np.float64)
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softplus_backward(x, dy):
    """dx = dy · σ(x)."""
    return np.asarray(dy, np.float64) * sigmoid_forward(x)


def mish_forward(x):
    """y = x · tanh(softplus(x))."""
    return np.asarray(x, np.float64) * np.tanh(softplus_forward(x))


def mish_backward(x, dy):
    """dx = dy · (t + x · (1 - t²) · σ(x)) with t = tanh(softplus(x))."""
    x, t = np.asarray(x, np.float64), np.tanh(softplus_forward(x))
    return np.asarray(dy, np.float64) * (t + x * (1 - t**2) * sigmoid_forward(x))


def tanhgelu_forward(x):
    """y = x / 2 · (1 + tanh(u)) with u = √(2/π) · (x + 0.044715 x³), the GELU of most published
    weights."""
    x = np.asarray(x, np.float64)
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def tanhgelu_backward(x, dy):
    """dx = dy · ((1 + t) / 2 + x / 2 · (1 - t²) · √(2/π) · (1 + 3 · 0.044715 x²)) with t =
    tanh(u)."""
    x, root = np.asarray(x, np.float64), math.sqrt(2 / math.pi)
    t = np.tanh(root * (x + 0.044715 * x**3))
    return np.asarray(dy, np.float64) * (
        (1 + t) / 2 + x / 2 * (1 - t**2) * root * (1 + 3 * 0.044715 * x**2)
    )


def prelu_forward(x, w):
    """y = x where x > 0, else w[c] · x, c the last axis."""
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x, np.asarray(w, np.float64) * x)


def prelu_backward(x, dy, w):
    """dx = dy where x > 0, else w[c] · dy;  dw[c] = Σ dy · x over all x <= 0 of the channel."""
    x, dy, w = (np.asarray(a, np.float64) for a in (x, dy, w))
    dw = np.where(x > 0, 0.0, dy * x).reshape(-1, x.shape[-1]).sum(axis=0)
    return np.where(x > 0, dy, w * dy), dw


def softmax_forward(x):
    """y[n,k] = exp(x[n,k]) / Σ_j exp(x[n,j]), the largest subtracted before."""
    x = np.asarray(x, np.float64)
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def softmax_backward(x, dy):
    """dx[n,k] = y[n,k] · (dy[n,k] - Σ_j dy[n,j] · y[n,j])."""
    y, dy = softmax_forward(x), np.asarray(dy, np.float64)
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))
