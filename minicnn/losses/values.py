"""Losses on target values t, the one-hot row of a label by default: the mean of one function over
the K outputs.

- Mean squared error: L = (1/K) Σₖ (xₖ − tₖ)², ∂L/∂xₖ = (2/K) (xₖ − tₖ). A.-M. Legendre, "Nouvelles
  méthodes pour la détermination des orbites des comètes", 1805 (least squares).
- Mean absolute error: L = (1/K) Σₖ |xₖ − tₖ|, ∂L/∂xₖ = sign(xₖ − tₖ) / K, and 0 where they are
  equal. R. J. Boscovich, 1757 (least absolute deviations).
- Huber loss: L = (1/K) Σₖ h(xₖ − tₖ), h(d) = ½ d² if |d| ≤ δ, else δ (|d| − ½ δ), ∂L/∂xₖ =
  min(max(xₖ − tₖ, −δ), δ) / K. P. J. Huber, "Robust Estimation of a Location Parameter", Annals of
  Mathematical Statistics 35 (1964), 73-101.
- Binary cross entropy of the sigmoid of each output; sigmoid and logarithm are fused, so that no
  exponential is that of a positive number: L = (1/K) Σₖ − tₖ log σ(xₖ) − (1 − tₖ) log(1 − σ(xₖ)) =
  (1/K) Σₖ max(xₖ, 0) − xₖ tₖ + log(1 + e^−|xₖ|), ∂L/∂xₖ = (σ(xₖ) − tₖ) / K. D. R. Cox, "The
  Regression Analysis of Binary Sequences", Journal of the Royal Statistical Society B 20 (1958),
  215-242.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, LossRule


def mse(outputs, target, doutputs):
    """The mean squared error of one row, and its gradient 2 (x − t) / K in ``doutputs``."""
    total = 0.0
    count = 0.0  # counted as a float: an integer would make float64 of all that it touches
    for k in range(len(outputs)):
        difference = outputs[k] - target[k]
        doutputs[k] = 2.0 * difference
        total += difference * difference
        count += 1.0
    for k in range(len(outputs)):
        doutputs[k] /= count
    return total / count


MSE = LossRule(
    name="mse",
    row=mse,
    target="values",
    equation="L = (1/K) Σₖ (xₖ − tₖ)²",
    source="Legendre 1805",
)


def mae(outputs, target, doutputs):
    """The mean absolute error of one row, and its gradient sign(x − t) / K in ``doutputs``."""
    total = 0.0
    count = 0.0
    for k in range(len(outputs)):
        difference = outputs[k] - target[k]
        # Neither above nor below zero: zero or NaN, which must stay visible.
        doutputs[k] = 1.0 if difference > 0.0 else (-1.0 if difference < 0.0 else difference)
        total += abs(difference)
        count += 1.0
    for k in range(len(outputs)):
        doutputs[k] /= count
    return total / count


MAE = LossRule(
    name="mae",
    row=mae,
    target="values",
    equation="L = (1/K) Σₖ |xₖ − tₖ|",
    source="Boscovich 1757",
)


def huber(outputs, target, doutputs, delta):
    """The Huber loss of one row, and its gradient in ``doutputs``: (x − t) / K, cut to ± δ / K."""
    total = 0.0
    count = 0.0
    for k in range(len(outputs)):
        difference = outputs[k] - target[k]
        # NaN is on neither side, so it takes the last branch and stays visible.
        if difference > delta:
            doutputs[k] = delta
            total += delta * (difference - 0.5 * delta)
        elif difference < -delta:
            doutputs[k] = -delta
            total += delta * (-difference - 0.5 * delta)
        else:
            doutputs[k] = difference
            total += 0.5 * difference * difference
        count += 1.0
    for k in range(len(outputs)):
        doutputs[k] /= count
    return total / count


HUBER = LossRule(
    name="huber",
    row=huber,
    hyperparameters=(
        Hyperparameter(
            "delta",
            1.0,
            0.0,
            open_minimum=True,
            meaning="error δ from which the loss grows linearly",
        ),
    ),
    target="values",
    equation="L = (1/K) Σₖ h(xₖ − tₖ), h(d) = ½ d² if |d| ≤ δ, else δ (|d| − ½ δ)",
    source="Huber 1964",
)


def binary_cross_entropy(logits, target, dlogits):
    """The loss of one row of targets from 0 to 1, and its gradient (σ(x) − t) / K in ``dlogits``."""
    total = 0.0
    count = 0.0
    for k in range(len(logits)):
        x = logits[k]
        small = math.exp(-abs(x))
        sigmoid = (1.0 if x >= 0.0 else small) / (1.0 + small)
        dlogits[k] = sigmoid - target[k]
        total += max(x, 0.0) - x * target[k] + math.log1p(small)
        count += 1.0
    for k in range(len(logits)):
        dlogits[k] /= count
    return total / count


BINARY_CROSS_ENTROPY = LossRule(
    name="binary_cross_entropy",
    row=binary_cross_entropy,
    target="values",
    soft=True,
    probabilities="sigmoid",
    equation="L = (1/K) Σₖ − tₖ log σ(xₖ) − (1 − tₖ) log(1 − σ(xₖ))",
    source="Cox 1958",
)


@hookimpl
def minicnn_losses():
    """The losses on values."""
    return [MSE, MAE, HUBER, BINARY_CROSS_ENTROPY]
