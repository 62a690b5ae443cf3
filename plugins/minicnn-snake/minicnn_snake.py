"""Snake: an activation for what repeats itself, x plus a square of a sine.

    y = x + sin²(α x) / α          dy/dx = 1 + sin(2 α x)

Source: L. Ziyin, T. Hartwig, M. Ueda, "Neural Networks Fail to Learn Periodic Functions and How to
Fix It", NeurIPS 2020, https://arxiv.org/abs/2006.08195.
"""

import math

from minicnn import ActivationRule, Hyperparameter, hookimpl

minicnn_api = 1  # the version of the plugin API that this is written for


def value(x, alpha):
    s = math.sin(alpha * x)
    return x + s * s / alpha


def derivative(x, alpha):
    return 1.0 + math.sin(2.0 * alpha * x)


SNAKE = ActivationRule(
    name="snake",
    value=value,
    derivative=derivative,
    hyperparameters=(
        Hyperparameter(
            "alpha", 1.0, 0.0, open_minimum=True, meaning="frequency α; π / α is the period"
        ),
    ),
    equation="y = x + sin²(α x) / α",
    source="Ziyin et al. 2020, arXiv:2006.08195",
)


@hookimpl
def minicnn_layers():
    return [SNAKE]
