"""Momentum that looks ahead: the step is taken with the velocity as it will be after it.

    g ← g + λ w
    b ← μ b + g
    w ← w − η (g + μ b)

Source: Y. Nesterov, "A method of solving a convex programming problem with convergence rate O(1/k²)", Soviet
Mathematics Doklady 27 (1983), 372-376; in this form I. Sutskever et al., "On the importance of initialization and
momentum in deep learning", ICML 2013.
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, momentum, weight_decay):
    return learning_rate, momentum, weight_decay


def update(p, g, velocity, learning_rate, momentum, weight_decay):
    g = g + weight_decay * p
    velocity = momentum * velocity + g
    return p - learning_rate * (g + momentum * velocity), velocity


NESTEROV = OptimizerRule(
    name="nesterov",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.01, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("momentum", 0.9, 0.0, 1.0, open_maximum=True, meaning="share μ of the velocity that is kept"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"),
    ),
    slots=("velocity",),
    equation="g ← g + λ w; b ← μ b + g; w ← w − η (g + μ b)",
    source="Nesterov 1983; Sutskever et al. 2013",
)


@hookimpl
def minicnn_optimizers():
    return [NESTEROV]
