"""Cross entropy of the softmax, for one label a sample; softmax and logarithm are fused.

    p = softmax(x)        aₖ = (1 − ε) w_y [k = y] + (ε / K) wₖ
    L = − Σₖ aₖ log pₖ     ∂L/∂xⱼ = pⱼ Σₖ aₖ − aⱼ

for the label y, K classes, label smoothing ε and class weights w (all 1 if none are given).

Source: J. S. Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs", 1990; label
smoothing: C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, LossRule


def row(logits, label, dlogits, class_weights, label_smoothing):
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
    row=row,
    hyperparameters=(
        Hyperparameter("label_smoothing", 0.0, 0.0, 1.0, meaning="share ε of the target spread over all classes"),
    ),
    class_weights=True,
    equation="L = − Σₖ aₖ log softmax(x)ₖ, aₖ = (1 − ε) w_y [k = y] + (ε / K) wₖ",
    source="Bridle 1990; Szegedy et al. 2016",
)


@hookimpl
def minicnn_losses():
    return [CROSS_ENTROPY]
