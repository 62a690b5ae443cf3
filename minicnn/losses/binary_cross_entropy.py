"""Binary cross entropy of the sigmoid of each output, mean over the outputs; sigmoid and logarithm are fused.

    L = (1/K) Σₖ − tₖ log σ(xₖ) − (1 − tₖ) log(1 − σ(xₖ)) = (1/K) Σₖ max(xₖ, 0) − xₖ tₖ + log(1 + e^−|xₖ|)
    ∂L/∂xₖ = (σ(xₖ) − tₖ) / K

The second form never takes the exponential of a positive number.

Source: D. R. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical Society B 20 (1958),
215-242.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import LossRule


def row(logits, target, dlogits):
    total = 0.0
    count = 0.0  # counted as a float: an integer would make float64 of all that it touches
    for k in range(len(logits)):
        x = logits[k]
        small = math.exp(-abs(x))
        sigmoid = (1.0 if x >= 0.0 else small) / (1.0 + small)
        dlogits[k] = sigmoid - target[k]
        total += max(x, 0.0) - x * target[k] + math.log1p(small)
        count += 1.0
    for k in range(len(logits)):
        dlogits[k] /= count
    return total / count


BINARY_CROSS_ENTROPY = LossRule(
    name="binary_cross_entropy",
    row=row,
    target="values",
    probabilities="sigmoid",
    equation="L = (1/K) Σₖ − tₖ log σ(xₖ) − (1 − tₖ) log(1 − σ(xₖ))",
    source="Cox 1958",
)


@hookimpl
def minicnn_losses():
    return [BINARY_CROSS_ENTROPY]
