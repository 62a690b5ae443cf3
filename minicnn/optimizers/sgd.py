"""Stochastic gradient descent: the slope of one batch stands for the slope of the whole set.

    w ← w − η (g + λ w)

Source: H. Robbins and S. Monro, "A Stochastic Approximation Method", Annals of Mathematical Statistics 22 (1951),
400-407.
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, weight_decay):
    return learning_rate, weight_decay


def update(p, g, learning_rate, weight_decay):
    return p - learning_rate * (g + weight_decay * p)


SGD = OptimizerRule(
    name="sgd",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.05, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    equation="w ← w − η (g + λ w)",
    source="Robbins and Monro 1951",
)


@hookimpl
def minicnn_optimizers():
    return [SGD]
