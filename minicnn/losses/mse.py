"""Mean squared error over the outputs.

    L = (1/K) Σₖ (xₖ − tₖ)²        ∂L/∂xₖ = (2/K) (xₖ − tₖ)

Source: A.-M. Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes", 1805 (least squares).
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import LossRule


def row(outputs, target, doutputs):
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
    row=row,
    target="values",
    equation="L = (1/K) Σₖ (xₖ − tₖ)²",
    source="Legendre 1805",
)


@hookimpl
def minicnn_losses():
    return [MSE]
