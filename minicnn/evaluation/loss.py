"""The loss of rows of logits: a rule with its hyperparameters and class weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minicnn.backends import RunInputs
from minicnn.errors import DataError, SettingError, check_known
from minicnn.plugins import find
from minicnn.rules import LossRule, resolve


def class_weights(
    setting: str | list[float] | dict[Any, float] | None, labels: np.ndarray, classes: Sequence[str]
) -> list[float] | None:
    """The weights, one of each of ``classes``, that the setting means for images with ``labels``.

    "balanced" is images / (classes · images of the class), so that the mean over the images is 1; a
    table has numbers of some classes, and the others have 1.
    Raises `UnknownNameError` for the name of no class.
    """
    if setting == "balanced" and labels.ndim == 1:
        counts = np.bincount(labels, minlength=len(classes))
        return [len(labels) / (len(classes) * max(int(count), 1)) for count in counts]
    if isinstance(setting, dict):
        named = {str(name): weight for name, weight in setting.items()}
        check_known("class", named, classes)
        return [named.get(name, 1.0) for name in classes]
    return [1.0] * len(classes) if isinstance(setting, str) else setting


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
            f"loss {self.rule.name}: class_weights must be {outputs} numbers above 0, one per class"
        )
        try:
            weights = np.ones(outputs) if class_weights is None else class_weights
            self.class_weights: np.ndarray = np.array(weights, dtype)
        except (TypeError, ValueError):
            raise wrong from None
        positive = np.isfinite(self.class_weights) & (self.class_weights > 0)
        if self.class_weights.shape != (outputs,) or not positive.all():
            raise wrong
        # The target values of each class; with no column where the rule does not read them.
        self.one_hot: np.ndarray = (
            np.eye(outputs, dtype=dtype)
            if self.rule.target == "values"
            else np.empty((outputs, 0), dtype)
        )

    def table(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64 [N], table): ``table[rows[i]]`` are the target values of sample i.

        ``labels`` are class numbers [N], or the target values [N, outputs] themselves.
        """
        if labels.ndim == 1:
            return labels, self.one_hot
        return np.arange(len(labels)), np.ascontiguousarray(labels, self.one_hot.dtype)

    def data(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        scale: float | np.ndarray,
        sample_weights: np.ndarray | None = None,
    ) -> RunInputs:
        """What a training step reads: ``images`` [N, ...] with ``labels`` as `table` takes them."""
        rows, table = self.table(labels)
        loss = self.class_weights, self.hyperparameters
        return RunInputs(images.reshape(len(images), -1), rows, scale, table, *loss, sample_weights)

    def divisor(self, labels: np.ndarray, sample_weights: np.ndarray | None = None) -> float:
        """The number that the summed loss of a batch is divided by: the sum over its samples of the
        weight of the sample times that of its class, which are 1 by default."""
        weights = np.ones(len(labels)) if sample_weights is None else sample_weights
        if self.rule.class_weights and labels.ndim == 1:
            weights = weights * self.class_weights[labels]
        # A batch of samples that do not count has a gradient of 0 and not NaN.
        return float(weights.sum()) or 1e-30

    def check(self, shape: tuple[int, ...], targets: ArrayLike) -> np.ndarray:
        """``targets`` of logits of this ``shape`` as an array; raises `DataError` for what the loss
        cannot take."""
        targets = np.asarray(targets)
        if len(shape) != 2 or shape[1] != len(self.class_weights):
            raise DataError(f"logits must be [N, {len(self.class_weights)}], not {list(shape)}")
        count, outputs = shape
        if targets.dtype.kind in "iu" and targets.shape == (count,):
            labels = targets.astype(np.int64)
            if count and not (0 <= labels.min() and labels.max() < outputs):
                raise DataError(
                    f"labels must be from 0 to {outputs - 1}, not {labels.min()} to {labels.max()}"
                )
            return labels
        if self.rule.target == "values" and targets.shape == shape:
            return targets
        wanted = f"integers [{count}]" + (
            f" or floats {list(shape)}" if self.rule.target == "values" else ""
        )
        raise DataError(
            f"targets of {self.rule.name} must be {wanted}, not {targets.dtype} {list(targets.shape)}"
        )

    def __call__(
        self, logits: np.ndarray, targets: np.ndarray, sample_weights: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """(mean loss, its gradient dlogits [N, outputs]) of ``logits`` [N, outputs].

        ``targets`` are labels, integers [N], or, for a loss on target values, floats [N, outputs].
        The mean is weighted by ``sample_weights`` [N].
        """
        from minicnn.backends import cpu

        logits = np.ascontiguousarray(logits, self.one_hot.dtype)
        labels = self.check(logits.shape, targets)
        if sample_weights is not None:
            sample_weights = np.ascontiguousarray(sample_weights, logits.dtype)
            if sample_weights.shape != labels.shape[:1] or not np.isfinite(sample_weights).all():
                raise DataError(
                    f"sample_weights must be {len(labels)} finite numbers, not {list(sample_weights.shape)}"
                )
        rows, table = self.table(labels)
        total, dlogits = cpu.batch_loss(
            self.rule,
            logits,
            rows,
            table,
            self.class_weights,
            self.hyperparameters,
            sample_weights,
        )
        divisor = self.divisor(labels, sample_weights)
        return total / divisor, dlogits / dlogits.dtype.type(divisor)
