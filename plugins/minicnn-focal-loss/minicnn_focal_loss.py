"""Focal loss: cross entropy in which samples that are right already count for less.

    L = − α (1 − p)^γ log p        p = softmax(x)_y
    ∂L/∂xₖ = α (1 − p)^γ (γ p log p / (1 − p) − 1) ([k = y] − softmax(x)ₖ)

Source: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár, "Focal Loss for Dense Object Detection",
ICCV 2017, https://arxiv.org/abs/1708.02002.
"""

import math

from minicnn import Hyperparameter, LossRule, hookimpl

minicnn_api = 1  # the version of the plugin API that this is written for


def row(logits, label, dlogits, gamma, alpha):
    largest = logits[0]
    for x in logits:
        largest = max(largest, x)
    rest = 0.0
    for k in range(len(logits)):
        dlogits[k] = math.exp(logits[k] - largest)
        if k != label:
            rest += dlogits[k]
    total = rest + dlogits[label]
    wrong = rest / total  # 1 − p, without the loss of digits of a difference
    if logits[label] == largest:
        log_p = -math.log1p(rest)
    else:
        log_p = logits[label] - largest - math.log(total)
    ratio = log_p / wrong if wrong > 0.0 else -1.0  # the limit for p → 1
    weight = alpha * wrong**gamma
    slope = weight * (gamma * dlogits[label] / total * ratio - 1.0)
    for k in range(len(logits)):
        dlogits[k] = -slope * dlogits[k] / total
    dlogits[label] = slope * wrong
    return -weight * log_p


FOCAL = LossRule(
    name="focal",
    row=row,
    hyperparameters=(
        Hyperparameter(
            "gamma", 2.0, 0.0, meaning="how little γ easy samples count; 0 is cross entropy"
        ),
        Hyperparameter("alpha", 0.25, 0.0, open_minimum=True, meaning="factor α"),
    ),
    equation="L = − α (1 − p)^γ log p, p = softmax(x)_y",
    source="Lin et al. 2017, arXiv:1708.02002",
)


@hookimpl
def minicnn_losses():
    return [FOCAL]
