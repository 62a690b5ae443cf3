"""Adafactor: the mean square of a matrix's gradient is kept as the product of a column and a row.

With ρ = min(η, 1/√t), α = max(ε₂, RMS(w)) ρ and 1 − β = t^τ, for weights [m, n] (filters [R·S·C, K],
dense weights [inputs, outputs]):

    r ← β r + (1 − β) (G ⊙ G) 1/n,    c ← β c + (1 − β) 1ᵀ/m (G ⊙ G),    V = r c / max(mean r, ε₁)

and for what is no matrix V ← β V + (1 − β) g². Then

    U = G / max(√V, ε₁),    w ← (1 − η λ) w − α U / max(1, RMS(U) / d)

Defaults are those of ``torch.optim.Adafactor``, ε₁ that of float32. Here the source's step is the
aim and not its small memory: vectors are as long as the weights.

Source: N. Shazeer and M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
ICML 2018, https://arxiv.org/abs/1804.04235.
"""

import math
from dataclasses import replace

from minicnn.hookspecs import hookimpl
from minicnn.optimizers import EPSILON, WEIGHT_DECAY, learning_rate
from minicnn.rules import Hyperparameter, OptimizerRule, StepRule

_FLOOR = replace(EPSILON, name="epsilon1", default=2.0**-23, meaning="least root ε₁ of V")


def prepare_squares(step, state):
    """`squares` takes no scalars."""
    return ()


def squared(g):
    """g², where it is a number to go on with; NaN stays visible."""
    square = g * g
    return 1e30 if square > 1e30 else square


def squares(p, g, square, one):
    """g² and a one in the slots, whose products the sums of rows and columns are."""
    return p, squared(g), 1.0


def prepare_scaled(step, state, share, epsilon1):
    """What `scaled` takes of V and of g², and the least root."""
    return share, 1.0 - share, epsilon1


def scaled(p, g, variance, change, share, kept, floor):
    """V, updated where it is no matrix's, and G / √V in the slots."""
    variance = kept * variance + share * squared(g)
    root = math.sqrt(variance)
    return p, variance, g / (floor if root < floor else root)


def step(s):
    """One step of all tensors, by the vectors and matrices that ``s`` gives."""
    s.gradient()
    hyper, share = s.hyper, s.number ** s.hyper["beta2_decay"]
    s.update("squares", "matrices")
    for tensor in s.tensors:
        if tensor.is_matrix:
            _factor(s, tensor, share)
    s.update("scaled", "matrices", share=0.0)
    s.update("scaled", "others", share=share)
    for tensor in s.tensors:
        weights = s.matrix(s.params, tensor)
        change = s.matrix(s.slots["scaled.change"], tensor)
        rate, root = hyper["learning_rate"] * tensor.learning_rate, math.sqrt(tensor.size)
        size = max(hyper["epsilon2"], s.norm(weights) / root) * min(rate, s.number**-0.5)
        s.scale(1.0 - rate * hyper["weight_decay"] * tensor.weight_decay, weights)
        s.axpy(-size / max(1.0, s.norm(change) / (root * hyper["threshold"])), change, weights)


def _factor(s, tensor, share):
    """V of one matrix, in the slot of the base that reads it."""
    m, n = tensor.matrix_shape
    square, variance = (
        s.matrix(s.slots[name], tensor) for name in ("squares.square", "scaled.variance")
    )
    one, sums = s.slots["squares.one"], s.scratch["sums"]
    row, column = (
        s.matrix(s.slots["row"], tensor, (1, n)),
        s.matrix(s.slots["column"], tensor, (m, 1)),
    )
    for mean, left, right, count in (
        (column, square, s.matrix(one, tensor, (n, 1)), n),
        (row, s.matrix(one, tensor, (1, m)), square, m),
    ):
        total = s.matrix(sums, tensor, mean.shape)
        s.matmul(left, right, total)
        s.scale(1.0 - share, mean)
        s.axpy(share / count, total, mean)
    mean = s.dot(column, s.matrix(one, tensor, (m, 1))) / m
    normalized = s.matrix(sums, tensor, (m, 1))
    s.copy(column, normalized)
    s.scale(1.0 / max(mean, s.hyper["epsilon1"]), normalized)
    s.matmul(normalized, row, variance)


ADAFACTOR = StepRule(
    name="adafactor",
    step=step,
    hyperparameters=(
        learning_rate(0.01, "greatest step size η, as a share of the weights' size"),
        Hyperparameter("beta2_decay", -0.8, maximum=0.0, meaning="power τ of t in 1 − β = t^τ"),
        _FLOOR,
        replace(EPSILON, name="epsilon2", default=1e-3, meaning="least size ε₂ of the weights"),
        Hyperparameter("threshold", 1.0, 1.0, meaning="RMS d from which a step is clipped"),
        replace(WEIGHT_DECAY, meaning="pull towards zero λ, a fraction of η"),
    ),
    bases=(
        OptimizerRule("squares", squares, prepare_squares, (), ("square", "one")),
        OptimizerRule(
            "scaled",
            scaled,
            prepare_scaled,
            (Hyperparameter("share", 1.0, 0.0, 1.0), _FLOOR),
            ("variance", "change"),
        ),
    ),
    slots=("row", "column"),
    scratch=("sums",),
    by_tensor=True,
    equation=(
        "r ← β r + (1 − β) G² 1/n; c ← β c + (1 − β) 1ᵀ/m G²; V = r c / mean r, β = 1 − t^τ; "
        "U = G / √V; w ← (1 − η λ) w − max(ε₂, RMS(w)) min(η, 1/√t) U / max(1, RMS(U) / d)"
    ),
    source="Shazeer and Stern 2018, arXiv:1804.04235",
)


@hookimpl
def minicnn_optimizers():
    """The optimizer of this module."""
    return [ADAFACTOR]
