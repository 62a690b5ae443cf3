"""Gradient descent with momentum, also called the heavy ball.

    b ← μ b + g + λ w
    w ← w − η b

Source: B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational
Mathematics and Mathematical Physics 4 (1964), 1-17.
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, momentum, weight_decay):
    return learning_rate, momentum, weight_decay


def update(p, g, velocity, learning_rate, momentum, weight_decay):
    velocity = momentum * velocity + (g + weight_decay * p)
    return p - learning_rate * velocity, velocity


MOMENTUM = OptimizerRule(
    name="momentum",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.01, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("momentum", 0.9, 0.0, 1.0, open_maximum=True, meaning="share μ of the velocity that is kept"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    slots=("velocity",),
    equation="b ← μ b + g + λ w; w ← w − η b",
    source="Polyak 1964",
)


@hookimpl
def minicnn_optimizers():
    return [MOMENTUM]
