"""Steps along the gradient: gradient descent on all images or on a batch, with momentum, and with
momentum that looks ahead.

Sources: A. Cauchy, "Méthode générale pour la résolution des systèmes d'équations simultanées",
Comptes rendus 25 (1847), 536-538. H. Robbins and S. Monro, "A Stochastic Approximation Method",
Annals of Mathematical Statistics 22 (1951), 400-407. B. T. Polyak, "Some methods of speeding up the
convergence of iteration methods", USSR Computational Mathematics and Mathematical Physics 4 (1964),
1-17. Y. Nesterov, "A method of solving a convex programming problem with convergence rate O(1/k²)",
Soviet Mathematics Doklady 27 (1983), 372-376; in this form I. Sutskever et al., "On the importance
of initialization and momentum in deep learning", ICML 2013.
"""

from minicnn.hookspecs import hookimpl
from minicnn.optimizers import WEIGHT_DECAY, decay_rate, learning_rate
from minicnn.rules import Hyperparameter, OptimizerRule

_MOMENTUM = decay_rate("momentum", 0.9, "decay rate μ of the velocity")


def prepare_gd(step, state, learning_rate):
    """The learning rate."""
    return (learning_rate,)


def gd(p, g, learning_rate):
    """w, a step down the gradient of the whole training set."""
    return p - learning_rate * g


GD = OptimizerRule(
    name="gd",
    update=gd,
    prepare=prepare_gd,
    hyperparameters=(learning_rate(0.1, "step along the gradient, η"),),
    full_batch=True,
    equation="w ← w − η ∇L(w), with L over the whole training set",
    source="Cauchy 1847",
)


def prepare_sgd(step, state, learning_rate, weight_decay):
    """The scalars are the same in every step."""
    return learning_rate, weight_decay


def sgd(p, g, learning_rate, weight_decay):
    """w, a step down the gradient of the batch."""
    return p - learning_rate * (g + weight_decay * p)


SGD = OptimizerRule(
    name="sgd",
    update=sgd,
    prepare=prepare_sgd,
    hyperparameters=(learning_rate(0.05), WEIGHT_DECAY),
    equation="w ← w − η (g + λ w)",
    source="Robbins and Monro 1951",
)


def prepare_momentum(step, state, learning_rate, momentum, dampening, weight_decay):
    """The share of the gradient is 1 in the first step."""
    return learning_rate, momentum, 1.0 if step == 1 else 1.0 - dampening, weight_decay


def momentum(p, g, velocity, learning_rate, momentum, share, weight_decay):
    """w and the velocity."""
    velocity = momentum * velocity + share * (g + weight_decay * p)
    return p - learning_rate * velocity, velocity


MOMENTUM = OptimizerRule(
    name="momentum",
    update=momentum,
    prepare=prepare_momentum,
    hyperparameters=(
        learning_rate(0.01),
        _MOMENTUM,
        Hyperparameter(
            "dampening", 0.0, 0.0, 1.0, meaning="what τ a gradient loses after the first step"
        ),
        WEIGHT_DECAY,
    ),
    slots=("velocity",),
    equation="b ← μ b + (1 − τ) (g + λ w), τ = 0 in the first step; w ← w − η b",
    source="Polyak 1964",
)


def prepare_nesterov(step, state, learning_rate, momentum, weight_decay):
    """The scalars are the same in every step."""
    return learning_rate, momentum, weight_decay


def nesterov(p, g, velocity, learning_rate, momentum, weight_decay):
    """w, a step from where the velocity leads to, and the velocity."""
    g = g + weight_decay * p
    velocity = momentum * velocity + g
    return p - learning_rate * (g + momentum * velocity), velocity


NESTEROV = OptimizerRule(
    name="nesterov",
    update=nesterov,
    prepare=prepare_nesterov,
    hyperparameters=(learning_rate(0.01), _MOMENTUM, WEIGHT_DECAY),
    slots=("velocity",),
    equation="g ← g + λ w; b ← μ b + g; w ← w − η (g + μ b)",
    source="Nesterov 1983; Sutskever et al. 2013",
)


@hookimpl
def minicnn_optimizers():
    """The optimizers of this module."""
    return [GD, SGD, MOMENTUM, NESTEROV]
