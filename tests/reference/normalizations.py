"""The normalizations of the oracle: y = γ · x̂ + β with x̂ = (x - μ) / √(σ² + ε), σ² the biased
variance.

γ is called weight and β bias. x is [N,H,W,C] or [N,C]; the channel is the last axis.
"""

import numpy as np


def _normalized(x, axes, eps):
    """x̂ and 1 / √(σ² + ε), with mean and variance taken over ``axes``."""
    mean = x.mean(axis=axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps), 1 / np.sqrt(variance + eps)


def _normalized_backward(x, d_hat, axes, eps):
    """dx = (d̂ - mean(d̂) - x̂ · mean(d̂ · x̂)) / √(σ² + ε) with d̂ = dLoss/dx̂; the means are
    taken over ``axes``."""
    hat, inverse = _normalized(x, axes, eps)
    along_hat = (d_hat * hat).mean(axis=axes, keepdims=True)
    return (d_hat - d_hat.mean(axis=axes, keepdims=True) - hat * along_hat) * inverse


def _all_but_channels(x):
    return tuple(range(x.ndim - 1))


def batchnorm_forward(x, weight, bias, eps=1e-5):
    """Training: μ and σ² of each channel over the batch and all pixels."""
    x = np.asarray(x, np.float64)
    return weight * _normalized(x, _all_but_channels(x), eps)[0] + bias


def batchnorm_backward(x, dy, weight, eps=1e-5):
    """dx, dγ[c] = Σ dy · x̂, dβ[c] = Σ dy, the sums over batch and pixels."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    axes = _all_but_channels(x)
    hat, _ = _normalized(x, axes, eps)
    return (
        _normalized_backward(x, dy * weight, axes, eps),
        (dy * hat).sum(axis=axes),
        dy.sum(axis=axes),
    )


def batchnorm_running(x, running_mean, running_var, momentum=0.1):
    """The running statistics after a step: r ← (1 - momentum) · r + momentum · batch, the variance
    unbiased, Σ/(M - 1).

    One number per channel (M = 1) has no unbiased variance, which then stays; PyTorch refuses such a
    batch.
    """
    x = np.asarray(x, np.float64)
    axes = _all_but_channels(x)
    M = x.size // x.shape[-1]
    mean = x.mean(axis=axes)
    after = (1 - momentum) * running_mean + momentum * mean
    if M == 1:
        return after, np.array(running_var, np.float64)
    return after, (1 - momentum) * running_var + momentum * ((x - mean) ** 2).sum(axis=axes) / (
        M - 1
    )


def frozenbatchnorm_forward(x, weight, bias, running_mean, running_var, eps=1e-5):
    """Inference: μ and σ² are the running ones."""
    return weight * (np.asarray(x, np.float64) - running_mean) / np.sqrt(running_var + eps) + bias


def frozenbatchnorm_backward(x, dy, weight, running_mean, running_var, eps=1e-5):
    """dx = dy · γ / √(σ² + ε), dγ and dβ as in training, with the running statistics as
    constants."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    inverse, axes = 1 / np.sqrt(running_var + eps), _all_but_channels(x)
    return (
        dy * weight * inverse,
        (dy * (x - running_mean) * inverse).sum(axis=axes),
        dy.sum(axis=axes),
    )


def _in_groups(x, groups):
    """[N, pixels, G, C/G]."""
    return np.asarray(x, np.float64).reshape(len(x), -1, groups, x.shape[-1] // groups)


def groupnorm_forward(x, weight, bias, groups, eps=1e-5):
    """μ and σ² of each sample over all pixels and the C/G channels of each group."""
    return weight * _normalized(_in_groups(x, groups), (1, 3), eps)[0].reshape(x.shape) + bias


def groupnorm_backward(x, dy, weight, groups, eps=1e-5):
    """dx, dγ[c] = Σ dy · x̂, dβ[c] = Σ dy, the sums over batch and pixels."""
    dy = np.asarray(dy, np.float64)
    hat = _normalized(_in_groups(x, groups), (1, 3), eps)[0].reshape(x.shape)
    dx = _normalized_backward(
        _in_groups(x, groups), _in_groups(dy * weight, groups), (1, 3), eps
    ).reshape(x.shape)
    axes = _all_but_channels(x)
    return dx, (dy * hat).sum(axis=axes), dy.sum(axis=axes)


def layernorm_forward(x, weight, bias, eps=1e-5):
    """μ and σ² of each sample over all of its numbers; γ and β have the sample's shape."""
    x = np.asarray(x, np.float64)
    return weight * _normalized(x, tuple(range(1, x.ndim)), eps)[0] + bias


def layernorm_backward(x, dy, weight, eps=1e-5):
    """dx, dγ = Σ_n dy · x̂, dβ = Σ_n dy."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    axes = tuple(range(1, x.ndim))
    return (
        _normalized_backward(x, dy * weight, axes, eps),
        (dy * _normalized(x, axes, eps)[0]).sum(axis=0),
        dy.sum(axis=0),
    )
