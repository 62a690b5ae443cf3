"""Adam: momentum and RMSprop together, both corrected for their start at zero.

    g ← g + λ w
    m ← β₁ m + (1 − β₁) g
    v ← β₂ v + (1 − β₂) g²
    w ← w − η m̂ / (√v̂ + ε)          m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)

Source: D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
https://arxiv.org/abs/1412.6980.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, beta1, beta2, epsilon, weight_decay):
    # With c = √(1 − β₂ᵗ), m̂ / (√v̂ + ε) is (c / (1 − β₁ᵗ)) · m / (√v + c ε): both corrections are made here.
    root = math.sqrt(1.0 - beta2**step)
    step_size = learning_rate * root / (1.0 - beta1**step)
    return step_size, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon * root, weight_decay


def update(p, g, mean, square, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, weight_decay):
    g = g + weight_decay * p
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    return p - step_size * mean / (math.sqrt(square) + epsilon), mean, square


ADAM = OptimizerRule(
    name="adam",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.001, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("beta1", 0.9, 0.0, 1.0, open_maximum=True, meaning="share β₁ of the mean that is kept"),
        Hyperparameter("beta2", 0.999, 0.0, 1.0, open_maximum=True, meaning="share β₂ of the mean square that is kept"),
        Hyperparameter("epsilon", 1e-8, 0.0, open_minimum=True, meaning="added to the root, against division by zero"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    slots=("mean", "square"),
    equation="g ← g + λ w; m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; w ← w − η m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)",
    source="Kingma and Ba 2015, arXiv:1412.6980",
)


@hookimpl
def minicnn_optimizers():
    return [ADAM]
