"""RMSprop: each gradient is divided by the running root mean square of its own size.

    g ← g + λ w
    v ← α v + (1 − α) g²
    w ← w − η g / (√v + ε)

Source: T. Tieleman and G. Hinton, "Lecture 6.5 - RMSprop", Neural Networks for Machine Learning, Coursera 2012.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, alpha, epsilon, weight_decay):
    return learning_rate, alpha, 1.0 - alpha, epsilon, weight_decay


def update(p, g, square, learning_rate, alpha, one_minus_alpha, epsilon, weight_decay):
    g = g + weight_decay * p
    square = alpha * square + one_minus_alpha * g * g
    return p - learning_rate * g / (math.sqrt(square) + epsilon), square


RMSPROP = OptimizerRule(
    name="rmsprop",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.001, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("alpha", 0.99, 0.0, 1.0, open_maximum=True, meaning="share α of the mean square that is kept"),
        Hyperparameter("epsilon", 1e-8, 0.0, open_minimum=True, meaning="added to the root, against division by zero"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    slots=("square",),
    equation="g ← g + λ w; v ← α v + (1 − α) g²; w ← w − η g / (√v + ε)",
    source="Tieleman and Hinton 2012",
)


@hookimpl
def minicnn_optimizers():
    return [RMSPROP]
