"""What happens while training, as plain data. Reports consume events; training never prints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minicnn.evaluation.metrics import Evaluation


@dataclass(frozen=True)
class RunStarted:
    """Training is about to begin. ``settings`` is what `config.toml` holds."""

    network: str
    parameters: int
    training_images: int
    validation_images: int
    batches: int  # per epoch
    first_epoch: int  # 1 unless resumed
    epochs: int
    settings: dict[str, Any]
    shown: dict[str, Any]  # those that a person wants to see
    trained: int | None = None  # of the parameters, where the others are frozen


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
    accuracy: float  # NaN where there are no classes
    images: int  # done in this epoch
    images_per_second: float
    epoch_seconds_left: float  # of its training, estimated
    seconds_left: float  # of the whole run, estimated


@dataclass(frozen=True)
class EpochDone:
    """One pass over the training images is done. Accuracies are from 0 to 1, None where there is no
    validation set, NaN where there are no classes."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    gradient_norm: float  # mean over the epoch's steps of the global L2 norm before clipping
    seconds: float
    best: bool
    steps: int = 0  # of the optimizer, since the run began


@dataclass(frozen=True)
class Recorded:
    """A line of a run's record: the health of its tensors and layers, by name; None is a figure
    that is not finite.

    The figures of a step are means over the steps looked at since the line before, and missing in
    the line of the first weights. Activations are those of a few training images, the same in every
    line.
    """

    epoch: float  # epochs done
    step: int  # steps done since the run began
    gradient_norm: dict[str, float | None]  # L2, after clipping
    update_ratio: dict[str, float | None]  # L2 norm of a step's change over that of the tensor
    weight_norm: dict[str, float | None]  # L2
    activation_mean: dict[str, float | None]
    activation_std: dict[str, float | None]
    dead: dict[
        str, float
    ]  # share of a ReLU layer's channels (units) that are 0 on all those images


@dataclass(frozen=True)
class CheckpointSaved:
    """A file of the run folder was written, whole."""

    path: Path


@dataclass(frozen=True)
class RunEnded:
    """Training stopped. ``reason`` is one of: epochs done, time limit, converged, no improvement,
    diverged, interrupted."""

    reason: str
    explanation: str  # one sentence for the user
    epoch: int
    best_epoch: int
    seconds: float  # spent training and validating, compile time left out
    compile_seconds: float
    test: Evaluation | None = None
    output: Path | None = None
    files: dict[str, str] = field(default_factory=dict)  # file name -> what it holds


Event = RunStarted | Compiled | BatchDone | Recorded | EpochDone | CheckpointSaved | RunEnded
