"""The trainer: checks that network, settings and data fit together, and trains."""

import copy
import html
import pkgutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minicnn.data import Dataset
from minicnn.data.dataset import ARRAYS, Arrays, as_array, build_dataset, channels_last
from minicnn.data.images import convert_images
from minicnn.data.labels import listing
from minicnn.data.reading import ReadOptions
from minicnn.errors import (
    DataError,
    DivergedError,
    NetworkError,
    SettingError,
    check_known,
    short,
)
from minicnn.evaluation.profile import Profile
from minicnn.inference import Model
from minicnn.network.network import Network
from minicnn.storage import as_path, make_folder
from minicnn.training.checkpoint import Checkpoint, Progress, load_checkpoint
from minicnn.training.engine import is_finite
from minicnn.training.events import EpochDone, Event, RunEnded
from minicnn.training.record import Record, Recorder
from minicnn.training.run import ADVICE, Run
from minicnn.training.settings import Settings
from minicnn.training.setup import Setup

_OPTIONS = ("reporters", "output", "resume", "progress")  # of `Trainer.fit`
_SHARE = 0.95  # of a time limit that is planned for, the rest is for what slows a run
# What shows progress, loaded when asked for: training depends on no report.
PROGRESS = "minicnn.report.console:ConsoleReporter"
NOTEBOOK = "minicnn.report.notebook:NotebookReporter"


@dataclass(frozen=True)
class History:
    """What `Trainer.fit` returns: one `EpochDone` an epoch, and how the run ended."""

    epochs: list[EpochDone]
    ended: RunEnded

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.ended.reason)}: {html.escape(self.ended.explanation)}</p>"


class Trainer(Setup):
    """Trains a network. Options are the fields of `Settings`, such as ``epochs=5, optimizer="sgd",
    learning_rate=0.1``.

    ``optimizer``, ``loss`` and ``schedule`` are names or rules. With a `Model` in the place of the
    network, training goes on from its weights, with its classes and the scale of its images. Each of
    ``callbacks`` is called with every event of `minicnn.training.events`. With ``distributed`` all
    processes that ``mpirun`` started train together, each with its part of every batch
    (`minicnn.training.distributed`); rank 0 alone reports and writes. Raises
    `UnknownNameError` and `SettingError` for what is wrong before anything runs.

    >>> from minicnn import Network, Dense, Flatten
    >>> x = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    >>> y = (x.mean(axis=(1, 2)) > 127).astype(int)
    >>> trainer = Trainer(Network((4, 4), [Flatten(), Dense(2)]), epochs=3)
    >>> len(trainer.fit(x, y).epochs)
    3
    >>> trainer.model.predict(x).shape
    (60,)
    """

    def __init__(
        self,
        network: Network | Model,
        settings: Settings | None = None,
        *,
        callbacks: Iterable[Callable[[Event], object]] = (),
        distributed: bool = False,
        **options: Any,
    ):
        for name in ("data", "model"):
            if name in options:
                raise SettingError(
                    f"{name} is an option of the command line: Trainer(network).fit(load_dataset(data))"
                )
        super().__init__(network, settings, distributed=distributed, **options)
        self.callbacks = _functions("callbacks", callbacks)
        self.progress: Progress | None = None
        self._model: Model | None = None
        self._recorder: Recorder | None = None

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
                "there is no record: train with the option record, 0 for a line per epoch"
            )
        return self._recorder.record

    def interrupt(self) -> None:
        """Let the batch under way finish, save, and end the run; for signal handlers and other
        threads."""
        self.interrupted = True

    def fit(
        self,
        x: ArrayLike | Dataset,
        y: ArrayLike | None = None,
        *,
        validation: tuple[ArrayLike, ...] | None = None,
        test: tuple[ArrayLike, ...] | None = None,
        classes: Iterable[Any] | None = None,
        sample_weight: ArrayLike | None = None,
        **options: Any,
    ) -> History:
        """Train on images ``x`` [N, H, W, C] (or [N, H, W]) with labels ``y``, or on a `Dataset`.

        Labels are [N] or [N, 1] of whole numbers or names, or one-hot rows [N, classes];
        ``classes`` are their names, or their values, such as ``np.unique(y)``. What the labels call
        a class is what `Model.predict` gives back. For the losses mse, mae and huber ``y`` may be
        values, [N] or [N, outputs], and for binary_cross_entropy rows of 0 and 1 [N, outputs], or
        [N] with one output.

        ``sample_weight`` [N] says how much each image counts in the mean loss (None: 1).
        ``validation`` and ``test`` are (x, y) or (x, y, sample_weight); without ``validation`` a
        share ``val_split`` of the images is held out, seeded and stratified; ``test`` is evaluated
        once, at the end.

        Options: every event goes to each of ``reporters``; ``progress`` shows them as the command
        line does, and None does so in a terminal or a notebook if there are no ``reporters``; in
        ``output``, a folder without a run, the model and the checkpoint are written; ``resume`` is a
        `Checkpoint`, or the run folder that has one, to go on from. Each call begins anew, from the
        first weights that the seed gives (or from those of the model that the trainer was made
        with); to train further, use ``Trainer(trainer.model)``.

        Raises `DataError`, `NetworkError` or `SettingError` for what does not fit and
        `DivergedError` when the loss is no longer finite; the last good weights are kept.
        """
        known = ("validation", "test", "classes", "sample_weight", *_OPTIONS)
        check_known("argument of fit", options, known)
        if isinstance(x, Dataset):
            of_arrays = {"y": y, "validation": validation, "test": test, "classes": classes}
            for name, value in {**of_arrays, "sample_weight": sample_weight}.items():
                if value is not None:
                    raise SettingError(f"{name} is for arrays: a Dataset has its own")
            dataset = x
        else:
            if y is None:
                said = ", such as load_dataset(x) gives" if isinstance(x, str | Path) else ""
                raise DataError(f"labels are missing: fit(x, y) or fit(dataset){said}")
            train = (x, y) if sample_weight is None else (x, y, sample_weight)
            dataset = self._dataset(train, validation, test, classes)
        epochs: list[EpochDone] = []
        ended: RunEnded | None = None
        reporters = _functions("reporters", options.get("reporters"))
        progress = options.get("progress")
        if self.ranks is not None and self.ranks.rank > 0:
            reporters, progress = [], False
        in_notebook = _is_notebook()
        if progress is None:
            progress = not reporters and (sys.stderr.isatty() or in_notebook)
        shown = pkgutil.resolve_name(NOTEBOOK if in_notebook else PROGRESS)() if progress else None
        stop = signal.getsignal(signal.SIGINT) if in_notebook else None
        try:
            if stop:  # the first interrupt of the kernel ends the run, the second raises
                signal.signal(signal.SIGINT, lambda *_: self._stop_softly(stop))
            for event in self.run(dataset, options.get("output"), options.get("resume")):
                for reporter in [*reporters, shown] if shown else reporters:
                    reporter(event)
                if isinstance(event, EpochDone):
                    epochs.append(event)
                elif isinstance(event, RunEnded):
                    ended = event
        finally:
            if stop:
                signal.signal(signal.SIGINT, stop)
            if shown:
                shown.close()
        assert ended is not None
        if ended.reason == "diverged":
            raise DivergedError(ended.explanation)
        return History(epochs, ended)

    def _stop_softly(self, other: Any) -> None:
        signal.signal(signal.SIGINT, other)
        self.interrupt()

    def _dataset(
        self,
        train: tuple[ArrayLike, ...],
        validation: tuple[ArrayLike, ...] | None,
        test: tuple[ArrayLike, ...] | None,
        classes: Iterable[Any] | None,
    ) -> Dataset:
        def arrays(given: tuple[ArrayLike, ...] | None, name: str = "") -> Arrays | None:
            if given is None:
                return None
            if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                raise DataError(f"{name}must be (x, y) or (x, y, sample_weight)")
            images = channels_last(as_array(f"{name}images", given[0]), self.settings.channels)
            labels = (np.atleast_1d(as_array(f"{name}labels", each)) for each in given[1:])
            return convert_images(images, how), *labels

        settings = self.settings
        how = ReadOptions(resize=settings.resize, grayscale=settings.grayscale, rgb=settings.rgb)
        if self.network.outputs == 1 and self.loss_rule.target == "label":
            raise NetworkError(
                f"the network {self.network.name} has 1 output, and classes need two or more; one is for the loss "
                "binary_cross_entropy, and for values"
            )
        of_train, maximum, init = arrays(train), self.settings.data_max, self.init
        assert of_train is not None
        if init is not None:
            if classes is None:
                classes = init.labels or init.classes
            if maximum is None and init.seen is None and of_train[0].dtype.name == init.image_dtype:
                maximum = init.maximum
        try:
            return build_dataset(
                ARRAYS,
                of_train,
                arrays(test, "test "),
                classes=classes,
                maximum=maximum,
                validation=arrays(validation, "validation "),
                outputs=self.network.outputs,
                loss=self.loss_rule,
            )
        except (DataError, SettingError) as error:
            raise type(error)(str(error).replace("maximum=", "data_max=")) from None

    def run(
        self,
        dataset: Dataset,
        output: str | Path | None = None,
        resume: Checkpoint | str | Path | None = None,
    ) -> Iterator[Event]:
        """The same as `fit`, as an iterator of events; a diverged run ends with its reason and
        raises nothing."""
        self._check_fit(dataset)
        resume = _checkpoint(resume)
        silent = self.ranks is not None and self.ranks.rank > 0
        folder = None if output is None or silent else as_path("output", output)
        if folder is not None and resume is None:
            for name in ("model", "last"):
                if (folder / f"{name}.safetensors").exists():
                    raise SettingError(
                        f"output {folder} holds a run: name another folder, or go on with it by resume"
                    )
        self.interrupted = (
            False  # before anything is compiled: that may take long enough to be interrupted
        )
        compile_seconds = self._fit_into_time(dataset) if resume is None else 0.0
        run = Run(self, dataset, folder, resume)
        run.compile_seconds = compile_seconds
        if folder is not None:  # now that nothing is refused any more
            make_folder(folder)
        self._recorder, self.progress = run.recorder, run.progress
        try:
            for event in run.events():
                for callback in self.callbacks:
                    callback(event)
                yield event
        finally:
            self._model = run.model(None)

    def _fit_into_time(self, dataset: Dataset) -> float:
        """With a time limit, choose the number of epochs that fit; the seconds spent compiling."""
        limit = self.settings.time_limit
        if limit is None:
            return 0.0
        run = Run(self, dataset, None, None)
        epochs = max(1, int(_SHARE * float(limit) / run.seconds_per_epoch(float(limit))))
        horizon = epochs if self.schedule_rule.has_horizon else None
        self.settings = replace(self.settings, epochs=epochs, horizon=horizon)
        return run.compile_seconds

    def prepared(self, dataset: Dataset, resume: Checkpoint | str | Path | None = None) -> Run:
        """A run that has not begun and writes nothing: its steps change nothing that the trainer
        holds. Raises what `run` would before it begins."""
        self._check_fit(dataset)
        return Run(self, dataset, None, _checkpoint(resume))

    def dry_run(self, dataset: Dataset, resume: Checkpoint | str | Path | None = None) -> float:
        """Check that everything fits and run one batch on a copy of the weights; return its mean
        loss."""
        run = self.prepared(dataset, resume)
        run.compile()
        result = run.engine.step(run.inputs.batch(run.inputs.order(1), 0), {})
        if not is_finite(result):
            raise DivergedError(f"the loss of the first batch is {result.loss}; {ADVICE}")
        return result.loss

    def profile(self, dataset: Dataset, seconds: float = 1.0) -> Profile:
        """Where the time of training steps goes, layer by layer, on one thread of the CPU.

        Takes steps for some ``seconds``, in a run of their own: nothing that the trainer holds
        changes. What an epoch does beside its steps is left out: it draws augmentations and
        validates. Raises `SettingError` for another device and for one of several processes.
        """
        if self.settings.device != "cpu" or self.ranks is not None:
            raise SettingError("profile works only for one process with device=cpu")
        trainer = copy.copy(self)
        trainer.settings = replace(self.settings, threads=1)
        run = trainer.prepared(dataset)
        run.compile()
        return run.engine.profile(run.scheduled, seconds)

    def _check_fit(self, dataset: Dataset) -> None:
        if not isinstance(dataset, Dataset):
            raise SettingError(f"load_dataset() gives a Dataset, and this is {short(dataset)}")
        dataset.check()  # compiled code believes it
        height, width, channels = dataset.image_shape
        settings = self.settings
        for name, fits in (
            ("resize", settings.resize in (None, [height, width])),
            ("grayscale", not settings.grayscale or channels == 1),
            ("rgb", not settings.rgb or channels == 3),
        ):
            if not fits:
                raise SettingError(
                    f"{name} does not change a Dataset, whose images are {[height, width, channels]}: "
                    f"load_dataset({name}=) does"
                )
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
        if self.loss_rule.target == "label" and dataset.task != "classification":
            raise DataError(
                f"{dataset.name} has values and not classes, which the loss {self.loss_rule.name} cannot learn"
            )
        if self.init is not None:
            self._check_init(dataset, self.init)

    @staticmethod
    def _check_init(dataset: Dataset, init: Model) -> None:
        """Raise `DataError` for classes or a scale other than those of the model to go on from."""
        if (dataset.classes, dataset.task) != (init.classes, init.task):
            raise DataError(
                f"{dataset.name} has the classes {listing(dataset.classes)}, but the model to go on from "
                f"has {listing(init.classes)}"
            )
        other_kind = (dataset.seen is None) != (init.seen is None)
        same_dtype = dataset.image_dtype == init.image_dtype
        if other_kind or (same_dtype and dataset.maximum != init.maximum):
            kinds = [
                "standardised" if one.seen else f"from 0 to {one.maximum:g}"
                for one in (dataset, init)
            ]
            raise DataError(
                f"the images of {dataset.name} are {kinds[0]}, but those of the model to go on from were {kinds[1]}"
            )


def _functions(name: str, given: Any) -> list[Callable[[Event], object]]:
    if isinstance(given, Iterable | None):
        functions = list(given or ())
        if all(map(callable, functions)):
            return functions
    raise SettingError(f"{name} must be a list of functions of an event, not {short(given)}")


def _checkpoint(resume: Any) -> Checkpoint | None:
    if isinstance(resume, str | Path):
        return load_checkpoint(as_path("resume", resume))
    if not isinstance(resume, Checkpoint | None):
        raise SettingError(f"resume must be a Checkpoint or a run folder, not {short(resume)}")
    return resume


def _is_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
