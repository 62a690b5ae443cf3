"""The figures of a forward-only pass over a labelled set."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn.training.events import Evaluation
from minicnn.training.loss import Loss

_ROWS = 4096  # images whose logits are held at once


def evaluate(
    inference: Any,
    images: np.ndarray,
    labels: np.ndarray,
    scale: float,
    classes: Sequence[str],
    loss: Loss | None,
    order: np.ndarray | None = None,
) -> Evaluation:
    """Loss, accuracy, per-class precision and recall and the confusion matrix of ``images`` (or of
    ``images[order]``).

        accuracy = correct / all       precision[c] = hits[c] / predicted as c       recall[c] = hits[c] / labelled c

    ``inference`` is a backend's `Inference`. ``loss`` None leaves the loss out. The first call's
    compile time is reported apart.
    """
    if order is None:
        order = np.arange(len(images))
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    total = divisor = 0.0
    start = time.perf_counter()
    inference.logits(images[:1], scale)
    if loss is not None:
        loss(np.zeros((1, len(classes)), inference.params.dtype), np.zeros(1, np.int64))
    compiled = time.perf_counter()
    for first in range(0, len(order), _ROWS):
        rows = order[first : first + _ROWS]
        logits, truth = inference.logits(images, scale, rows), labels[rows]
        np.add.at(confusion, (truth, logits.argmax(axis=1)), 1)
        if loss is not None:
            share = loss.divisor(truth)
            total += loss(logits, truth)[0] * share
            divisor += share
    seconds = time.perf_counter() - compiled
    hits, predicted, labelled = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return Evaluation(
        images=len(order),
        loss=None if loss is None else float(total / divisor),
        accuracy=float(hits.sum() / max(1, len(order))),
        precision=[
            float(hit / count) if count else None
            for hit, count in zip(hits, predicted, strict=True)
        ],
        recall=[
            float(hit / count) if count else None for hit, count in zip(hits, labelled, strict=True)
        ],
        confusion=confusion.tolist(),
        classes=list(classes),
        seconds=seconds,
        compile_seconds=compiled - start,
    )
