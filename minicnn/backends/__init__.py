"""Backends own the buffers of a device and launch its kernels. Both have the same names; `backend` gives one of them.

A vector is a flat array on the device: on the CPU NumPy's own, so that ``vector`` and ``fetch`` copy nothing there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from minicnn.errors import SettingError

if TYPE_CHECKING:
    import numpy as np

DEVICES = ("cpu", "cuda")


def backend(device: str) -> Any:
    """The backend of ``device``, cpu or cuda; raises `DeviceError`, which says what is missing, if it cannot be used."""
    if device not in DEVICES:
        raise SettingError(f"device must be {' or '.join(DEVICES)}, not {device!r}")
    module = importlib.import_module(f"minicnn.backends.{device}")
    module.check_usable()
    return module


class Data(NamedTuple):
    """What is the same in all steps of a run."""

    images: np.ndarray  # [N, H·W·C], uint8 or the dtype of the parameters
    labels: np.ndarray  # int64 [N]
    scale: float  # of the images
    targets: np.ndarray  # [classes, outputs]: the target values of each label
    class_weights: np.ndarray  # [outputs]
    hyperparameters: np.ndarray  # of the loss


class Batch(NamedTuple):
    """What is another in every step."""

    order: np.ndarray  # int64 [batch]: which images
    divisor: float  # turns the summed loss into the mean
    key: int  # the seed of this step's dropout
    scalars: np.ndarray  # of an elementwise optimizer, from its ``prepare``


class StepResult(NamedTuple):
    """What one training step reports; the parameters changed only if ``loss`` and ``gradient_norm`` are finite."""

    loss: float  # mean over the batch
    correct: int
    gradient_norm: float  # global L2 norm before clipping
