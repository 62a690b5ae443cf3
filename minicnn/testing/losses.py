"""The conformance kit for losses."""

from functools import partial
from typing import Any

import numpy as np
from numba import types

from minicnn.evaluation.loss import Loss
from minicnn.kernels.cpu.rules import compile_loss
from minicnn.rules import LossRule
from minicnn.testing import training
from minicnn.testing.checks import (
    PLAIN,
    CheckFailed,
    Checks,
    close,
    declared,
    read_only,
    without_float64,
)
from minicnn.testing.on_cuda import works_on_cuda

_OUTPUTS, _E = 5, 1e4
_EXTREME = [[_E, -_E, 0, 1, -1], [-_E] * 5, [_E, _E, 9999, 0, 0], [_E] * 5]


def checks_of_loss(rule: LossRule) -> Checks:
    """The checks of a loss: against plain Python, float64, numeric derivatives, and in a training
    run."""
    return {
        "declaration": lambda: declared(rule, rule.row, leading=3 + rule.class_weights),
        PLAIN: partial(_plain, rule),
        "compiled equals plain Python": partial(_equals_plain_python, rule),
        "float32 equals float64": partial(_equals_float64, rule),
        "no float64 arithmetic in float32": partial(_without_float64, rule),
        "numeric derivatives": partial(_derivatives, rule),
        "extreme logits": partial(_extreme, rule),
        "permuted samples": partial(_permuted, rule),
        "training": partial(training.learns, loss=rule),
        "resume": partial(training.resumes, loss=rule),
        "no recompilation": partial(training.compiles_once, loss=rule),
        "CUDA": partial(works_on_cuda, rule),
    }


def _batch(samples: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return 2.0 * rng.normal(size=(samples, _OUTPUTS)).astype(np.float32), rng.integers(
        0, _OUTPUTS, samples
    )


def _weights(rule: LossRule) -> np.ndarray | None:
    return np.linspace(0.5, 2.0, _OUTPUTS) if rule.class_weights else None


def _loss(rule: LossRule, dtype: Any) -> Loss:
    return Loss(rule, _OUTPUTS, _weights(rule), dtype)  # type: ignore[arg-type]


def _in_plain_python(rule: LossRule, logits: np.ndarray, labels: Any) -> tuple[float, np.ndarray]:
    """(sum of the losses, gradients) of the rows, in float64; what the row may only read raises
    where it writes."""
    loss = _loss(rule, np.float64)
    total, gradients = 0.0, np.full(logits.shape, np.nan)  # every element must be written
    for row, label, gradient in zip(logits, labels, gradients, strict=True):
        target = label if rule.target == "label" else read_only(loss.one_hot[label])[0]
        weights = read_only(loss.class_weights) if rule.class_weights else []
        (row,) = read_only(row.astype(np.float64))
        total += float(rule.row(row, target, gradient, *weights, *loss.hyperparameters))
    return total, gradients


def _plain(rule: LossRule) -> str:
    rows, _ = _batch()
    for label in range(_OUTPUTS):
        _in_plain_python(rule, rows, [label] * len(rows))
    return f"{len(rows)} rows of logits with each of {_OUTPUTS} labels stay inside their arrays"


def _equals_plain_python(rule: LossRule) -> str:
    logits, labels = _batch()
    loss = _loss(rule, np.float64)
    value, dlogits = loss(logits, labels)
    total, expected = _in_plain_python(rule, logits, labels)
    divisor = loss.divisor(labels)
    close("gradient", dlogits, expected / divisor, 1e-10)
    return close("loss of a batch in float64", value, total / divisor, 1e-10)


def _equals_float64(rule: LossRule) -> str:
    batch = _batch()
    single, double = _loss(rule, np.float32)(*batch), _loss(rule, np.float64)(*batch)
    close("gradient", single[1], double[1], 1e-5)
    return close("loss of a batch", single[0], double[0], 1e-5)


def _without_float64(rule: LossRule) -> str:
    vector = types.float32[::1]
    target = types.int64 if rule.target == "label" else vector
    hypers = [types.float32] * len(rule.hyperparameters)
    return without_float64(
        compile_loss(rule, np.float32),
        vector,
        target,
        vector,
        *[vector] * rule.class_weights,
        *hypers,
    )


def _derivatives(rule: LossRule) -> str:
    logits, labels = _batch()
    logits = logits.astype(np.float64)
    loss, step = _loss(rule, np.float64), 1e-6
    _, dlogits = loss(logits, labels)
    numeric = np.empty_like(logits)
    for i in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[i] += step
        down[i] -= step
        numeric[i] = (loss(up, labels)[0] - loss(down, labels)[0]) / (2 * step)
    if not np.abs(numeric).max() > 1e-6:
        raise CheckFailed("the loss does not depend on the logits")
    return close("gradient", dlogits, numeric, 1e-6, float(np.abs(numeric).max()))


def _extreme(rule: LossRule) -> str:
    loss = _loss(rule, np.float32)
    for row in _EXTREME:
        for label in range(_OUTPUTS):
            value, dlogits = loss(np.array([row]), np.array([label]))
            if not (np.isfinite(value) and np.isfinite(dlogits).all()):
                raise CheckFailed(
                    f"loss {value:g}, gradient {dlogits[0].tolist()} for logits {row} and label {label}"
                )
    return "logits up to ±10,000 give finite numbers"


def _permuted(rule: LossRule) -> str:
    logits, labels = _batch(40)
    loss = _loss(rule, np.float32)
    order = np.random.default_rng(0).permutation(40)
    (value, dlogits), (other, permuted) = loss(logits, labels), loss(logits[order], labels[order])
    if dlogits[order].tobytes() != permuted.tobytes():
        raise CheckFailed("the gradient of a sample depends on the samples before it")
    return close("loss", other, value, 1e-6)
