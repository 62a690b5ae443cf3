"""Test-time augmentation: what a network says of an image, averaged over views of it.

The views are the image, or with "shift" the mean of it (weight 1/2) and of the two that are moved by
a pixel up and left, and down and right (1/4 each; the border is reflected). With "flip" each of
these counts half, its mirror image the other half; "both" makes six views. The outputs are averaged
and not the probabilities, so that the loss, the classes and predicted values are all those of one
mean; the softmax of it is the geometric mean of the views' probabilities, normalized.

Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024,
https://arxiv.org/abs/2404.00498, multi-crop evaluation.

A mirror image is another thing than the image where the network has learnt no mirror images: a 2 is
none. So "auto" is "both" for a network that was trained with ``flip``, and else "shift".
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minicnn.data.labels import Array
from minicnn.errors import SettingError

TTA = ("flip", "shift", "both")
_ROWS = 1024  # images whose views are made together


def tta_views(images: Array, tta: str) -> Iterator[tuple[float, Array]]:
    """(weight, images [N, H, W, C]) of each view; the weights add up to 1."""
    height, width = images.shape[1:3]
    moved = [(1.0, images)]
    if tta != "flip":
        wide = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        corners = wide[:, :height, :width], wide[:, 2:, 2:]
        moved = [(0.5, images), *((0.25, corner) for corner in corners)]
    for weight, view in moved:
        if tta == "shift":
            yield weight, view
        else:
            yield weight / 2, view
            yield weight / 2, view[:, :, ::-1]


def suited(tta: str, training: Mapping[str, Any]) -> str:
    """``tta``, or what "auto" means for a model whose ``training`` says how it was made."""
    if tta != "auto":
        return tta
    return "both" if (training.get("settings", {}).get("augment") or {}).get("flip") else "shift"


class Averaged:
    """A backend's ``inference`` whose outputs are averaged over the views of ``tta``, one of `TTA`;
    raises `SettingError` for another word."""

    def __init__(self, inference: Any, tta: str):
        if tta not in TTA:
            raise SettingError(f"tta must be auto, {', '.join(TTA)} or None, not {tta!r}")
        self.inference, self.tta, self.params = inference, tta, inference.params

    def logits(self, images: Array, scale: float | Array, order: Array | None = None) -> Array:
        """The averaged outputs [N, outputs] of ``images`` [N, H, W, C], or of ``images[order]``."""
        order = np.arange(len(images)) if order is None else order
        parts = [order[first : first + _ROWS] for first in range(0, len(order), _ROWS)] or [order]
        return np.concatenate([self._mean(images[rows], scale) for rows in parts])

    def _mean(self, images: Array, scale: float | Array) -> Array:
        total: Any = 0
        for weight, view in tta_views(images, self.tta):
            total = total + weight * self.inference.logits(np.ascontiguousarray(view), scale)
        return np.asarray(total)
