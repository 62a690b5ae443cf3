"""Adam and its kin, with running means m of the gradient and v of its square, corrected for their
start at zero:

    m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)

AdamW's weight decay acts on the weights and not through these means, NAdam has Nesterov's momentum,
which grows over the first steps, and Lion takes steps of one size, along the sign of an
interpolated mean. Lion's learning rate is 3 to 10 times smaller than AdamW's, its weight decay as
many times larger.

Sources: D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
https://arxiv.org/abs/1412.6980. I. Loshchilov and F. Hutter, "Decoupled Weight Decay
Regularization", ICLR 2019, https://arxiv.org/abs/1711.05101. T. Dozat, "Incorporating Nesterov
Momentum into Adam", ICLR workshop 2016. X. Chen et al., "Symbolic Discovery of Optimization
Algorithms", NeurIPS 2023, https://arxiv.org/abs/2302.06675.
"""

import math
from dataclasses import replace

from minicnn.hookspecs import hookimpl
from minicnn.optimizers import EPSILON, WEIGHT_DECAY, decay_rate, learning_rate
from minicnn.rules import Hyperparameter, OptimizerRule

_BETAS = (
    decay_rate("beta1", 0.9, "decay rate β₁ of the mean"),
    decay_rate("beta2", 0.999, "decay rate β₂ of the mean square"),
)
_DECOUPLED = replace(WEIGHT_DECAY, meaning="pull towards zero λ, a fraction of η")


def prepare_adam(step, state, learning_rate, beta1, beta2, epsilon, weight_decay):
    """The step size, β and ε of this step, with both bias corrections in them."""
    # With c = √(1 − β₂ᵗ), m̂ / (√v̂ + ε) is (c / (1 − β₁ᵗ)) · m / (√v + c ε): both corrections are
    # made here.
    root = math.sqrt(1.0 - beta2**step)
    step_size = learning_rate * root / (1.0 - beta1**step)
    return step_size, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon * root, weight_decay


def adam(
    p,
    g,
    mean,
    square,
    step_size,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    epsilon,
    weight_decay,
):
    """w, and the running means of g and of g²."""
    g = g + weight_decay * p
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    return p - step_size * mean / (math.sqrt(square) + epsilon), mean, square


ADAM = OptimizerRule(
    name="adam",
    update=adam,
    prepare=prepare_adam,
    hyperparameters=(learning_rate(0.001), *_BETAS, EPSILON, WEIGHT_DECAY),
    slots=("mean", "square"),
    equation="g ← g + λ w; m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; w ← w − η m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)",
    source="Kingma and Ba 2015, arXiv:1412.6980",
)


def amsgrad(
    p,
    g,
    mean,
    square,
    largest,
    step_size,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    epsilon,
    weight_decay,
):
    """w, the running means of g and of g², and the largest of the latter so far."""
    g = g + weight_decay * p
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    largest = largest if square <= largest else square
    return p - step_size * mean / (math.sqrt(largest) + epsilon), mean, square, largest


AMSGRAD = replace(
    ADAM,
    name="amsgrad",
    update=amsgrad,
    slots=("mean", "square", "largest"),
    equation="Adam with max(v₁, ..., vₜ) in the place of vₜ",
    source="Reddi, Kale and Kumar 2018, arXiv:1904.09237",
)


def prepare_radam(step, state, learning_rate, beta1, beta2, epsilon, weight_decay):
    """The size of a plain or of a rectified step, of which one is 0, and the rest of Adam's scalars."""
    # As in PyTorch, ε stands beside √v and not beside the corrected √v̂.
    step_size, *betas, _, _ = prepare_adam(
        step, state, learning_rate, beta1, beta2, epsilon, weight_decay
    )
    most = 2.0 / (1.0 - beta2) - 1.0
    length = most - 2.0 * step * beta2**step / (1.0 - beta2**step)
    if length <= 5.0:  # too few gradients for a variance
        return learning_rate / (1.0 - beta1**step), 0.0, *betas, epsilon, weight_decay
    rectified = (length - 4.0) * (length - 2.0) * most / ((most - 4.0) * (most - 2.0) * length)
    return 0.0, step_size * math.sqrt(rectified), *betas, epsilon, weight_decay


def radam(
    p,
    g,
    mean,
    square,
    plain_step,
    step_size,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    epsilon,
    weight_decay,
):
    """w, and the running means of g and of g²."""
    g = g + weight_decay * p
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    return p - (plain_step + step_size / (math.sqrt(square) + epsilon)) * mean, mean, square


RADAM = replace(
    ADAM,
    name="radam",
    update=radam,
    prepare=prepare_radam,
    equation="Adam's step times the rectification rₜ; while ρₜ ≤ 5, w ← w − η m/(1 − β₁ᵗ)",
    source="Liu et al. 2020, arXiv:1908.03265",
)


def prepare_adamax(step, state, learning_rate, beta1, beta2, epsilon, weight_decay):
    """The step size of this step, corrected for the mean that begins at 0."""
    return learning_rate / (1.0 - beta1**step), beta1, 1.0 - beta1, beta2, epsilon, weight_decay


def adamax(p, g, mean, largest, step_size, beta1, one_minus_beta1, beta2, epsilon, weight_decay):
    """w, the running mean of g, and the largest |g|, which fades."""
    g = g + weight_decay * p
    mean = beta1 * mean + one_minus_beta1 * g
    largest, size = beta2 * largest, abs(g) + epsilon
    largest = largest if size <= largest else size
    return p - step_size * mean / largest, mean, largest


ADAMAX = OptimizerRule(
    name="adamax",
    update=adamax,
    prepare=prepare_adamax,
    hyperparameters=(learning_rate(0.002), *_BETAS, EPSILON, WEIGHT_DECAY),
    slots=("mean", "largest"),
    equation="g ← g + λ w; m ← β₁ m + (1 − β₁) g; u ← max(β₂ u, |g| + ε); w ← w − η m/(1 − β₁ᵗ) / u",
    source="Kingma and Ba 2015, arXiv:1412.6980",
)


def prepare_adamw(step, state, learning_rate, beta1, beta2, epsilon, weight_decay):
    """Adam's scalars, and the share that is taken of w itself."""
    *scalars, _ = prepare_adam(step, state, learning_rate, beta1, beta2, epsilon, weight_decay)
    return *scalars, learning_rate * weight_decay


def adamw(
    p, g, mean, square, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, decay
):
    """w, pulled towards zero apart from the gradient, and the running means of g and of g²."""
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    return (p - decay * p) - step_size * mean / (math.sqrt(square) + epsilon), mean, square


ADAMW = OptimizerRule(
    name="adamw",
    update=adamw,
    prepare=prepare_adamw,
    hyperparameters=(learning_rate(0.001), *_BETAS, EPSILON, replace(_DECOUPLED, default=0.01)),
    slots=("mean", "square"),
    equation="m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; w ← w − η λ w − η m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)",
    source="Loshchilov and Hutter 2019, arXiv:1711.05101",
)


def adamw_amsgrad(
    p,
    g,
    mean,
    square,
    largest,
    step_size,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    epsilon,
    decay,
):
    """w, pulled towards zero apart from the gradient, the running means, and the largest so far."""
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    largest = largest if square <= largest else square
    p = (p - decay * p) - step_size * mean / (math.sqrt(largest) + epsilon)
    return p, mean, square, largest


ADAMW_AMSGRAD = replace(
    ADAMW,
    name="adamw_amsgrad",
    update=adamw_amsgrad,
    slots=AMSGRAD.slots,
    equation="AdamW with max(v₁, ..., vₜ) in the place of vₜ",
)


def prepare_nadam(step, state, learning_rate, beta1, beta2, epsilon, momentum_decay, weight_decay):
    """The sizes of the steps along the gradient and along its mean, by the product of all μ so far."""
    now = beta1 * (1.0 - 0.5 * 0.96 ** (step * momentum_decay))
    following = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    state["mu_product"] *= now  # Πμ = μ₁ ⋯ μₜ
    # The correction of v is moved into the step sizes and ε, as for Adam.
    root = math.sqrt(1.0 - beta2**step)
    gradient_step = learning_rate * root * (1.0 - now) / (1.0 - state["mu_product"])
    mean_step = learning_rate * root * following / (1.0 - state["mu_product"] * following)
    return (
        gradient_step,
        mean_step,
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        epsilon * root,
        weight_decay,
    )


def nadam(
    p,
    g,
    mean,
    square,
    gradient_step,
    mean_step,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    epsilon,
    weight_decay,
):
    """w, and the running means of g and of g²."""
    g = g + weight_decay * p
    mean = beta1 * mean + one_minus_beta1 * g
    square = beta2 * square + one_minus_beta2 * g * g
    return p - (gradient_step * g + mean_step * mean) / (math.sqrt(square) + epsilon), mean, square


NADAM = OptimizerRule(
    name="nadam",
    update=nadam,
    prepare=prepare_nadam,
    hyperparameters=(
        *(learning_rate(0.002), *_BETAS, EPSILON),
        Hyperparameter(
            "momentum_decay", 0.004, 0.0, meaning="how fast ψ the momentum μ grows to β₁"
        ),
        WEIGHT_DECAY,
    ),
    slots=("mean", "square"),
    state=(("mu_product", 1.0),),
    equation=(
        "g ← g + λ w; μₜ = β₁ (1 − ½ · 0.96^(t ψ)); m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; "
        "w ← w − η ((1 − μₜ) g / (1 − Πμ) + μₜ₊₁ m / (1 − μₜ₊₁ Πμ)) / (√(v/(1 − β₂ᵗ)) + ε)"
    ),
    source="Dozat 2016",
)


def prepare_lion(step, state, learning_rate, beta1, beta2, weight_decay):
    """The scalars are the same in every step."""
    return learning_rate, beta1, 1.0 - beta1, beta2, 1.0 - beta2, weight_decay


def lion(p, g, mean, learning_rate, beta1, one_minus_beta1, beta2, one_minus_beta2, weight_decay):
    """w, moved by the sign of a mean, and the running mean of g."""
    blend = beta1 * mean + one_minus_beta1 * g
    # Neither above nor below zero: zero or NaN, which must stay visible.
    sign = 1.0 if blend > 0.0 else (-1.0 if blend < 0.0 else blend)
    return p - learning_rate * (sign + weight_decay * p), beta2 * mean + one_minus_beta2 * g


LION = OptimizerRule(
    name="lion",
    update=lion,
    prepare=prepare_lion,
    hyperparameters=(
        learning_rate(0.0001),
        decay_rate("beta1", 0.9, "weight β₁ of the mean in the step"),
        decay_rate("beta2", 0.99, "decay rate β₂ of the mean"),
        _DECOUPLED,
    ),
    slots=("mean",),
    equation="w ← w − η (sign(β₁ m + (1 − β₁) g) + λ w); m ← β₂ m + (1 − β₂) g",
    source="Chen et al. 2023, arXiv:2302.06675",
)


@hookimpl
def minicnn_optimizers():
    """The optimizers of this module."""
    return [ADAM, AMSGRAD, ADAMW, ADAMW_AMSGRAD, NADAM, RADAM, ADAMAX, LION]
