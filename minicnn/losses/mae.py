"""Mean absolute error over the outputs.

    L = (1/K) Σₖ |xₖ − tₖ|        ∂L/∂xₖ = sign(xₖ − tₖ) / K, and 0 where they are equal

Source: R. J. Boscovich, 1757 (least absolute deviations).
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import LossRule


def row(outputs, target, doutputs):
    total = 0.0
    count = 0.0  # counted as a float: an integer would make float64 of all that it touches
    for k in range(len(outputs)):
        difference = outputs[k] - target[k]
        # What is neither above nor below zero is zero, or not a number, which must stay visible.
        doutputs[k] = 1.0 if difference > 0.0 else (-1.0 if difference < 0.0 else difference)
        total += abs(difference)
        count += 1.0
    for k in range(len(outputs)):
        doutputs[k] /= count
    return total / count


MAE = LossRule(
    name="mae",
    row=row,
    target="values",
    equation="L = (1/K) Σₖ |xₖ − tₖ|",
    source="Boscovich 1757",
)


@hookimpl
def minicnn_losses():
    return [MAE]
