"""Each gradient is divided by the size of those before it: by the root of the sum of their squares
(AdaGrad), or of a running mean (RMSprop); Adadelta estimates the size of the next step from those
of the last ones, too.

Sources: J. Duchi, E. Hazan and Y. Singer, "Adaptive Subgradient Methods for Online Learning and
Stochastic Optimization", JMLR 12 (2011), 2121-2159. T. Tieleman and G. Hinton, "Lecture 6.5 -
RMSprop", Neural Networks for Machine Learning, Coursera 2012. M. D. Zeiler, "ADADELTA: An Adaptive
Learning Rate Method", 2012, https://arxiv.org/abs/1212.5701.
"""

import math
from dataclasses import replace

from minicnn.hookspecs import hookimpl
from minicnn.optimizers import EPSILON, WEIGHT_DECAY, decay_rate, learning_rate
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare_adagrad(step, state, learning_rate, lr_decay, epsilon, weight_decay):
    """The step size of this step, and the rest."""
    return learning_rate / (1.0 + (step - 1) * lr_decay), epsilon, weight_decay


def adagrad(p, g, square, step_size, epsilon, weight_decay):
    """w and v, the sum of the squared gradients."""
    g = g + weight_decay * p
    square = square + g * g
    return p - step_size * g / (math.sqrt(square) + epsilon), square


ADAGRAD = OptimizerRule(
    name="adagrad",
    update=adagrad,
    prepare=prepare_adagrad,
    hyperparameters=(
        learning_rate(0.01),
        replace(
            WEIGHT_DECAY, name="lr_decay", meaning="decay d of the learning rate with the steps t"
        ),
        replace(EPSILON, default=1e-10),
        WEIGHT_DECAY,
    ),
    slots=("square",),
    equation="g ← g + λ w; v ← v + g²; w ← w − η / (1 + (t − 1) d) · g / (√v + ε)",
    source="Duchi, Hazan and Singer 2011",
)


def prepare_rmsprop(step, state, learning_rate, alpha, epsilon, weight_decay):
    """The scalars are the same in every step."""
    return learning_rate, alpha, 1.0 - alpha, epsilon, weight_decay


def rmsprop(p, g, square, learning_rate, alpha, one_minus_alpha, epsilon, weight_decay):
    """w and v, the running mean of the squared gradients."""
    g = g + weight_decay * p
    square = alpha * square + one_minus_alpha * g * g
    return p - learning_rate * g / (math.sqrt(square) + epsilon), square


RMSPROP = OptimizerRule(
    name="rmsprop",
    update=rmsprop,
    prepare=prepare_rmsprop,
    hyperparameters=(
        learning_rate(0.001),
        decay_rate("alpha", 0.99, "decay rate α of the mean square"),
        EPSILON,
        WEIGHT_DECAY,
    ),
    slots=("square",),
    equation="g ← g + λ w; v ← α v + (1 − α) g²; w ← w − η g / (√v + ε)",
    source="Tieleman and Hinton 2012",
)


def prepare_rmsprop_momentum(
    step, state, learning_rate, alpha, momentum, centered, epsilon, weight_decay
):
    """The scalars are the same in every step."""
    return learning_rate, alpha, 1.0 - alpha, momentum, centered, epsilon, weight_decay


def rmsprop_momentum(
    p,
    g,
    square,
    mean,
    velocity,
    learning_rate,
    alpha,
    one_minus_alpha,
    momentum,
    centered,
    epsilon,
    weight_decay,
):
    """w, the running means of g² and of g, and the velocity."""
    g = g + weight_decay * p
    square = alpha * square + one_minus_alpha * g * g
    mean = alpha * mean + one_minus_alpha * g
    variance = square - centered * mean * mean
    # Rounding may leave less than nothing of a gradient that never changes; NaN must stay visible.
    variance = 0.0 * variance if variance < 0.0 else variance
    velocity = momentum * velocity + g / (math.sqrt(variance) + epsilon)
    return p - learning_rate * velocity, square, mean, velocity


RMSPROP_MOMENTUM = OptimizerRule(
    name="rmsprop_momentum",
    update=rmsprop_momentum,
    prepare=prepare_rmsprop_momentum,
    hyperparameters=(
        learning_rate(0.001),
        decay_rate("alpha", 0.99, "decay rate α of the mean square"),
        decay_rate("momentum", 0.9, "decay rate μ of the velocity"),
        Hyperparameter(
            "centered", 0.0, 0.0, 1.0, meaning="1 takes the variance c, 0 the mean square"
        ),
        EPSILON,
        WEIGHT_DECAY,
    ),
    slots=("square", "mean", "velocity"),
    equation=(
        "g ← g + λ w; v ← α v + (1 − α) g²; m ← α m + (1 − α) g; "
        "b ← μ b + g / (√(v − c m²) + ε); w ← w − η b"
    ),
    source="Tieleman and Hinton 2012; centred: Graves 2013, arXiv:1308.0850",
)


def prepare_adadelta(step, state, learning_rate, rho, epsilon, weight_decay):
    """The scalars are the same in every step."""
    return learning_rate, rho, 1.0 - rho, epsilon, weight_decay


def adadelta(p, g, square, square_delta, learning_rate, rho, one_minus_rho, epsilon, weight_decay):
    """w, and the running means of the squared gradients and of the squared steps."""
    g = g + weight_decay * p
    square = rho * square + one_minus_rho * g * g
    delta = math.sqrt(square_delta + epsilon) / math.sqrt(square + epsilon) * g
    square_delta = rho * square_delta + one_minus_rho * delta * delta
    return p - learning_rate * delta, square, square_delta


ADADELTA = OptimizerRule(
    name="adadelta",
    update=adadelta,
    prepare=prepare_adadelta,
    hyperparameters=(
        learning_rate(1.0, "factor η of the estimated step"),
        decay_rate("rho", 0.9, "decay rate ρ of the mean squares"),
        replace(EPSILON, default=1e-6, meaning="added under the roots; sets the first steps"),
        WEIGHT_DECAY,
    ),
    slots=("square", "square_delta"),
    equation="g ← g + λ w; v ← ρ v + (1 − ρ) g²; δ = √(u + ε) / √(v + ε) · g; u ← ρ u + (1 − ρ) δ²; w ← w − η δ",
    source="Zeiler 2012, arXiv:1212.5701",
)


@hookimpl
def minicnn_optimizers():
    """The optimizers of this module."""
    return [ADAGRAD, RMSPROP, RMSPROP_MOMENTUM, ADADELTA]
