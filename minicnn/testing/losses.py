"""The conformance kit for losses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import types

from minicnn.kernels.cpu.rules import compile_loss
from minicnn.rules import LossRule
from minicnn.testing import training
from minicnn.testing.checks import Check, Failed, close, declared, run_checks, without_float64
from minicnn.testing.on_cuda import works_on_cuda
from minicnn.training.loss import Loss

_OUTPUTS = 5


def check_loss(rule: LossRule) -> list[Check]:
    """Put a loss through the conformance kit: against plain Python, float64, numeric derivatives,
    and in a training."""
    checks: dict[str, Callable[[], str]] = {
        "declaration": lambda: declared(rule, rule.row, leading=3 + rule.class_weights),
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
    return run_checks(checks)


def _batch(samples: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return 2.0 * rng.normal(size=(samples, _OUTPUTS)).astype(np.float32), rng.integers(
        0, _OUTPUTS, samples
    )


def _weights(rule: LossRule) -> np.ndarray | None:
    return np.linspace(0.5, 2.0, _OUTPUTS) if rule.class_weights else None


def _loss(rule: LossRule, dtype: Any) -> Loss:
    return Loss(rule, _OUTPUTS, _weights(rule), dtype)  # type: ignore[arg-type]


def _equals_plain_python(rule: LossRule) -> str:
    logits, labels = _batch()
    loss = _loss(rule, np.float64)
    value, dlogits = loss(logits, labels)
    total, expected = 0.0, np.full(logits.shape, np.nan)  # every element must be written
    for row, label, slope in zip(logits.astype(np.float64), labels, expected, strict=True):
        target = label if rule.target == "label" else loss.one_hot[label]
        weights = [loss.class_weights] if rule.class_weights else []
        total += float(rule.row(row, target, slope, *weights, *loss.hyperparameters))
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
        raise Failed("the loss does not depend on the logits")
    return close("gradient", dlogits, numeric, 1e-6, float(np.abs(numeric).max()))


def _extreme(rule: LossRule) -> str:
    e = 1e4
    rows = [[e, -e, 0, 1, -1], [-e, -e, -e, -e, -e], [e, e, 9999, 0, 0], [e, e, e, e, e]]
    loss = _loss(rule, np.float32)
    for row in rows:
        for label in range(_OUTPUTS):
            value, dlogits = loss(np.array([row]), np.array([label]))
            if not (np.isfinite(value) and np.isfinite(dlogits).all()):
                raise Failed(
                    f"loss {value:g}, gradient {dlogits[0].tolist()} for logits {row} and label {label}"
                )
    return "logits up to ±10,000 give finite numbers"


def _permuted(rule: LossRule) -> str:
    logits, labels = _batch(40)
    loss = _loss(rule, np.float32)
    order = np.random.default_rng(0).permutation(40)
    (value, dlogits), (other, permuted) = loss(logits, labels), loss(logits[order], labels[order])
    if dlogits[order].tobytes() != permuted.tobytes():
        raise Failed("the gradient of a sample depends on the samples before it")
    return close("loss", other, value, 1e-6)
