"""Backends own the buffers of a device and launch its kernels. The two have the same interface;
`backend` returns one of them.

A vector is a flat array on the device: on the CPU NumPy's own, so that ``to_device`` and
``to_host`` copy nothing there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

from minicnn.errors import DeviceError, PluginError, SettingError

if TYPE_CHECKING:
    import numpy as np

DEVICES = ("cpu", "cuda")
LEAST_CAPABILITY = (7, 5)  # that CUDA 13 compiles for


def check_device(device: str) -> None:
    """Raise `DeviceError`, which says what is missing, if ``device`` cannot be used. For the CPU
    nothing is imported."""
    if device not in DEVICES:
        raise SettingError(f"device must be {' or '.join(DEVICES)}, not {device!r}")
    if (reason := missing(device)) is not None:
        raise DeviceError(f"device {device} cannot be used: {reason}")


def backend(device: str) -> Any:
    """The backend of ``device``, cpu or cuda; raises `DeviceError` if it cannot be used."""
    check_device(device)
    return importlib.import_module(f"minicnn.backends.{device}")


def missing(device: str) -> str | None:
    """What keeps ``device`` from being used, and how to get it; None if nothing does."""
    if device == "cpu":
        return None
    install = "pip install 'minicnn-numba[cuda]'"
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is missing: {install}"
    try:
        cuda = importlib.import_module("numba.cuda")
    except Exception as error:  # numba-cuda without its toolkit raises a RuntimeError
        return f"the CUDA packages are incomplete ({' '.join(str(error).split())}): {install}"
    if cuda.config.ENABLE_CUDASIM:
        return None
    if cuda.is_available():
        device_capability = tuple(cuda.get_current_device().compute_capability)
        if device_capability < LEAST_CAPABILITY:
            wanted, found = (
                ".".join(map(str, numbers)) for numbers in (LEAST_CAPABILITY, device_capability)
            )
            return (
                f"the GPU has compute capability {found}, and {wanted} (Turing, 2018) is the least"
            )
        return None
    why = " ".join(
        str(
            importlib.import_module("numba.cuda.cudadrv.driver").driver.initialization_error
        ).split()
    )
    if "NO_DEVICE" in why:
        return "there is a driver but no NVIDIA GPU that it can see: put one in, or set CUDA_VISIBLE_DEVICES"
    state = "is missing" if "cannot be found" in why else f"does not start ({why})"
    return f"the NVIDIA driver {state}: install the GPU's driver, version 580 or newer, from nvidia.com/drivers"


def check_scalars(name: str, wanted: int, scalars: np.ndarray) -> None:
    """Raise `PluginError` unless ``prepare`` gave as many scalars [rows, S] as ``update`` takes."""
    if scalars.shape[1] != wanted:
        raise PluginError(
            f"optimizer {name}: update takes {wanted} scalars, but prepare gave {scalars.shape[1]}"
        )


def scale_rows(scale: float | np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``scale``, a factor or the factors and offsets [2, C] of the channels, as kernels take it."""
    return _of_factor(scale, dtype) if isinstance(scale, float) else scale.astype(dtype)


@functools.lru_cache(maxsize=16)
def _of_factor(scale: float, dtype: np.dtype) -> np.ndarray:
    import numpy

    return numpy.array([[scale], [0.0]], dtype)


class RunInputs(NamedTuple):
    """What is fixed for a run."""

    images: np.ndarray  # [N, H·W·C], uint8 or the dtype of the parameters
    labels: np.ndarray  # int64 [N]
    scale: Any  # of the images, see `scale_rows`
    targets: np.ndarray  # [classes, outputs]: the target values of each label
    class_weights: np.ndarray  # [outputs]
    hyperparameters: np.ndarray  # of the loss
    sample_weights: np.ndarray | None = None  # [N], in the dtype of the parameters; None: 1 each


class StepInputs(NamedTuple):
    """What changes from step to step."""

    order: np.ndarray  # int64 [batch]: which images
    divisor: float  # turns the summed loss into the mean
    key: int  # the seed of this step's dropout
    scalars: (
        np.ndarray
    )  # [rows, S] of an elementwise optimizer, from its ``prepare``; which row, its spans say
    views: np.ndarray | None = (
        None  # of all images, by `Augment.draw`; None: the images as they are
    )


class StepOptions(NamedTuple):
    """How a step clips, what it updates, and with whom it meets."""

    clip_norm: float = 0.0  # the largest norm of a gradient; 0: any
    clip_value: float = 0.0  # the largest size of its elements; 0: any
    # [count, (begin, end, row)]: the parameters to update, and with which row of an optimizer's
    # scalars; None: all, with row 0
    spans: np.ndarray | None = None
    frozen: bool = False  # batch normalization keeps its running statistics and uses them
    ranks: Any = None  # the processes that train together, `minicnn.training.distributed.Ranks`

    def spans_among(self, trainable: int) -> np.ndarray:
        """``spans``, or the one of all ``trainable`` parameters."""
        import numpy

        return numpy.array([[0, trainable, 0]]) if self.spans is None else self.spans


class StepResult(NamedTuple):
    """What one training step reports; the parameters changed only if ``loss`` and ``gradient_norm``
    are finite."""

    loss: float  # mean over the batch
    correct: int
    gradient_norm: float  # global L2 norm before clipping
