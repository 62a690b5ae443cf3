"""Losses on the label y of a sample, with K classes.

Cross entropy of the softmax; softmax and logarithm are fused:

    p = softmax(x)        aₖ = (1 − ε) w_y [k = y] + (ε / K) wₖ
    L = − Σₖ aₖ log pₖ     ∂L/∂xⱼ = pⱼ Σₖ aₖ − aⱼ

with label smoothing ε and class weights w (all 1 if none are given). J. S. Bridle, "Probabilistic
Interpretation of Feedforward Classification Network Outputs", 1990; label smoothing: C. Szegedy et
al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.

Hinge loss over several classes, where every wrong class must stay a margin m below the right one:

    L = (1/K) Σ_{k ≠ y} max(0, m − x_y + xₖ)
    ∂L/∂xₖ = 1/K for every k ≠ y inside the margin, ∂L/∂x_y = − (their number) / K

J. Weston and C. Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, LossRule


def cross_entropy(logits, label, dlogits, class_weights, label_smoothing):
    """The loss of one row, and its gradient softmax(logits) − target in ``dlogits``, each times the
    weight of its class; the largest logit is taken away before the exponential."""
    largest = logits[0]
    for x in logits:
        largest = max(largest, x)
    total = 0.0
    classes = 0.0  # counted as a float: an integer would make float64 of all that it touches
    for k in range(len(logits)):
        dlogits[k] = math.exp(logits[k] - largest)
        total += dlogits[k]
        classes += 1.0
    log_total = math.log(total)
    smooth = label_smoothing / classes
    sharp = (1.0 - label_smoothing) * class_weights[label]
    loss = sharp * (log_total - (logits[label] - largest))
    weight = sharp
    for k in range(len(logits)):
        loss += smooth * class_weights[k] * (log_total - (logits[k] - largest))
        weight += smooth * class_weights[k]
    scale = weight / total
    for k in range(len(logits)):
        dlogits[k] = scale * dlogits[k] - smooth * class_weights[k]
    dlogits[label] -= sharp
    return loss


CROSS_ENTROPY = LossRule(
    name="cross_entropy",
    row=cross_entropy,
    hyperparameters=(
        Hyperparameter(
            "label_smoothing",
            0.0,
            0.0,
            1.0,
            meaning="share ε of the target spread over all classes",
        ),
    ),
    class_weights=True,
    soft=True,
    equation="L = − Σₖ aₖ log softmax(x)ₖ, aₖ = (1 − ε) w_y [k = y] + (ε / K) wₖ",
    source="Bridle 1990; Szegedy et al. 2016",
)


def multi_margin(logits, label, dlogits, margin):
    """The loss of one row, and its gradient in ``dlogits``: 1/K for each class that comes within the
    margin, and minus their sum for the right one."""
    total = 0.0
    classes = 0.0
    inside = 0.0
    for k in range(len(logits)):
        classes += 1.0
        violation = margin - logits[label] + logits[k]
        # Written so that NaN counts as a violation and stays visible.
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
    row=multi_margin,
    hyperparameters=(
        Hyperparameter(
            "margin",
            1.0,
            0.0,
            open_minimum=True,
            meaning="distance m that the right class must keep",
        ),
    ),
    equation="L = (1/K) Σ_{k ≠ y} max(0, m − x_y + xₖ)",
    source="Weston and Watkins 1999",
)


@hookimpl
def minicnn_losses():
    """The losses on labels."""
    return [CROSS_ENTROPY, MULTI_MARGIN]
