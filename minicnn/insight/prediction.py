"""The loss as the texts first show it: C as a function of the prediction for the true class, and
its derivative."""

from dataclasses import dataclass

import numpy as np

from minicnn.evaluation.loss import Loss

_ENDS = 0.02, 0.98  # the probabilities that are shown; the derivative has no bound at 0


@dataclass(frozen=True, eq=False)
class LossCurve:
    """C and dC/da [points] over the prediction a for the true class, and the samples of a batch:
    their a and C [N].

    ``prediction`` says what a is: "softmax" or "sigmoid" probability, or "output" for a loss on the
    outputs themselves.
    """

    loss: str
    prediction: str
    values: np.ndarray
    losses: np.ndarray
    derivatives: np.ndarray
    sample_values: np.ndarray
    sample_losses: np.ndarray


def loss_curve(
    loss: Loss,
    logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    points: int = 197,
) -> LossCurve:
    """The curve of ``loss``, with the samples that have ``logits`` [N, K] and ``labels`` [N]
    marked.

    All other classes share the rest, (1 − a) / (K − 1) each, so that the logits z follow from a,
    and by the chain rule

        dC/da = Σ_k ∂C/∂z_k · dz_k/da        softmax: z_k = log a_k;  sigmoid: z_k = log(a_k / (1 − a_k));  output: z_k = a_k
    """
    outputs, rule = len(loss.class_weights), loss.rule
    kind = (
        "output"
        if rule.target == "values" and rule.probabilities == "softmax"
        else rule.probabilities
    )
    logits = np.empty((0, outputs)) if logits is None else np.asarray(logits, np.float64)
    labels = np.empty(0, np.int64) if labels is None else labels
    true = np.arange(len(labels)), labels
    if kind == "softmax":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        predicted = powers[true] / powers.sum(axis=1)
    else:
        predicted = logits[true] if kind == "output" else 1 / (1 + np.exp(-logits[true]))
    low, high = (min([0.0, *predicted]), max([1.0, *predicted])) if kind == "output" else _ENDS
    a = np.linspace(low, high, points)
    part = np.full((points, outputs), 1.0 / max(1, outputs - 1))
    part[:, 0] = -1
    each = np.where(part < 0, a[:, None], (1 - a[:, None]) * part)  # class 0 is the true one
    by_a = -part
    if kind == "softmax":
        z, by_a = np.log(each), by_a / each
    elif kind == "sigmoid":
        z, by_a = np.log(each / (1 - each)), by_a / (each * (1 - each))
    else:
        z = each
    losses, dlogits = _each_alone(loss, z, np.zeros(points, np.int64))
    marked, _ = _each_alone(loss, logits, labels)
    return LossCurve(rule.name, kind, a, losses, (dlogits * by_a).sum(axis=1), predicted, marked)


def _each_alone(
    loss: Loss, logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(loss [N], its gradient [N, K]) of each row as a batch of one."""
    logits = logits.astype(loss.one_hot.dtype)
    rows = [loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
    dlogits = np.array([gradient[0] for _, gradient in rows]).reshape(logits.shape)
    return np.array([value for value, _ in rows]), dlogits
