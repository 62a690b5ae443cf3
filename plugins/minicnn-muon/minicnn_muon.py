"""Muon: momentum whose matrices are made orthogonal by Newton–Schulz iterations; AdamW for all that is no matrix.

    b ← μ b + g
    X ← (g + μ b) / ‖g + μ b‖
    five times: A = X Xᵀ, X ← 3.4445 X + (−4.7750 A + 2.0315 A²) X
    w ← (1 − η λ) w − η √max(1, columns / rows) X

The weights of a layer are a matrix [inputs, outputs], those of a convolution [R·S·C, K]. (The source writes them
the other way round, so rows and columns change their places in the factor.)

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/.
"""

import math

from minicnn import Hyperparameter, hookimpl
from minicnn.rules import StepRule, TensorRule
from minicnn.rules.operations import axpy, matmul, norm

minicnn_api = 1  # the version of the plugin API that this is written for


def prepare(step, state, learning_rate, momentum, weight_decay):
    return learning_rate, momentum, 1.0 - learning_rate * weight_decay


def update(p, g, velocity, learning_rate, momentum, keep, x, product, square, power):
    rows, columns = p.shape
    small = min(rows, columns)
    for i in range(rows):
        for j in range(columns):
            velocity[i, j] = momentum * velocity[i, j] + g[i, j]
            x[i, j] = g[i, j] + momentum * velocity[i, j]
    size = norm(x) + 1e-7
    for i in range(rows):
        for j in range(columns):
            x[i, j] = x[i, j] / size
    # The smaller of X Xᵀ and Xᵀ X.
    a = square.reshape(-1)[: small * small].reshape(small, small)
    b = power.reshape(-1)[: small * small].reshape(small, small)
    for _ in range(5):
        if rows <= columns:
            matmul(x, x, a, transpose_b=True)
        else:
            matmul(x, x, a, transpose_a=True)
        matmul(a, a, b)
        for i in range(small):
            for j in range(small):
                b[i, j] = 2.0315 * b[i, j] - 4.7750 * a[i, j]
        if rows <= columns:
            matmul(b, x, product)
        else:
            matmul(x, b, product)
        axpy(3.4445, x, product)
        for i in range(rows):
            for j in range(columns):
                x[i, j] = product[i, j]
    for i in range(rows):
        for j in range(columns):
            p[i, j] = keep * p[i, j]
    axpy(-learning_rate * math.sqrt(max(1.0, columns / rows)), x, p)


RATE = Hyperparameter("learning_rate", 0.02, 0.0, open_minimum=True, meaning="step size η")
MOMENTUM = Hyperparameter("momentum", 0.95, 0.0, 1.0, open_maximum=True, meaning="share μ of the velocity that is kept")
DECAY = Hyperparameter("weight_decay", 0.0, 0.0, meaning="pull towards zero λ, apart from the gradient")

ORTHOGONAL = TensorRule(
    name="orthogonal_momentum",
    update=update,
    prepare=prepare,
    hyperparameters=(RATE, MOMENTUM, DECAY),
    slots=("velocity",),
    scratch=("x", "product", "square", "power"),
    equation="b ← μ b + g; X ← NewtonSchulz(g + μ b); w ← (1 − η λ) w − η √max(1, columns / rows) X",
    source="Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/",
)


def step(s):
    s.gradient()
    s.update("orthogonal_momentum", tensors="matrices")
    s.update("adamw", tensors="others", learning_rate=s.hyper["adamw_share"] * s.hyper["learning_rate"],
             beta1=0.9, beta2=0.95, epsilon=1e-10)  # fmt: skip


MUON = StepRule(
    name="muon",
    step=step,
    hyperparameters=(
        RATE,
        MOMENTUM,
        DECAY,
        Hyperparameter("adamw_share", 0.015, 0.0, open_minimum=True, meaning="learning rate of adamw as a share of η"),
    ),
    bases=(ORTHOGONAL, "adamw"),
    equation=ORTHOGONAL.equation + " for matrices; adamw for the others",
    source=ORTHOGONAL.source,
)


@hookimpl
def minicnn_optimizers():
    return [MUON]
