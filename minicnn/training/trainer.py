"""The trainer: checks that everything fits, and runs it."""

import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minicnn.backends import backend
from minicnn.data import Dataset
from minicnn.data.dataset import build_dataset
from minicnn.errors import DataError, DivergedError, NetworkError, SettingError, UnknownNameError
from minicnn.inference import Model
from minicnn.network.network import Network
from minicnn.plugins import find
from minicnn.rules import AnyOptimizer, LossRule, ScheduleRule, resolve
from minicnn.training.checkpoint import Checkpoint, Progress
from minicnn.training.events import EpochDone, Event, RunEnded
from minicnn.training.loss import Loss
from minicnn.training.optimizer import check_decay
from minicnn.training.record import Record, Recorder
from minicnn.training.run import ADVICE, Run, is_finite
from minicnn.training.settings import Settings, check_names

# What shows progress, loaded when asked for: training depends on no report.
PROGRESS = "minicnn.report.console:ConsoleReporter"


@dataclass(frozen=True)
class History:
    """What `Trainer.fit` returns: one `EpochDone` an epoch, and how the run ended."""

    epochs: list[EpochDone]
    ended: RunEnded


class Trainer:
    """Trains a network. Options are the fields of `Settings`, such as ``epochs=5, optimizer="sgd",
    learning_rate=0.1``.

    ``optimizer``, ``loss`` and ``schedule`` are names or rules. Raises `UnknownNameError` and
    `SettingError` for what is wrong before anything runs.

    >>> from minicnn import Network, Dense, Flatten
    >>> x = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    >>> y = (x.mean(axis=(1, 2)) > 127).astype(int)
    >>> trainer = Trainer(Network((4, 4), [Flatten(), Dense(2)]), epochs=3)
    >>> len(trainer.fit(x, y).epochs)
    3
    >>> trainer.model.predict(x).shape
    (60,)
    """

    def __init__(self, network: Network, settings: Settings | None = None, **options: Any):
        check_names(options, "option of Trainer")
        rules: dict[str, Any] = {}
        for kind in ("optimizer", "loss", "schedule"):
            rules[kind] = find(kind, options.get(kind, getattr(settings or Settings(), kind)))
            options[kind] = rules[kind].name
        self.network = network
        self.settings = replace(settings or Settings(), **options)
        self._optimizer_rule: AnyOptimizer = rules["optimizer"]
        self._loss_rule: LossRule = rules["loss"]
        self._schedule_rule: ScheduleRule = rules["schedule"]
        self._settle()
        self.progress: Progress | None = None
        self._model: Model | None = None
        self._recorder: Recorder | None = None
        self._interrupted = False

    def _settle(self) -> None:
        """Check hyperparameters and fill in the defaults of the rules, so that the settings say
        all."""
        settings = self.settings
        given = dict(settings.optimizer_kwargs)
        if settings.learning_rate is not None:
            given["learning_rate"] = settings.learning_rate
        owner = f"optimizer {self._optimizer_rule.name}"
        chosen = resolve(owner, self._optimizer_rule.hyperparameters, given)
        check_decay(self._optimizer_rule, settings.decay)
        if settings.schedule_of not in chosen and settings.schedule_of != Settings.schedule_of:
            raise UnknownNameError(
                f"hyperparameter of {owner} for schedule_of", settings.schedule_of, chosen
            )
        schedule = resolve(
            f"schedule {self._schedule_rule.name}",
            self._schedule_rule.hyperparameters,
            settings.schedule_kwargs,
        )
        loss: dict[str, Any] = dict(settings.loss_kwargs)
        weights = loss.pop("class_weights", None)
        loss |= resolve(f"loss {self._loss_rule.name}", self._loss_rule.hyperparameters, loss)
        if weights is not None:
            loss["class_weights"] = (
                weights if isinstance(weights, str) else np.asarray(weights).tolist()
            )
        self.settings = replace(
            settings,
            learning_rate=chosen.pop("learning_rate", None),
            optimizer_kwargs=chosen,
            loss_kwargs=loss,
            schedule_kwargs=schedule,
            horizon=(settings.horizon or settings.epochs)
            if self._schedule_rule.has_horizon
            else None,
            threads=backend(settings.device).thread_count(settings.threads),
        )
        self._loss(np.ones(self.network.outputs))

    def _loss(self, counts: np.ndarray) -> Loss:
        """The loss of a run that trains on ``counts`` [outputs] images of the classes."""
        kwargs = dict(self.settings.loss_kwargs)
        if kwargs.get("class_weights") == "balanced":
            kwargs["class_weights"] = counts.sum() / (len(counts) * np.maximum(counts, 1))
        return Loss(self._loss_rule, self.network.outputs, **kwargs)

    @property
    def model(self) -> Model:
        """The model with the best weights of the run; raises `SettingError` before `fit`."""
        if self._model is None:
            raise SettingError("there is no model yet: call fit first")
        return self._model

    @property
    def record(self) -> Record:
        """What the run kept; raises `SettingError` before a run with the option ``record``."""
        if self._recorder is None:
            raise SettingError(
                "there is no record: train with the option record, 0 for a line an epoch"
            )
        return self._recorder.record

    def interrupt(self) -> None:
        """Let the batch under way finish, save, and end the run; for signal handlers and other
        threads."""
        self._interrupted = True

    def fit(
        self,
        x: ArrayLike | Dataset,
        y: ArrayLike | None = None,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        test: tuple[ArrayLike, ArrayLike] | None = None,
        classes: Iterable[Any] | None = None,
        reporters: Iterable[Callable[[Event], None]] = (),
        output: Path | None = None,
        resume: Checkpoint | None = None,
        progress: bool | None = None,
    ) -> History:
        """Train on images ``x`` [N, H, W, C] (or [N, H, W]) with labels ``y``, or on a `Dataset`.

        Labels are [N] or [N, 1] of whole numbers or names, or one-hot rows [N, classes];
        ``classes`` are their names, or their values, such as ``np.unique(y)``. What the labels call
        a class is what `Model.predict` gives back. Without ``validation`` a share ``val_split`` of
        the images is held out, seeded and stratified. ``test`` is evaluated once, at the end. Every
        event goes to each of ``reporters``. ``progress`` shows them as the command line does; None
        does so in a terminal or a notebook if there are no ``reporters``. With ``output``, a folder,
        the model and the checkpoint are written there. Raises `DataError`, `NetworkError` or
        `SettingError` for what does not fit and `DivergedError` when the loss is no longer finite;
        the last good weights are kept.
        """
        dataset = x if isinstance(x, Dataset) else self._dataset(x, y, validation, test, classes)
        epochs: list[EpochDone] = []
        ended: RunEnded | None = None
        reporters = list(reporters)
        if progress is None:
            progress = not reporters and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        shown = pkgutil.resolve_name(PROGRESS)() if progress else None
        try:
            for event in self.run(dataset, output, resume):
                for reporter in [*reporters, shown] if shown else reporters:
                    reporter(event)
                if isinstance(event, EpochDone):
                    epochs.append(event)
                elif isinstance(event, RunEnded):
                    ended = event
        finally:
            if shown:
                shown.close()
        assert ended is not None
        if ended.reason == "diverged":
            raise DivergedError(ended.explanation)
        return History(epochs, ended)

    def _dataset(
        self,
        x: ArrayLike,
        y: ArrayLike | None,
        validation: tuple[ArrayLike, ArrayLike] | None,
        test: tuple[ArrayLike, ArrayLike] | None,
        classes: Iterable[Any] | None,
    ) -> Dataset:
        if y is None:
            raise DataError("labels are missing: fit(x, y) or fit(dataset)")

        def arrays(
            pair: tuple[ArrayLike, ArrayLike] | None,
        ) -> tuple[np.ndarray, np.ndarray] | None:
            return pair and (np.asarray(pair[0]), np.asarray(pair[1]))

        try:
            return build_dataset(
                "arrays",
                (np.asarray(x), np.asarray(y)),
                arrays(test),
                classes=classes,
                maximum=self.settings.data_max,
                validation=arrays(validation),
                outputs=self.network.outputs,
                channels=self.settings.channels,
            )
        except (DataError, SettingError) as error:
            raise type(error)(str(error).replace("maximum=", "data_max=")) from None

    def run(
        self, dataset: Dataset, output: Path | None = None, resume: Checkpoint | None = None
    ) -> Iterator[Event]:
        """The same as `fit`, as an iterator of events; a diverged run ends with its reason and
        raises nothing."""
        self._check_fit(dataset)
        self._interrupted = (
            False  # before anything is compiled: that may take long enough to be interrupted
        )
        run = Run(self, dataset, output, resume)
        self._recorder = run.recorder
        try:
            yield from run.events()
        finally:
            self._model = run.model(None)

    def dry_run(self, dataset: Dataset, resume: Checkpoint | None = None) -> float:
        """Check that everything fits and run one batch on a copy of the weights; return its mean
        loss."""
        self._check_fit(dataset)
        run = Run(self, dataset, None, resume)
        run.compile()
        result = run.step(run.epoch_order(1)[: run.batch_size], {})
        if not is_finite(result):
            raise DivergedError(f"the loss of the first batch is {result.loss}; {ADVICE}")
        return result.loss

    def _check_fit(self, dataset: Dataset) -> None:
        if self.network.input_shape != dataset.image_shape:
            raise NetworkError(
                f"the network {self.network.name} takes images {list(self.network.input_shape)}, but "
                f"{dataset.name} has {list(dataset.image_shape)}"
            )
        if self.network.outputs != len(dataset.classes):
            raise NetworkError(
                f"the network {self.network.name} has {self.network.outputs} outputs, but {dataset.name} "
                f"has {len(dataset.classes)} classes"
            )
