"""Muon: momentum whose matrices are made orthogonal by Newton–Schulz iterations; AdamW for all that
is no hidden matrix.

    b ← μ b + g
    X ← (g + μ b) / ‖g + μ b‖
    five times: A = X Xᵀ, X ← 3.4445 X + (−4.7750 A + 2.0315 A²) X
    w ← (1 − η λ) w − η √max(1, columns / rows) X

The weights of a dense layer are a matrix [inputs, outputs], those of a convolution [R·S·C, K]. (The
source writes them the other way round, so rows and columns change their places in the factor.)
Those of the first and of the last layer, and biases, scales and shifts go to AdamW, as the source
recommends.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/.
"""

import math

from minicnn import Hyperparameter, hookimpl
from minicnn.rules import StepRule

minicnn_api = 2  # the version of the plugin API that this is written for


def orthogonalize(s, tensor):
    """X ← the orthogonal matrix nearest to it, nearly, by five iterations; X is the tensor's part
    of the scratch "x"."""
    rows, columns = tensor.matrix_shape
    wide, small = rows <= columns, min(rows, columns)
    x, product = (s.matrix(s.scratch[name], tensor) for name in ("x", "product"))
    a, b = (s.matrix(s.scratch[name], tensor, (small, small)) for name in ("square", "power"))
    s.scale(1.0 / (s.norm(x) + 1e-7), x)
    for _ in range(5):
        s.matmul(x, x, a, transpose_a=not wide, transpose_b=wide)  # the smaller of X Xᵀ and Xᵀ X
        s.matmul(a, a, b)
        s.scale(2.0315, b)
        s.axpy(-4.7750, a, b)
        if wide:
            s.matmul(b, x, product)
        else:
            s.matmul(x, b, product)
        s.scale(3.4445, x)
        s.axpy(1.0, product, x)
    return x


def step(s):
    s.gradient()
    rate, momentum, velocity = s.hyper["learning_rate"], s.hyper["momentum"], s.slots["velocity"]
    s.scale(momentum, velocity)
    s.axpy(1.0, s.grads, velocity)
    s.copy(s.grads, s.scratch["x"])
    s.axpy(momentum, velocity, s.scratch["x"])
    others = []
    for tensor in s.tensors:
        if tensor.first or tensor.last or not tensor.is_matrix:
            others.append(tensor)
            continue
        weights, (rows, columns) = s.matrix(s.params, tensor), tensor.matrix_shape
        own = rate * tensor.learning_rate
        s.scale(1.0 - own * tensor.weight_decay * s.hyper["weight_decay"], weights)
        s.axpy(-own * math.sqrt(max(1.0, columns / rows)), orthogonalize(s, tensor), weights)
    s.update(
        "adamw",
        others,
        learning_rate=s.hyper["adamw_share"] * rate,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-10,
    )


MUON = StepRule(
    name="muon",
    step=step,
    hyperparameters=(
        Hyperparameter("learning_rate", 0.02, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter(
            "momentum",
            0.95,
            0.0,
            1.0,
            open_maximum=True,
            meaning="share μ of the velocity that is kept",
        ),
        Hyperparameter(
            "weight_decay", 0.0, 0.0, meaning="pull towards zero λ, apart from the gradient"
        ),
        Hyperparameter(
            "adamw_share",
            0.015,
            0.0,
            open_minimum=True,
            meaning="learning rate of adamw as a share of η",
        ),
    ),
    bases=("adamw",),
    slots=("velocity",),
    scratch=("x", "product", "square", "power"),
    by_tensor=True,
    equation=(
        "b ← μ b + g; X ← NewtonSchulz(g + μ b); w ← (1 − η λ) w − η √max(1, columns / rows) X for matrices between the "
        "first and the last layer; adamw for the others"
    ),
    source="Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/",
)


@hookimpl
def minicnn_optimizers():
    return [MUON]
