"""The losses over a batch as the texts define them, in NumPy float64, by way of the probabilities
where there are any.

Each takes logits [N, K] and labels [N] or target values [N, K], and returns the mean loss; the
gradients are taken numerically. ``log_softmax`` and ``log_sigmoid`` are exact for any logits.
"""

import numpy as np


def log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


def cross_entropy(x, labels, label_smoothing=0.0, class_weights=None):
    classes = x.shape[1]
    weights = np.ones(classes) if class_weights is None else class_weights
    minus_log = -log_softmax(x)
    hard = weights[labels] * minus_log[np.arange(len(x)), labels]
    smooth = (weights * minus_log).sum(axis=1) / classes
    return ((1 - label_smoothing) * hard + label_smoothing * smooth).sum() / weights[labels].sum()


def mse(x, t):
    return ((x - t) ** 2).mean(axis=1).mean()


def mae(x, t):
    return np.abs(x - t).mean(axis=1).mean()


def huber(x, t, delta=1.0):
    d = np.abs(x - t)
    return np.where(d <= delta, d**2 / 2, delta * (d - delta / 2)).mean(axis=1).mean()


def multi_margin(x, labels, margin=1.0):
    violations = np.maximum(0.0, margin - x[np.arange(len(x)), labels][:, None] + x)
    violations[np.arange(len(x)), labels] = 0.0
    return violations.mean(axis=1).mean()


def binary_cross_entropy(x, t):
    return -(t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x)).mean(axis=1).mean()


def numeric_gradient(loss, x, h=1e-5):
    """Central differences of a function of [N, K] logits."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (loss(up) - loss(down)) / (2 * h)
    return gradient
