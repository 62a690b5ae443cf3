"""The figures of a forward-only pass over a labelled set."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn.data import Split
from minicnn.training.events import Evaluation, OutputErrors
from minicnn.training.loss import Loss

_ROWS = 4096  # images whose logits are held at once


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
    inference.logits(split.images[:1], scale)
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
