"""AdaGrad: each gradient is divided by the root of the sum of all its squares so far.

    g ← g + λ w
    v ← v + g²
    w ← w − η / (1 + (t − 1) d) · g / (√v + ε)

Source: J. Duchi, E. Hazan and Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", JMLR 12 (2011), 2121-2159.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, lr_decay, epsilon, weight_decay):
    return learning_rate / (1.0 + (step - 1) * lr_decay), epsilon, weight_decay


def update(p, g, square, step_size, epsilon, weight_decay):
    g = g + weight_decay * p
    square = square + g * g
    return p - step_size * g / (math.sqrt(square) + epsilon), square


ADAGRAD = OptimizerRule(
    name="adagrad",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.01, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("lr_decay", 0.0, 0.0, meaning="decay d of the learning rate with the steps t"),
        Hyperparameter("epsilon", 1e-10, 0.0, open_minimum=True, meaning="added to the root, against division by zero"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    slots=("square",),
    equation="g ← g + λ w; v ← v + g²; w ← w − η / (1 + (t − 1) d) · g / (√v + ε)",
    source="Duchi, Hazan and Singer 2011",
)


@hookimpl
def minicnn_optimizers():
    return [ADAGRAD]
