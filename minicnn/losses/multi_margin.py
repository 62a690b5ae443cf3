"""Hinge loss over several classes: every wrong class must stay a margin below the right one.

    L = (1/K) Σ_{k ≠ y} max(0, m − x_y + xₖ)
    ∂L/∂xₖ = 1/K for every k ≠ y inside the margin, ∂L/∂x_y = − (their number) / K

Source: J. Weston and C. Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999.
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, LossRule


def row(logits, label, dlogits, margin):
    total = 0.0
    classes = 0.0  # counted as a float: an integer would make float64 of all that it touches
    inside = 0.0
    for k in range(len(logits)):
        classes += 1.0
        violation = margin - logits[label] + logits[k]
        # Written so that not a number counts as a violation and stays visible.
        if k == label or violation <= 0.0:
            dlogits[k] = 0.0
        else:
            dlogits[k] = 1.0
            inside += 1.0
            total += violation
    dlogits[label] = -inside
    for k in range(len(logits)):
        dlogits[k] /= classes
    return total / classes


MULTI_MARGIN = LossRule(
    name="multi_margin",
    row=row,
    hyperparameters=(
        Hyperparameter("margin", 1.0, 0.0, open_minimum=True, meaning="distance m that the right class must keep"),
    ),
    equation="L = (1/K) Σ_{k ≠ y} max(0, m − x_y + xₖ)",
    source="Weston and Watkins 1999",
)


@hookimpl
def minicnn_losses():
    return [MULTI_MARGIN]
