"""Pictures of an evaluation: the confusion matrix, the mistakes, and the filters of the first
layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minicnn.evaluation.metrics import Evaluation
from minicnn.insight.mistakes import Mistake, tiles
from minicnn.report.plots import MATRIX, WEIGHTS, figure, shown

if TYPE_CHECKING:
    from minicnn.report.plots import Figure

MOST_NAMES = 20  # of classes, on an axis; with more classes there is no room for numbers
MOST_FILTERS = 64


def confusion_matrix(evaluation: Evaluation) -> "Figure":
    """The images of each class by the class that was predicted; colours are percentages of the
    row, so of the true class."""
    counts, classes = np.array(evaluation.confusion), evaluation.classes
    drawn = figure(height=6.8)
    axes = drawn.subplots()
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(percent, cmap=MATRIX, vmin=0, vmax=100)
    named = range(0, len(classes), -(-len(classes) // MOST_NAMES))
    names = [shown(classes[i], 18) for i in named]
    axes.set_xticks(named, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(named, names)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(classes) <= MOST_NAMES:
        for i, j in np.ndindex(*counts.shape):
            axes.text(
                j,
                i,
                f"{counts[i, j]}",
                ha="center",
                va="center",
                fontsize=9,
                color="black" if percent[i, j] > 50 else "white",
            )
    drawn.colorbar(image, ax=axes, label="part of the images of the true class (%)", shrink=0.8)
    axes.set_title(
        f"Confusion matrix: {evaluation.images:,} images, accuracy {100 * evaluation.accuracy:.1f} %"
    )
    return drawn


def worst_mistakes(
    images: np.ndarray, found: Sequence[Mistake], classes: Sequence[str], maximum: float
) -> "Figure":
    """The images [N, H, W, C] of the mistakes, each with the predicted class, its probability, and
    the true class."""
    columns = 4
    rows = -(-len(found) // columns)
    drawn = figure(
        "The most confident mistakes: predicted class and its probability,\n"
        "true class and number in the test set",
        height=0.8 + 2.5 * rows,
    )
    for place, mistake in enumerate(found, 1):
        axes = drawn.add_subplot(rows, columns, place)
        image = images[mistake.index] / maximum
        axes.imshow(
            image if image.shape[2] == 3 else image.mean(axis=2), cmap="gray", vmin=0, vmax=1
        )
        axes.set_title(
            f"{shown(classes[mistake.predicted], 14)} {100 * mistake.probability:.1f} %\n"
            f"not {shown(classes[mistake.label], 14)} (#{mistake.index})",
            fontsize=10,
        )
        axes.set(xticks=[], yticks=[])
    return drawn


def filters(name: str, weights: np.ndarray) -> "Figure":
    """The filters [K, R, S, C] of a layer: three channels as red, green and blue, any other number
    on a colour scale, in a row."""
    first = weights[:MOST_FILTERS]
    largest = float(np.abs(weights).max()) or 1.0
    if first.shape[3] not in (1, 3):
        first = first.transpose(0, 1, 3, 2).reshape(*first.shape[:2], -1, 1)
    wide = (2 * len(first) * first.shape[1] / first.shape[2]) ** 0.5
    columns = max(1, min(len(first), round(wide)))
    grid = tiles(first, columns)
    drawn = figure(height=min(8.0, 1.4 + 6.4 * grid.shape[0] / grid.shape[1]))
    axes = drawn.subplots()
    title = f"Filters of {name}: {len(first)} of {len(weights)}"
    if grid.shape[2] == 3:
        axes.imshow(np.nan_to_num(0.5 + 0.5 * grid / largest, nan=1.0))
        title += f", red, green and blue from {-largest:.2g} to {largest:.2g}"
    else:
        axes.set_facecolor("0.4")  # between the filters, and unlike any weight
        image = axes.imshow(grid[..., 0], cmap=WEIGHTS, vmin=-largest, vmax=largest)
        drawn.colorbar(image, ax=axes, label="weight", shrink=0.8)
    axes.set(xticks=[], yticks=[], title=title)
    return drawn
