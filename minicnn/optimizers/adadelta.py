"""Adadelta: the size of the next step is estimated from the sizes of the last ones.

    g ← g + λ w
    v ← ρ v + (1 − ρ) g²
    δ = √(u + ε) / √(v + ε) · g
    u ← ρ u + (1 − ρ) δ²
    w ← w − η δ

Source: M. D. Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, https://arxiv.org/abs/1212.5701.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, rho, epsilon, weight_decay):
    return learning_rate, rho, 1.0 - rho, epsilon, weight_decay


def update(p, g, square, square_delta, learning_rate, rho, one_minus_rho, epsilon, weight_decay):
    g = g + weight_decay * p
    square = rho * square + one_minus_rho * g * g
    delta = math.sqrt(square_delta + epsilon) / math.sqrt(square + epsilon) * g
    square_delta = rho * square_delta + one_minus_rho * delta * delta
    return p - learning_rate * delta, square, square_delta


ADADELTA = OptimizerRule(
    name="adadelta",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 1.0, 0.0, open_minimum=True, meaning="factor η of the estimated step"),
        Hyperparameter("rho", 0.9, 0.0, 1.0, open_maximum=True, meaning="share ρ of the mean squares that is kept"),
        Hyperparameter("epsilon", 1e-6, 0.0, open_minimum=True, meaning="added under the roots; sets the first steps"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    slots=("square", "square_delta"),
    equation="g ← g + λ w; v ← ρ v + (1 − ρ) g²; δ = √(u + ε) / √(v + ε) · g; u ← ρ u + (1 − ρ) δ²; w ← w − η δ",
    source="Zeiler 2012, arXiv:1212.5701",
)


@hookimpl
def minicnn_optimizers():
    return [ADADELTA]
