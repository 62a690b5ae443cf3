"""Adan: adaptive Nesterov momentum, with the change of the gradient as a third moment.

    d = g − g₋₁, and 0 in the first step
    m ← β₁ m + (1 − β₁) g
    v ← β₂ v + (1 − β₂) d
    n ← β₃ n + (1 − β₃) (g + β₂ d)²
    w ← (w − η (m̂ + β₂ v̂) / (√n̂ + ε)) / (1 + η λ)

A hat divides by 1 − βᵗ. The βs are the shares that are kept: 1 − β of the paper's equations, as in
its code.

Source: X. Xie, P. Zhou, H. Li, Z. Lin, S. Yan, "Adan: Adaptive Nesterov Momentum Algorithm for
Faster Optimizing Deep Models", 2022, https://arxiv.org/abs/2208.06677.
"""

import math

from minicnn import Hyperparameter, OptimizerRule, hookimpl

minicnn_api = 1  # the version of the plugin API that this is written for


def prepare(step, state, learning_rate, beta1, beta2, beta3, epsilon, weight_decay):
    root = math.sqrt(1.0 - beta3**step)  # √n̂ + ε = (√n + root · ε) / root
    rate_m = learning_rate * root / (1.0 - beta1**step)
    rate_v = learning_rate * root * beta2 / (1.0 - beta2**step)
    has_previous = 0.0 if step == 1 else 1.0
    shrink = 1.0 / (1.0 + learning_rate * weight_decay)
    return (
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        beta3,
        1.0 - beta3,
        rate_m,
        rate_v,
        epsilon * root,
        has_previous,
        shrink,
    )


def update(
    p,
    g,
    m,
    v,
    n,
    previous,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    beta3,
    one_minus_beta3,
    rate_m,
    rate_v,
    epsilon,
    has_previous,
    shrink,
):
    change = has_previous * (g - previous)
    ahead = g + beta2 * change
    m = beta1 * m + one_minus_beta1 * g
    v = beta2 * v + one_minus_beta2 * change
    n = beta3 * n + one_minus_beta3 * ahead * ahead
    p = shrink * (p - (rate_m * m + rate_v * v) / (math.sqrt(n) + epsilon))
    return p, m, v, n, g


ADAN = OptimizerRule(
    name="adan",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.001, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter(
            "beta1",
            0.98,
            0.0,
            1.0,
            open_maximum=True,
            meaning="exponential decay rate β₁ of the mean",
        ),
        Hyperparameter(
            "beta2",
            0.92,
            0.0,
            1.0,
            open_maximum=True,
            meaning="exponential decay rate β₂ of the mean change",
        ),
        Hyperparameter(
            "beta3",
            0.99,
            0.0,
            1.0,
            open_maximum=True,
            meaning="exponential decay rate β₃ of the mean square",
        ),
        Hyperparameter(
            "epsilon",
            1e-8,
            0.0,
            open_minimum=True,
            meaning="added to the root, against division by zero",
        ),
        Hyperparameter(
            "weight_decay", 0.0, 0.0, meaning="pull towards zero λ, apart from the gradient"
        ),
    ),
    slots=("m", "v", "n", "previous"),
    equation=(
        "d = g − g₋₁; m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) d; n ← β₃ n + (1 − β₃) (g + β₂ d)²; "
        "w ← (w − η (m̂ + β₂ v̂) / (√n̂ + ε)) / (1 + η λ)"
    ),
    source="Xie et al. 2022, arXiv:2208.06677",
)


@hookimpl
def minicnn_optimizers():
    return [ADAN]
