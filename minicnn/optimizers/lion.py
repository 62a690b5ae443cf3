"""Lion: steps of one size, in the direction of the sign of an interpolated momentum.

    w ← w − η (sign(β₁ m + (1 − β₁) g) + λ w)
    m ← β₂ m + (1 − β₂) g

Source: X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023,
https://arxiv.org/abs/2302.06675. Its learning rate is 3 to 10 times smaller than AdamW's, its weight decay as many
times larger.
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate, beta1, beta2, weight_decay):
    return learning_rate, beta1, 1.0 - beta1, beta2, 1.0 - beta2, weight_decay


def update(p, g, mean, learning_rate, beta1, one_minus_beta1, beta2, one_minus_beta2, weight_decay):
    blend = beta1 * mean + one_minus_beta1 * g
    # What is neither above nor below zero is zero, or not a number, which must stay visible.
    sign = 1.0 if blend > 0.0 else (-1.0 if blend < 0.0 else blend)
    return p - learning_rate * (sign + weight_decay * p), beta2 * mean + one_minus_beta2 * g


LION = OptimizerRule(
    name="lion",
    update=update,
    prepare=prepare,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.0001, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter("beta1", 0.9, 0.0, 1.0, open_maximum=True, meaning="weight β₁ of the mean in the step"),
        Hyperparameter("beta2", 0.99, 0.0, 1.0, open_maximum=True, meaning="share β₂ of the mean that is kept"),
        Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, a share of η"),
    ),
    slots=("mean",),
    equation="w ← w − η (sign(β₁ m + (1 − β₁) g) + λ w); m ← β₂ m + (1 − β₂) g",
    source="Chen et al. 2023, arXiv:2302.06675",
)


@hookimpl
def minicnn_optimizers():
    return [LION]
