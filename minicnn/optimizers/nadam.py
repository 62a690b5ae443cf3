"""NAdam: Adam with Nesterov's momentum, which grows over the first steps.

    g ← g + λ w
    μₜ = β₁ (1 − ½ · 0.96^(t ψ))
    m ← β₁ m + (1 − β₁) g
    v ← β₂ v + (1 − β₂) g²
    w ← w − η ((1 − μₜ) g / (1 − Πμ) + μₜ₊₁ m / (1 − μₜ₊₁ Πμ)) / (√v̂ + ε)

with v̂ = v / (1 − β₂ᵗ) and Πμ = μ₁ ⋯ μₜ.

Source: T. Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, beta1, beta2, epsilon, momentum_decay, weight_decay):
    now = beta1 * (1.0 - 0.5 * 0.96 ** (step * momentum_decay))
    following = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    state["mu_product"] *= now
    # The correction of v is moved into the step sizes and ε, as in adam.py.
    root = math.sqrt(1.0 - beta2**step)
    gradient_step = learning_rate * root * (1.0 - now) / (1.0 - state["mu_product"])
    mean_step = learning_rate * root * following / (1.0 - state["mu_product"] * following)
    return gradient_step, mean_step, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon * root, weight_decay


def update(
    p, g, mean, square, gradient_step, mean_step, beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, weight_decay
):
    g = g + weight_decay * p
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    return p - (gradient_step * g + mean_step * mean) / (math.sqrt(square) + epsilon), mean, square


NADAM = OptimizerRule(
    name="nadam",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.002, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("beta1", 0.9, 0.0, 1.0, open_maximum=True, meaning="share β₁ of the mean that is kept"),
        Hyperparameter("beta2", 0.999, 0.0, 1.0, open_maximum=True, meaning="share β₂ of the mean square that is kept"),
        Hyperparameter("epsilon", 1e-8, 0.0, open_minimum=True, meaning="added to the root, against division by zero"),
        Hyperparameter("momentum_decay", 0.004, 0.0, meaning="how fast ψ the momentum μ grows to β₁"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    slots=("mean", "square"),
    state=(("mu_product", 1.0),),
    equation=(
        "g ← g + λ w; μₜ = β₁ (1 − ½ · 0.96^(t ψ)); m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; "
        "w ← w − η ((1 − μₜ) g / (1 − Πμ) + μₜ₊₁ m / (1 − μₜ₊₁ Πμ)) / (√(v/(1 − β₂ᵗ)) + ε)"
    ),
    source="Dozat 2016",
)


@hookimpl
def minicnn_optimizers():
    return [NADAM]
