"""A run's progress: everything that the next step depends on, and its file, `last.safetensors`."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.data.normalization import Normalization, as_normalization
from minicnn.errors import ModelFileError
from minicnn.network.network import Network
from minicnn.storage import MALFORMED, check_types, read_tensors, write_tensors
from minicnn.training.settings import Settings, check_names


@dataclass
class Counters:
    """Where a run is, and the sums of the epoch under way, as numbers."""

    epoch: int = 1  # the epoch under way
    batch: int = 0  # its batches that are done
    epoch_loss: float = 0.0  # summed over its images
    epoch_divisor: float = 0.0
    epoch_correct: int = 0
    epoch_images: int = 0
    epoch_norm: float = 0.0  # summed over its batches
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    watched: float = float("inf")  # the loss that patience compares with
    epochs_waited: int = 0
    previous_loss: float = float("inf")  # training loss of the epoch before
    optimizer_step: int = 0

    def start_epoch(self, epoch: int) -> None:
        """Begin ``epoch`` with empty sums."""
        self.epoch, self.batch, self.epoch_correct, self.epoch_images = epoch, 0, 0, 0
        self.epoch_loss = self.epoch_divisor = self.epoch_norm = 0.0


@dataclass
class Progress:
    """Weights, best weights, optimizer slots and state, schedule state, counters, and the weights
    that are evaluated if they are not the trained ones: a moving average, or those that the
    optimizer computes."""

    params: np.ndarray
    best_params: np.ndarray
    slots: np.ndarray
    optimizer_state: dict[str, float]
    schedule_state: dict[str, float]
    counters: Counters = field(default_factory=Counters)
    eval_params: np.ndarray | None = None
    seconds: float = 0.0  # spent so far, compile time left out

    @property
    def last(self) -> np.ndarray:
        """The last weights, as they are evaluated."""
        return self.params if self.eval_params is None else self.eval_params


def save_checkpoint(
    path: Path,
    network: Network,
    settings: Settings,
    progress: Progress,
    fingerprint: str,
    normalization: Normalization | None,
) -> None:
    """Write all of ``progress`` as tensors; settings, and the time of writing, as metadata."""
    tensors = {"slots": progress.slots}
    if normalization is not None:
        tensors["normalization"] = np.array(normalization)
    for prefix, params in (
        ("weights", progress.params),
        ("best", progress.best_params),
        ("evaluated", progress.eval_params),
    ):
        if params is not None:
            tensors |= {
                f"{prefix}.{name}": tensor for name, tensor in network.unflatten(params).items()
            }
    for prefix, numbers in (
        ("optimizer_state", progress.optimizer_state),
        ("schedule_state", progress.schedule_state),
        ("counters", asdict(progress.counters)),
    ):
        tensors |= {f"{prefix}.{name}": np.array(number) for name, number in numbers.items()}
    metadata = {
        "network": network.to_dict(),
        "settings": settings.to_dict(),
        "data": fingerprint,
        "time": time.time(),
        "seconds": progress.seconds,
    }
    write_tensors(path, "checkpoint", tensors, metadata)


@dataclass(frozen=True)
class Checkpoint:
    """What `last.safetensors` holds."""

    network: Network
    settings: dict[str, Any]
    progress: Progress
    fingerprint: str
    normalization: Normalization | None = None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; a run folder means its `last.safetensors`. Raises `ModelFileError`, which
    names the file, if it is missing, damaged or foreign."""
    if path.is_dir():
        path = path / "last.safetensors"
    tensors, metadata = read_tensors(path, "checkpoint")
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        groups.setdefault(prefix, {})[rest] = tensor
    try:
        metadata = {"seconds": 0.0} | metadata  # a file from before time was counted
        check_types(metadata, network=dict, settings=dict, data=str, seconds=float)
        network = Network.from_dict(metadata["network"])
        check_names(metadata["settings"], "setting")
        settings = Settings(**metadata["settings"])
        numbers = {
            prefix: {name: value.item() for name, value in groups.get(prefix, {}).items()}
            for prefix in ("optimizer_state", "schedule_state", "counters")
        }
        slots, counters = groups["slots"][""], numbers.pop("counters")
        if slots.dtype != np.float32 or slots.shape[1:] != (network.trainable_size,):
            raise ValueError(
                f"its slots are {slots.dtype} {list(slots.shape)}, which does not fit its network"
            )
        if counters.keys() != asdict(Counters()).keys():
            raise ValueError(f"its counters are {', '.join(sorted(counters))}")
        _check_counters(counters, settings)
        state = [number for group in numbers.values() for number in group.values()]
        if not all(isinstance(number, int | float) and number == number for number in state):
            raise ValueError("the state of its optimizer or schedule is not a number")
        weights, best = (network.flatten(groups.get(prefix, {})) for prefix in ("weights", "best"))
        evaluated = network.flatten(groups["evaluated"]) if "evaluated" in groups else None
        kept = (weights, best) if evaluated is None else (weights, best, evaluated)
        if not all(np.isfinite(vector).all() for vector in kept):
            raise ValueError("its weights are not finite")
        return Checkpoint(
            network=network,
            settings=settings.to_dict(),
            progress=Progress(
                weights,
                best,
                slots,
                counters=Counters(**counters),
                eval_params=evaluated,
                seconds=metadata["seconds"],
                **numbers,
            ),
            fingerprint=metadata["data"],
            normalization=as_normalization(
                groups.get("normalization", {}).get(""), network.input_shape[2]
            ),
        )
    except MALFORMED as error:
        raise ModelFileError(f"{path} does not hold a usable checkpoint: {error}") from None


def _check_counters(counters: dict[str, Any], settings: Settings) -> None:
    """Raise `ValueError` for counters that no run can have."""
    for name, default in asdict(Counters()).items():
        value = counters[name]
        if (
            type(value) is not type(default)
            or value != value
            or (isinstance(value, int) and value < (name == "epoch"))
        ):
            raise ValueError(f"its counter {name} is {value}")
    done, batch_size = counters["epoch"] - 1, settings.batch_size
    if not counters["best_epoch"] <= done <= settings.epochs:
        raise ValueError(
            f"its counters say {done} epochs are done of {settings.epochs}, best {counters['best_epoch']}"
        )
    batch, images = counters["batch"], counters["epoch_images"]
    full = -(-images // batch_size) == batch if batch_size else batch <= images
    if not full or bool(batch) != (counters["epoch_divisor"] > 0):
        raise ValueError(f"its counters say {images} images in {batch} batches of {batch_size}")
