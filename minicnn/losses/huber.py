"""Huber loss: squared for small errors, absolute for large ones, mean over the outputs.

    L = (1/K) Σₖ h(xₖ − tₖ)        h(d) = ½ d² if |d| ≤ δ, else δ (|d| − ½ δ)
    ∂L/∂xₖ = min(max(xₖ − tₖ, −δ), δ) / K

Source: P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35 (1964), 73-101.
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, LossRule


def row(outputs, target, doutputs, delta):
    total = 0.0
    count = 0.0  # counted as a float: an integer would make float64 of all that it touches
    for k in range(len(outputs)):
        difference = outputs[k] - target[k]
        # Not a number is on neither side, so it goes the last way and stays visible.
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
    row=row,
    hyperparameters=(
        Hyperparameter("delta", 1.0, 0.0, open_minimum=True, meaning="error δ from which the loss grows linearly"),
    ),
    target="values",
    equation="L = (1/K) Σₖ h(xₖ − tₖ), h(d) = ½ d² if |d| ≤ δ, else δ (|d| − ½ δ)",
    source="Huber 1964",
)


@hookimpl
def minicnn_losses():
    return [HUBER]
