"""A loss at work: a rule with its hyperparameters and class weights, on rows of logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn.errors import DataError, SettingError
from minicnn.plugins import find
from minicnn.rules import LossRule, resolve


class Loss:
    """A rule with its hyperparameters, for networks of ``outputs`` logits.

    ``class_weights`` [outputs] are for rules that have them. Raises `UnknownNameError` and
    `SettingError` for a wrong name or value.

    >>> loss = Loss("cross_entropy", outputs=2)
    >>> value, dlogits = loss(np.zeros((1, 2), np.float32), np.array([0]))
    >>> print(f"{value:.4f}", dlogits)
    0.6931 [[-0.5  0.5]]
    """

    def __init__(
        self,
        rule: str | LossRule,
        outputs: int,
        class_weights: Sequence[float] | None = None,
        dtype: Any = np.float32,
        **hyperparameters: float,
    ):
        self.rule = find("loss", rule)
        values = resolve(f"loss {self.rule.name}", self.rule.hyperparameters, hyperparameters)
        self.hyperparameters: np.ndarray = np.array(
            [values[hyper.name] for hyper in self.rule.hyperparameters], dtype
        )
        if class_weights is not None and not self.rule.class_weights:
            raise SettingError(f"loss {self.rule.name} has no class_weights")
        wrong = SettingError(
            f"loss {self.rule.name}: class_weights must be {outputs} numbers above 0, one a class"
        )
        try:
            weights = np.ones(outputs) if class_weights is None else class_weights
            self.class_weights: np.ndarray = np.array(weights, dtype)
        except (TypeError, ValueError):
            raise wrong from None
        positive = np.isfinite(self.class_weights) & (self.class_weights > 0)
        if self.class_weights.shape != (outputs,) or not positive.all():
            raise wrong
        self.one_hot: np.ndarray = np.eye(outputs, dtype=dtype)

    def divisor(self, labels: np.ndarray) -> float:
        """What the summed loss of a batch is divided by: its size, or the sum of the weights of its
        classes."""
        return (
            float(self.class_weights[labels].sum())
            if self.rule.class_weights
            else float(len(labels))
        )

    def __call__(self, logits: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """(mean loss, its gradient dlogits [N, outputs]) of ``logits`` [N, outputs].

        ``targets`` are labels, integers [N], or, for a loss on target values, floats [N, outputs].
        """
        from minicnn.backends import cpu

        logits, targets = np.ascontiguousarray(logits, self.one_hot.dtype), np.asarray(targets)
        if logits.ndim != 2 or logits.shape[1] != len(self.class_weights):
            wanted = f"[N, {len(self.class_weights)}]"
            raise DataError(f"logits must be {wanted}, not {list(logits.shape)}")
        count, outputs = logits.shape
        if targets.dtype.kind in "iu" and targets.shape == (count,):
            labels, values = targets.astype(np.int64), self.one_hot
            if count and not (0 <= labels.min() and labels.max() < outputs):
                raise DataError(
                    f"labels must be from 0 to {outputs - 1}, not {labels.min()} to {labels.max()}"
                )
            divisor = self.divisor(labels)
        elif self.rule.target == "values" and targets.shape == logits.shape:
            labels, values, divisor = (
                np.arange(count),
                np.ascontiguousarray(targets, logits.dtype),
                float(count),
            )
        else:
            wanted = f"integers [{count}]" + (
                f" or floats {list(logits.shape)}" if self.rule.target == "values" else ""
            )
            raise DataError(
                f"targets of {self.rule.name} must be {wanted}, not {targets.dtype} {list(targets.shape)}"
            )
        total, dlogits = cpu.loss_rows(
            self.rule, logits, labels, values, self.class_weights, self.hyperparameters
        )
        return total / divisor, dlogits / dlogits.dtype.type(divisor)
