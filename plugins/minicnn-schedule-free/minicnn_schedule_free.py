"""Schedule-free AdamW: an average of all points takes the place of a schedule, and is what is used
after training.

    η = learning rate · √(1 − β₂ᵗ), c = η² / Σ η²
    v ← β₂ v + (1 − β₂) g(y)²
    z ← z − η (g(y) / (√v + ε) + λ y)
    x ← (1 − c) x + c z
    y ← (1 − β₁) z + β₁ x

y, where gradients are taken, is what training changes; x is validated, tested and saved. A warm-up
is recommended.

Source: A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024,
https://arxiv.org/abs/2405.15682, algorithm 1.
"""

import math

from minicnn import Hyperparameter, OptimizerRule, hookimpl
from minicnn.rules import StepRule

minicnn_api = 1  # the version of the plugin API that this is written for

HYPERPARAMETERS = (
    Hyperparameter("learning_rate", 0.0025, 0.0, open_minimum=True, meaning="step size"),
    Hyperparameter(
        "beta1",
        0.9,
        0.0,
        1.0,
        open_maximum=True,
        meaning="how near β₁ the average gradients are taken",
    ),
    Hyperparameter(
        "beta2",
        0.999,
        0.0,
        1.0,
        open_maximum=True,
        meaning="exponential decay rate β₂ of the mean square",
    ),
    Hyperparameter(
        "epsilon",
        1e-8,
        0.0,
        open_minimum=True,
        meaning="added to the root, against division by zero",
    ),
    Hyperparameter(
        "weight_decay", 0.0, 0.0, meaning="pull towards zero λ, apart from the gradient"
    ),
)
EQUATION = (
    "c = η² / Σ η²; v ← β₂ v + (1 − β₂) g(y)²; z ← z − η (g(y) / (√v + ε) + λ y); x ← (1 − c) x + c z; "
    "y ← (1 − β₁) z + β₁ x, η = learning rate · √(1 − β₂ᵗ)"
)


def prepare(step, state, learning_rate, beta1, beta2, epsilon, weight_decay):
    rate = learning_rate * math.sqrt(1.0 - beta2**step)
    state["squares"] += rate * rate
    share = rate * rate / state["squares"] if rate else 0.0
    return rate, share, beta1, beta2, 1.0 - beta2, epsilon, weight_decay


def update(y, g, z, x, v, rate, share, beta1, beta2, one_minus_beta2, epsilon, weight_decay):
    v = beta2 * v + one_minus_beta2 * g * g
    z = z - rate * (g / (math.sqrt(v) + epsilon) + weight_decay * y)
    x = x + share * (z - x)
    return z + beta1 * (x - z), z, x, v


AVERAGED = OptimizerRule(
    name="averaged",
    update=update,
    prepare=prepare,
    hyperparameters=HYPERPARAMETERS,
    slots=("z", "x", "v"),
    state=(("squares", 0.0),),
)


def step(s):
    if s.number == 1:
        s.copy(s.params, s.slots["averaged.z"])
        s.copy(s.params, s.slots["averaged.x"])
    s.gradient()
    s.update("averaged")


def evaluation(s, out):
    s.copy(s.slots["averaged.x"], out)


SCHEDULE_FREE = StepRule(
    name="schedule-free",
    step=step,
    hyperparameters=HYPERPARAMETERS,
    bases=(AVERAGED,),
    by_tensor=True,
    evaluation=evaluation,
    equation=EQUATION,
    source="Defazio et al. 2024, arXiv:2405.15682",
)


@hookimpl
def minicnn_optimizers():
    return [SCHEDULE_FREE]
