"""What a trained network gets wrong, and what its first layer looks for."""

from dataclasses import dataclass

import numpy as np

from minicnn.inference import Model


@dataclass(frozen=True)
class Mistake:
    """An image whose most likely class is not its own: its index in the set, both classes, their
    probabilities."""

    index: int
    label: int
    predicted: int
    probability: float  # of the predicted class
    probability_of_label: float


def confident_mistakes(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    count: int = 16,
    maximum: float | None = None,
    tta: str | None = None,
) -> list[Mistake]:
    """The ``count`` wrongly classified images that ``model`` is most certain of, the most certain
    one first.

    ``images`` [N, H, W, C], ``maximum`` and ``tta`` are as for `Model.evaluate`, ``labels`` int64 [N].
    """
    probabilities = model.predict_proba(images, maximum, tta)
    predicted = probabilities.argmax(axis=1)
    certainty = probabilities[np.arange(len(labels)), predicted]
    wrong = np.flatnonzero(predicted != labels)
    first = wrong[np.argsort(-certainty[wrong], kind="stable")][:count]
    return [
        Mistake(
            int(i),
            int(labels[i]),
            int(predicted[i]),
            float(certainty[i]),
            float(probabilities[i, labels[i]]),
        )
        for i in first
    ]


def first_layer_filters(model: Model) -> tuple[str, np.ndarray] | None:
    """(name, filters [K, R, S, C]) of the first layer that has weights; None when no layer has.

    A convolution has its kernels, and a dense layer the weights of each of its units, in the shape
    of the image they are applied to.
    """
    for name, weight in model.weights.items():
        if weight.ndim == 4:
            return name, weight.transpose(3, 0, 1, 2)
        if weight.ndim == 2:
            (layer,) = (spec.layer for spec in model.network.parameters if spec.name == name)
            image = [shape for shape in model.network.shapes[: layer + 1] if len(shape) == 3][-1]
            return name, weight.T.reshape(-1, *image)
    return None


def tiles(images: np.ndarray, columns: int, gap: float = np.nan) -> np.ndarray:
    """``images`` [K, H, W, C] side by side, ``columns`` in a row, with lines of ``gap`` between
    them: [rows, columns, C]."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), gap)
    for k, image in enumerate(images):
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        grid[top : top + height, left : left + width] = image
    return grid
