"""What happens while training, as plain data. Reports consume these; training never prints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """The figures of a forward-only pass over a labelled set of ``images`` images.

    ``confusion[i][j]`` counts the images of class i that were predicted as class j; ``precision`` and ``recall`` have
    one entry a class, None where the divisor is zero. ``loss`` is None when the loss is not known.
    """

    images: int
    loss: float | None
    accuracy: float
    precision: list[float | None]
    recall: list[float | None]
    confusion: list[list[int]]
    classes: list[str]
    seconds: float
    compile_seconds: float

    @property
    def images_per_second(self) -> float:
        """Images a second, compile time left out."""
        return self.images / self.seconds if self.seconds > 0 else float("inf")


@dataclass(frozen=True)
class RunStarted:
    """Training is about to begin. ``settings`` is what `config.toml` holds."""

    network: str
    parameters: int
    training_images: int
    validation_images: int
    batches: int  # a epoch
    first_epoch: int  # 1 unless resumed
    epochs: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """The kernels and rules are compiled, or were loaded from the cache, in ``seconds``."""

    seconds: float


@dataclass(frozen=True)
class BatchDone:
    """One step is done. ``loss`` and ``accuracy`` are means over the epoch so far."""

    epoch: int
    batch: int  # counts from 1
    loss: float
    accuracy: float
    images: int  # done in this epoch
    images_per_second: float
    seconds_left: float  # of the whole run, estimated


@dataclass(frozen=True)
class EpochDone:
    """One pass over the training images is done. Accuracies are from 0 to 1, None where there is no validation set."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    gradient_norm: float  # mean over the epoch's steps of the global L2 norm before clipping
    seconds: float
    best: bool


@dataclass(frozen=True)
class CheckpointSaved:
    """A file of the run folder was written, whole."""

    path: Path


@dataclass(frozen=True)
class RunEnded:
    """Training stopped. ``reason`` is one of: epochs done, converged, no improvement, diverged, interrupted."""

    reason: str
    explanation: str  # one sentence for the user
    epoch: int
    best_epoch: int
    seconds: float  # spent training and validating, compile time left out
    compile_seconds: float
    test: Evaluation | None = None
    output: Path | None = None
    files: dict[str, str] = field(default_factory=dict)  # file name -> what it holds


Event = RunStarted | Compiled | BatchDone | EpochDone | CheckpointSaved | RunEnded
