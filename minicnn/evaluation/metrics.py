"""The figures of a forward-only pass over a labelled set."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minicnn.data import Split
from minicnn.evaluation.loss import Loss

_ROWS = 4096  # images whose logits are held at once


@dataclass(frozen=True)
class OutputErrors:
    """How far the values of one output are from their targets; ``r2`` is None where all targets
    are equal."""

    name: str
    r2: float | None  # 1 − Σ (x − t)² / Σ (t − mean of t)²
    mae: float  # mean of |x − t|
    rmse: float  # root of the mean of (x − t)²


@dataclass(frozen=True)
class Evaluation:
    """The figures of a forward-only pass over a labelled set of ``images`` images.

    Of classes: ``confusion[i][j]`` counts the images of class i that were predicted as class j;
    ``precision`` and ``recall`` have one entry a class, None where the divisor is zero. Of several
    labels an image: ``precision`` and ``recall`` have one entry a label, ``labelled`` counts its
    images, and ``accuracy`` is the share of all answers, label by label, that are right. Of values:
    ``errors`` has one entry an output, and ``accuracy`` is NaN. ``loss`` is None when the loss is
    not known. With sample weights every count and every mean is weighted.
    """

    images: int
    loss: float | None
    accuracy: float
    precision: list[float | None]
    recall: list[float | None]
    confusion: list[list[float]]
    classes: list[str]
    seconds: float
    compile_seconds: float
    labelled: list[float] = field(default_factory=list)
    errors: list[OutputErrors] = field(default_factory=list)

    @property
    def f1(self) -> list[float | None]:
        """2 · hits / (labelled + predicted) of each class or label, the harmonic mean of precision
        and recall; None of no image."""
        return [
            None if p is r is None else 2 * (p or 0) * (r or 0) / ((p or 0) + (r or 0) or 1)
            for p, r in zip(self.precision, self.recall, strict=True)
        ]

    @property
    def by_class(self) -> list[tuple[str, float, float | None, float | None, float | None]]:
        """(name, images, precision, recall, F1) of each class or label; none of values."""
        images = [sum(row) for row in self.confusion] or self.labelled
        return list(zip(self.classes, images, self.precision, self.recall, self.f1, strict=False))

    @property
    def images_per_second(self) -> float:
        """Images a second, compile time left out."""
        return self.images / self.seconds if self.seconds > 0 else float("inf")


def evaluate(
    inference: Any,
    split: Split,
    scale: float | np.ndarray,
    classes: Sequence[str],
    loss: Loss | None,
    order: np.ndarray | None = None,
    task: str = "classification",
) -> Evaluation:
    """The figures of ``split`` (or of its images ``order``); see `Evaluation` for those of a task.

        accuracy = correct / all       precision[c] = hits[c] / predicted as c       recall[c] = hits[c] / labelled c

    ``inference`` is a backend's `Inference`. ``loss`` None leaves the loss out. The first call's
    compile time is reported apart.
    """
    if order is None:
        order = np.arange(len(split))
    labels, weights = split.labels[order], split.weights
    outputs = np.empty((len(order), len(classes)), inference.params.dtype)
    total = divisor = 0.0
    start = time.perf_counter()
    inference.logits(split.images[:2], scale)  # one alone is computed by other functions
    if loss is not None:
        loss(np.zeros_like(outputs[:1]), split.labels[:1])
    compiled = time.perf_counter()
    for first in range(0, len(order), _ROWS):
        rows = slice(first, first + _ROWS)
        outputs[rows] = inference.logits(split.images, scale, order[rows])
        if loss is not None:
            of_rows = None if weights is None else weights[order[rows]]
            part = loss.divisor(labels[rows], of_rows)
            total += loss(outputs[rows], labels[rows], of_rows)[0] * part
            divisor += part
    seconds = time.perf_counter() - compiled
    weights = None if weights is None else weights[order].astype(np.float64)
    figures = {"classification": _of_classes, "multilabel": _of_labels, "regression": _of_values}
    return Evaluation(
        images=len(order),
        loss=None if loss is None else float(total / divisor),
        classes=list(classes),
        seconds=seconds,
        compile_seconds=compiled - start,
        **figures[task](outputs, labels, weights, classes),
    )


def _of_classes(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, classes: Sequence[str]
) -> dict[str, Any]:
    confusion = np.zeros((len(classes), len(classes)), np.int64 if weights is None else np.float64)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1 if weights is None else weights)
    hits = np.diag(confusion)
    return {
        "accuracy": float(hits.sum() / (confusion.sum() or 1)),
        "precision": _shares(hits, confusion.sum(axis=0)),
        "recall": _shares(hits, confusion.sum(axis=1)),
        "confusion": confusion.tolist(),
    }


def _of_labels(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, classes: Sequence[str]
) -> dict[str, Any]:
    said, true = logits > 0, labels > 0.5  # the sigmoid of 0 is 1/2
    of = np.ones(len(labels), np.int64) if weights is None else weights
    hits = of @ (said & true)
    return {
        "accuracy": float((of @ (said == true)).sum() / (of.sum() * len(classes) or 1)),
        "precision": _shares(hits, of @ said),
        "recall": _shares(hits, of @ true),
        "confusion": [],
        "labelled": (of @ true).tolist(),
    }


def _shares(hits: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)]


def _of_values(
    outputs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, classes: Sequence[str]
) -> dict[str, Any]:
    errors, targets = outputs.astype(np.float64) - labels, labels.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.average(values, axis=0, weights=weights)

    squared, spread = mean(errors**2), mean((targets - mean(targets)) ** 2)
    r2 = [1 - square / of if of > 0 else None for square, of in zip(squared, spread, strict=True)]
    of_each = zip(classes, r2, mean(abs(errors)), np.sqrt(squared), strict=True)
    return {
        "accuracy": float("nan"),
        "precision": [],
        "recall": [],
        "confusion": [],
        "errors": [
            OutputErrors(name, None if r is None else float(r), float(mae), float(rmse))
            for name, r, mae, rmse in of_each
        ],
    }
