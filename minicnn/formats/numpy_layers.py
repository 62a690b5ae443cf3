"""The operations in NumPy alone, for images [N, H, W, C] and rows [N, features].

Their text goes into the file that `minicnn.formats.numpy_out` writes, so they use nothing but NumPy
and one another.
"""

import math

import numpy as np


def windows(x, kernel, stride, pads, dilation, border):
    """Every window of the image with a ``border`` around it: [N, P, Q, R, S, C]."""
    (top, left, bottom, right), (R, S) = pads, kernel
    sides = (0, 0), (top, bottom), (left, right), (0, 0)
    x = np.pad(x, sides, constant_values=border)
    P = (x.shape[1] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (x.shape[2] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    rows = np.arange(P)[:, None] * stride[0] + np.arange(R) * dilation[0]
    columns = np.arange(Q)[:, None] * stride[1] + np.arange(S) * dilation[1]
    return x[:, rows[:, None, :, None], columns[None, :, None, :]]


def conv2d(x, weight, bias, stride, pads, dilation, groups):
    """y[n,p,q,k] = b[k] + sum over r, s, c of x[n, p·stride + r·dilation − top, ..., c] ·
    w[r,s,c,k]."""
    seen = windows(x, weight.shape[:2], stride, pads, dilation, 0.0)
    parts = zip(np.split(seen, groups, axis=5), np.split(weight, groups, axis=3), strict=True)
    y = [np.tensordot(part, filters, axes=3) for part, filters in parts]
    return np.concatenate(y, axis=3) + bias


def max_pool2d(x, kernel, stride, pads, dilation):
    """The largest element of each window."""
    return windows(x, kernel, stride, pads, dilation, -np.inf).max(axis=(3, 4))


def avg_pool2d(x, kernel, stride, pads, counted):
    """The mean of each window over what is inside the image and ``counted`` (top, left, bottom,
    right) around it."""
    (top, left, bottom, right), plain = pads, (1, 1)
    ones = np.pad(
        np.ones((1, *x.shape[1:3], 1), x.dtype),
        ((0, 0), (counted[0], counted[2]), (counted[1], counted[3]), (0, 0)),
        constant_values=1.0,
    )
    rest = top - counted[0], left - counted[1], bottom - counted[2], right - counted[3]
    area = windows(ones, kernel, stride, rest, plain, 0.0).sum(axis=(3, 4))
    return windows(x, kernel, stride, pads, plain, 0.0).sum(axis=(3, 4)) / area


def global_max_pool2d(x):
    """The largest element of each channel."""
    return x.max(axis=(1, 2))


def global_avg_pool2d(x):
    """The mean of each channel."""
    return x.mean(axis=(1, 2))


def flatten(x):
    """All elements in one row: height, width, channel."""
    return x.reshape(len(x), -1)


def dense(x, weight, bias):
    """y = x · weight + bias."""
    return x @ weight + bias


def multiply(x, gate):
    """The product; a row is one number per channel of an image."""
    return x * (gate[:, None, None, :] if x.ndim > gate.ndim else gate)


def batch_norm(x, weight, bias, mean, variance, eps):
    """Normalization by the running mean and variance of each channel."""
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def group_norm(x, weight, bias, groups, eps):
    """Normalization of each sample over each of ``groups`` groups of channels."""
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean = parts.mean(axis=(1, 3), keepdims=True)
    variance = parts.var(axis=(1, 3), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + eps)).reshape(x.shape) * weight + bias


def layer_norm(x, weight, bias, eps):
    """Normalization of each sample over all of its numbers."""
    axes = tuple(range(1, x.ndim))
    mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def sigmoid(x):
    """1 / (1 + exp(−x))."""
    return np.exp(-np.logaddexp(0.0, -x))


def softmax(x):
    """exp(x_k) / sum over j of exp(x_j)."""
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def prelu(x, weight):
    """x above zero, weight · x below."""
    return np.where(x < 0, x * weight, x)


def elu(x, alpha):
    """x above zero, alpha · (exp(x) − 1) below."""
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x)


def softplus(x):
    """log(1 + exp(x))."""
    return np.logaddexp(0.0, x).astype(x.dtype)


def gelu(x):
    """x / 2 · (1 + erf(x / √2)); NumPy has no erf."""
    erf = np.array([math.erf(value) for value in (x / math.sqrt(2.0)).ravel()], x.dtype)
    return 0.5 * x * (1.0 + erf.reshape(x.shape))


def gelu_tanh(x):
    """x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
