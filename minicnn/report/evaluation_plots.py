"""Pictures of an evaluation: the confusion matrix, the mistakes, and the filters of the first
layer."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minicnn.insight.mistakes import Mistake, tiles
from minicnn.report.plots import MATRIX, figure
from minicnn.training.events import Evaluation

if TYPE_CHECKING:
    from minicnn.report.plots import Figure

MOST_NAMES = 20  # of classes, on an axis; with more classes there is no room for numbers
MOST_FILTERS = 64


def confusion_matrix(evaluation: Evaluation) -> "Figure":
    """The images of each class by the class that was predicted; colours are shares of the row, so
    of the true class."""
    counts, classes = np.array(evaluation.confusion), evaluation.classes
    drawn = figure(height=6.8)
    axes = drawn.subplots()
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=MATRIX, vmin=0, vmax=100)
    named = range(0, len(classes), -(-len(classes) // MOST_NAMES))
    names = [textwrap.shorten(classes[i], 18, placeholder="…") for i in named]
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
                color="black" if shares[i, j] > 50 else "white",
            )
    drawn.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
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
    drawn = figure(height=0.5 + 2.5 * rows)
    drawn.suptitle(
        "The most confident mistakes: predicted class, true class, number in the set", fontsize=11
    )
    for place, mistake in enumerate(found, 1):
        axes = drawn.add_subplot(rows, columns, place)
        image = images[mistake.index] / maximum
        axes.imshow(
            image if image.shape[2] == 3 else image.mean(axis=2), cmap="gray", vmin=0, vmax=1
        )
        text = (
            f"{classes[mistake.predicted]} {100 * mistake.probability:.1f} %",
            f"not {classes[mistake.label]} (#{mistake.index})",
        )
        axes.set_title(
            "\n".join(textwrap.shorten(line, 26, placeholder="…") for line in text), fontsize=10
        )
        axes.set(xticks=[], yticks=[])
    return drawn


def filters(name: str, weights: np.ndarray) -> "Figure":
    """The filters [K, R, S, C] of a layer: one channel on a colour scale, three as red, green and
    blue, others in a row."""
    shown, largest = weights[:MOST_FILTERS], float(np.abs(weights).max()) or 1.0
    if shown.shape[3] not in (1, 3):
        shown = shown.transpose(0, 1, 3, 2).reshape(*shown.shape[:2], -1, 1)
    columns = max(
        1, min(len(shown), round((2 * len(shown) * shown.shape[1] / shown.shape[2]) ** 0.5))
    )
    grid = tiles(shown, columns)
    drawn = figure(height=min(8.0, 1.2 + 6.4 * grid.shape[0] / grid.shape[1]))
    axes = drawn.subplots()
    if grid.shape[2] == 3:
        axes.imshow(np.nan_to_num(0.5 + 0.5 * grid / largest, nan=1.0))
    else:
        image = axes.imshow(grid[..., 0], cmap=MATRIX, vmin=-largest, vmax=largest)
        drawn.colorbar(image, ax=axes, label="weight", shrink=0.8)
    axes.set_axis_off()
    axes.set_title(f"{name}: {len(shown)} of {len(weights)} filters")
    return drawn
