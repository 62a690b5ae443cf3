"""One run: the buffers, the progress, and the loop over epochs and batches."""

import math
import time
import zlib
from collections.abc import Generator, Iterator
from copy import deepcopy
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn import __version__
from minicnn.backends import Batch, StepResult, backend
from minicnn.data import Dataset, Split, stratified_split
from minicnn.data.dataset import channel_scale, limited, measure
from minicnn.data.reading import note
from minicnn.errors import DataError, SettingError
from minicnn.evaluation.loss import class_weights
from minicnn.evaluation.metrics import Evaluation, evaluate
from minicnn.inference import Model
from minicnn.memory import aligned_copy
from minicnn.rules import OptimizerRule, StepRule
from minicnn.training.checkpoint import Checkpoint, Progress, save_checkpoint
from minicnn.training.distributed import Ranks, SharedInference
from minicnn.training.events import (
    BatchDone,
    CheckpointSaved,
    Compiled,
    EpochDone,
    Event,
    RunEnded,
    RunStarted,
)
from minicnn.training.optimizer import Optimizer
from minicnn.training.record import Recorder
from minicnn.training.schedules import warm_up
from minicnn.training.settings import Settings, make_augment, shown

if TYPE_CHECKING:
    from minicnn.training.trainer import Trainer

DEFAULT_BATCH_SIZE = 64
_FEWEST = 20  # batches that are timed
ADVICE = "try a smaller learning rate, clip_grad=1, or warmup_epochs=1"


def fingerprint(split: Split) -> str:
    """A short check sum of images and labels, by which a resumed run knows its data."""
    total = zlib.crc32(split.labels.data, zlib.crc32(split.images.data))
    if split.weights is not None:
        total = zlib.crc32(split.weights.data, total)
    return f"{len(split)}-{total:08x}"


def is_finite(result: StepResult) -> bool:
    """Whether loss and gradient are finite numbers, so that the step was made."""
    return bool(np.isfinite(result.loss) and np.isfinite(result.gradient_norm))


class _NotFinite(Exception):
    """Ends the step of a rule whose gradient is not finite."""

    def __init__(self, result: StepResult):
        super().__init__()
        self.result = result


class Run:
    """One run over one data set: the buffers, the progress, and the loop."""

    def __init__(
        self, trainer: "Trainer", dataset: Dataset, output: Path | None, resume: Checkpoint | None
    ):
        settings, network = trainer.settings, trainer.network
        self.trainer, self.network, self.dataset, self.output = trainer, network, dataset, output
        self.backend, self.ranks = backend(settings.device), trainer.ranks
        self.images = dataset.train.images.reshape(len(dataset.train), -1)
        self.labels = dataset.train.labels
        self.sample_weights = dataset.train.weights
        self.has_classes = dataset.task == "classification"
        self._split(settings)
        self.batch_size = self._choose_batch_size(settings, len(self.train))
        self.threads = settings.threads
        model = network.name if settings.model == Settings.model else settings.model
        self.settings = replace(
            settings, batch_size=self.batch_size, data=dataset.name, model=model
        )
        self.batches = -(-len(self.train) // self.batch_size)
        weights = class_weights(settings.class_weights, self.strata[self.train], dataset.classes)
        self.loss = trainer._loss(weights)
        if weights is not None:
            named = dict(zip(dataset.classes, weights, strict=True))
            self.settings = replace(self.settings, class_weights=named)
        self.normalization = trainer.init.normalization if trainer.init else None
        if settings.normalize and trainer.init is None:
            self.normalization = measure(dataset.train.images, self.train, dataset.maximum)
        elif settings.normalize and self.normalization is None:
            raise SettingError("normalize is for first weights: the model to go on from is without")
        self.scale = channel_scale(dataset.maximum, self.normalization)
        self.augment = make_augment(settings.augment)
        self._views: tuple[int, np.ndarray | None] = 0, None
        if self.augment.mixes and not self.loss.rule.soft:
            raise SettingError(
                f"mixup and cutmix need a loss of soft targets, such as cross_entropy, not {self.loss.rule.name}"
            )
        if settings.augment and settings.device != "cpu":
            raise SettingError("augment changes images on the CPU: it goes with device=cpu only")
        self.data = self.loss.data(self.images, self.labels, self.scale, self.sample_weights)
        rate = {} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}
        self.optimizer = Optimizer(
            trainer._optimizer_rule,
            network,
            np.float32,
            settings.device,
            settings.decay,
            settings.factors,
            **settings.optimizer_kwargs,
            **rate,
        )
        self.fingerprint = fingerprint(dataset.train)
        self.schedule_state = dict(trainer._schedule_rule.state)
        if resume is None:
            params = (
                network.initialize(np.random.default_rng([settings.seed, 0]))
                if trainer.init is None
                else aligned_copy(trainer.init.params)
            )
            self.progress = Progress(
                params,
                aligned_copy(params),
                self.optimizer.slots,
                self.optimizer.state,
                self.schedule_state,
            )
        else:
            self._restore(resume)
        self.counters = self.progress.counters
        self._kept_weights = self.progress.best_params
        rule = self.optimizer.rule
        self.other_weights = isinstance(rule, StepRule) and rule.evaluation is not None
        if self.other_weights and settings.ema is not None:
            raise SettingError(f"optimizer {rule.name} averages the weights itself: leave ema out")
        if self.ranks is not None:
            self._join(self.ranks)
        kept, self.progress.evaluated = self.progress.evaluated, None
        if self.other_weights or settings.ema is not None:
            self.progress.evaluated = aligned_copy(self.progress.params if kept is None else kept)
        self.recorder: Recorder | None = None
        if settings.record is not None and (self.ranks is None or self.ranks.rank == 0):
            if settings.device != "cpu":
                raise SettingError(
                    "record looks at weights and activations on the CPU: it goes with device=cpu only"
                )
            self.recorder = Recorder(
                network,
                self.progress.params,
                self.images,
                self.train,
                self.scale,
                settings.record or self.batches,
                self.batches,
            )
        self.seconds = 0.0
        self.compile_seconds = 0.0
        trainer.progress = self.progress

    def _join(self, ranks: Ranks) -> None:
        """Check that all ranks are about to do the same, and say how they do it."""
        settings = self.settings
        has_statistics = any(spec.kind == "state" for spec in self.network.parameters)
        if settings.device == "cuda" and has_statistics and settings.batch_statistics == "global":
            raise SettingError(
                "device cuda normalizes by the images of each rank: choose batch_statistics=local"
            )
        if ranks.size > self.batch_size:
            raise SettingError(
                f"batch_size {self.batch_size} gives work to as many ranks, and there are {ranks.size}"
            )
        progress = self.progress
        ranks.check_same(
            {
                "version": __version__,
                **settings.to_dict(),
                "images and labels": self.fingerprint,
                "network": self.network.to_dict(),
                "weights": zlib.crc32(progress.params.data),
                "progress": asdict(progress.counters),
            }
        )
        self.threads, above = ranks.threads(settings.threads)
        if above > 0 and ranks.rank == 0:
            note(
                f"{ranks.size} ranks of {self.threads} threads are {above} more on a machine than its cores, "
                "and wait for each other: take fewer"
            )
        ranks.reduction, ranks.batch_statistics = settings.reduction, settings.batch_statistics
        ranks.asks_to_stop, ranks.stopping = lambda: self.trainer._interrupted, False

    def _is_to_stop(self) -> bool:
        """Whether the run was interrupted; on all ranks at the same step."""
        return self.trainer._interrupted if self.ranks is None else self.ranks.stopping

    def _split(self, settings: Settings) -> None:
        """Which images train and which validate: ``limit`` keeps some, then the validation set is
        taken out."""
        # Values are no classes: all images are of one kind.
        self.strata = self.labels if self.has_classes else np.zeros(len(self.labels), np.int64)
        kept = limited(self.strata, settings.limit, settings.seed)
        if self.dataset.validation is not None:
            self.train, self.held_out = kept, np.arange(len(self.dataset.validation))
            self.validation: Split | None = self.dataset.validation
        else:
            train, held_out = stratified_split(self.strata[kept], settings.val_split, settings.seed)
            self.train, self.held_out = kept[train], kept[held_out]
            self.validation = self.dataset.train if len(self.held_out) else None
        if len(self.train) == 0:
            raise DataError(f"{self.dataset.name}: no image is left to train on")

    def _choose_batch_size(self, settings: Settings, count: int) -> int:
        if self.trainer._optimizer_rule.full_batch:
            if settings.batch_size not in (None, count):
                name = self.trainer._optimizer_rule.name
                raise SettingError(
                    f"optimizer {name} takes the full batch, all {count} training "
                    "images: leave the batch size out"
                )
            return count
        if settings.batch_size is not None and settings.batch_size > count:
            raise SettingError(
                f"batch_size {settings.batch_size} is above the number of training images, {count}"
            )
        return settings.batch_size or min(DEFAULT_BATCH_SIZE, count)

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.network != self.network:
            raise SettingError("the network differs from the one of the run to be resumed")
        if checkpoint.fingerprint != self.fingerprint:
            raise DataError(
                f"{self.dataset.name} is not the data that the run to be resumed was trained on"
            )
        stored, settings = checkpoint.settings, self.settings
        for setting in fields(settings):
            before, now = stored.get(setting.name, setting.default), getattr(settings, setting.name)
            unnamed = setting.name == "model" and before == setting.default  # a network from Python
            if setting.metadata["fixed"] and before != now and not unnamed:
                raise SettingError(
                    f"{setting.name} cannot change when a run is resumed: it is {before}, not {now}"
                )
        self.progress = deepcopy(checkpoint.progress)
        self.progress.params = aligned_copy(checkpoint.progress.params)
        slots, state = self.progress.slots, self.progress.optimizer_state
        if slots.shape != self.optimizer.slots.shape or state.keys() != self.optimizer.state.keys():
            raise SettingError(
                f"the optimizer {settings.optimizer} keeps other numbers than in the run to be resumed:"
                " it is another version, or has another decay or other factors"
            )
        self.optimizer.slots[:] = slots
        self.optimizer.state.update(state)
        self.progress.slots, self.progress.optimizer_state = (
            self.optimizer.slots,
            self.optimizer.state,
        )
        self.optimizer.step = self.progress.counters.optimizer_step
        if stored["schedule"] == settings.schedule:
            self.schedule_state = self.progress.schedule_state
        else:
            self.progress.schedule_state = self.schedule_state

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The order of the training images in ``epoch``: a function of the seed and the epoch, so
        nothing is stored."""
        return np.random.default_rng([self.settings.seed, 1, epoch]).permutation(self.train)

    def scheduled(self, batch: int) -> dict[str, float]:
        """The hyperparameters that change, for this batch: one times the schedule's factor, the
        learning rate's warm-up."""
        settings, usual = self.settings, self.optimizer.hyperparameters
        steps = (self.counters.epoch - 1) * self.batches + batch
        per_epoch = self.batches if settings.schedule_unit == "step" else 1
        factor = self.trainer._schedule_rule.factor(
            steps if per_epoch > 1 else self.counters.epoch - 1 + batch / self.batches,
            (settings.horizon or settings.epochs) * per_epoch,
            self.schedule_state,
            **settings.schedule_kwargs,
        )
        values = {
            name: usual[name] for name in (settings.schedule_of, "learning_rate") if name in usual
        }
        if settings.schedule_of in values:
            values[settings.schedule_of] *= factor
        if "learning_rate" in values:
            # The warm-up counts the step that is about to be made, which would else be one of
            # length 0.
            values["learning_rate"] *= warm_up(
                steps + 1, settings.warmup_steps or settings.warmup_epochs * self.batches
            )
        return values

    def step(self, order: np.ndarray, scheduled: dict[str, float]) -> StepResult:
        """One step on the images ``order``."""
        if isinstance(self.optimizer.rule, OptimizerRule):
            return self._launch([self._batch(order, self.optimizer.scalars(**scheduled))])[0]
        results: list[StepResult] = []

        def gradient(params: np.ndarray) -> tuple[float, np.ndarray]:
            results.extend(self._launch([self._batch(order, np.empty((1, 0), params.dtype))]))
            if not is_finite(results[-1]):
                raise _NotFinite(results[-1])
            return results[-1].loss, self.training.grads

        try:
            self.optimizer.update(self.training.params, gradient, **scheduled)
            self._keep_frozen(self.training.params)
        except _NotFinite as stopped:
            return stopped.result
        return results[0]

    def _steps(self, order: np.ndarray) -> tuple[list[StepResult], float]:
        """The next steps of the epoch, as many as the device makes at once; their results, and the
        last learning rate."""
        first, scheduled = self.counters.batch, {}
        batches: list[Batch] = []
        at_once = self.training.at_once if self.settings.ema is None else 1
        for index in range(first, min(first + at_once, self.batches)):
            scheduled = self.scheduled(index)
            images = order[index * self.batch_size : (index + 1) * self.batch_size]
            if at_once == 1:
                result = self.step(images, scheduled)
                if self.settings.ema is not None:
                    self._average(self.settings.ema)
                return [result], scheduled.get("learning_rate", 1.0)
            batches.append(self._batch(images, self.optimizer.scalars(**scheduled)))
        return self._launch(batches), scheduled.get("learning_rate", 1.0)

    def _average(self, decay: float) -> None:
        """Move the average towards the weights, running statistics included; the first step's
        weights are its beginning, as in PyTorch's ``AveragedModel(use_buffers=True)``."""
        if self.optimizer.step == 1:
            self.backend.copy(self.training.params, self.weights)
        else:
            self.backend.scale(decay, self.weights)
            self.backend.axpy(1.0 - decay, self.training.params, self.weights)
            self._keep_frozen(self.weights)

    def _keep_frozen(self, vector: Any) -> None:
        """Write the parameters of the frozen layers into ``vector`` again, to the bit."""
        for begin, end in self._frozen:
            self.backend.copy(self._first[begin:end], vector[begin:end])

    def _batch(self, order: np.ndarray, scalars: np.ndarray) -> Batch:
        key = (self.settings.seed * 0x9E3779B97F4A7C15 + self.optimizer.step) % 2**64
        return Batch(order, self._divisor(order), key, scalars, self._epoch_views())

    def _epoch_views(self) -> np.ndarray | None:
        """What is drawn for the images in this epoch; None without augmentation."""
        epoch, dataset = self.counters.epoch, self.dataset
        if self.settings.augment and self._views[0] != epoch:
            middle = 0.0 if dataset.seen else None
            given = dataset.train.images, self.train, dataset.maximum, middle
            self._views = epoch, self.augment.draw(self.settings.seed, epoch, *given)
        return self._views[1]

    def _divisor(self, order: np.ndarray) -> float:
        weights = None if self.sample_weights is None else self.sample_weights[order]
        return self.loss.divisor(self.labels[order], weights)

    def _launch(self, batches: list[Batch]) -> list[StepResult]:
        results: list[StepResult] = self.training.steps(self.data, batches, self.optimizer.vectors)
        return results

    def compile(self) -> float:
        """Compile or load every kernel by a step that changes nothing; return the seconds that it
        took."""
        start = time.perf_counter()
        if self.ranks is None:
            self._compile()
        else:
            self.ranks.one_by_one(self._compile)
        return time.perf_counter() - start

    def _compile(self) -> None:
        settings = self.settings
        self.training = self.backend.Training(
            self.network,
            self.progress.params,
            self.batch_size,
            self.optimizer.rule,
            self.loss.rule,
            self.threads,
            settings.clip_grad or 0.0,
            settings.clip_grad_value or 0.0,
            spans=self.optimizer.spans,
            **({} if self.ranks is None else {"ranks": self.ranks}),
        )
        self._frozen = [
            (spec.offset, spec.offset + spec.size)
            for spec in self.network.parameters
            if spec.layer in self.network.frozen
        ]
        self._first: Any = None
        if self._frozen:
            self._first = self.backend.vector(self.progress.params.copy())
        evaluated = self.progress.evaluated
        self.weights = self.training.params if evaluated is None else self.backend.vector(evaluated)
        self.inference = self._inference(self.weights)
        self.training.compile(self.data, self.optimizer.vectors)
        if not isinstance(self.optimizer.rule, OptimizerRule):
            self.optimizer.compile()
        if self.validation is not None:
            self.inference.logits(self.validation.images[:1], self.scale)
            self.loss(np.zeros((1, self.network.outputs)), self.labels[:1])
        if self.recorder is not None:
            self.recorder.compile()

    def _inference(self, weights: Any) -> Any:
        """Forward passes with ``weights``, on all ranks."""
        inference = self.backend.Inference(self.network, weights, self.threads)
        return inference if self.ranks is None else SharedInference(inference, self.ranks)

    def events(self) -> Iterator[Event]:
        """The run: every event in its turn."""
        settings, counters = self.settings, self.counters
        yield RunStarted(
            self.network.name,
            self.network.parameter_count,
            len(self.train),
            len(self.held_out),
            self.batches,
            counters.epoch,
            settings.epochs,
            {name: value for name, value in settings.to_dict().items() if value is not None},
            shown(settings, self.trainer.usual),
            self.network.trained_count if self.network.frozen else None,
        )
        self.compile_seconds += self.compile()
        yield Compiled(self.compile_seconds)
        if self.recorder is not None:
            yield from self.recorder.begin(self.output, counters)
        reason, explanation = "epochs done", f"all {settings.epochs} epochs are done"
        begun = time.perf_counter()
        self._begun = begun - self.progress.seconds
        while counters.epoch <= settings.epochs:
            stop = self._out_of_time() or (yield from self._epoch())
            if stop is not None:
                reason, explanation = stop
                break
        self.seconds = time.perf_counter() - begun
        yield from self._finish(reason, explanation)

    def seconds_per_epoch(self, limit: float) -> float:
        """The time of an epoch, measured on its first batches, for a fiftieth of ``limit`` seconds,
        and on its validation; what they changed is forgotten with this run."""
        self.compile_seconds = self.compile()
        times, counters = [time.perf_counter()], self.counters
        order = self.epoch_order(counters.epoch)
        self._epoch_views()
        times.append(time.perf_counter())
        while counters.batch < min(_FEWEST, self.batches) or (
            counters.batch < self.batches and time.perf_counter() - times[0] < limit / 50
        ):
            counters.batch += len(self._steps(order)[0])
        times.append(time.perf_counter())
        if self.validation is not None:
            self._evaluate(self.validation, self.held_out)
        times.append(time.perf_counter())
        drawing, steps, validation = np.diff(times)
        return float(drawing + steps * self.batches / counters.batch + validation)

    def _out_of_time(self) -> tuple[str, str] | None:
        """Why the run is to stop if another epoch, taken to be as long as those that are done, ends
        after the time limit."""
        done, limit = self.counters.epoch - 1, self.settings.time_limit
        if limit is None or done == 0 or self.counters.batch:
            return None
        if (time.perf_counter() - self._begun) * (1 + 1 / done) <= float(limit):
            return None
        return "time limit", f"another epoch would not fit in {limit:g} s"

    def _epoch(self) -> Generator[Event, None, tuple[str, str] | None]:
        """Train and validate one epoch; return (reason, explanation) if the run is to stop."""
        counters, settings = self.counters, self.settings
        start = time.perf_counter()
        order = self.epoch_order(counters.epoch)
        images_before = counters.epoch_images
        rate = settings.learning_rate or 1.0
        while counters.batch < self.batches:
            if self.recorder is not None:
                self.recorder.before_step(counters)
            results, rate = self._steps(order)
            for result in results:
                batch = order[
                    counters.batch * self.batch_size : (counters.batch + 1) * self.batch_size
                ]
                if not is_finite(result):
                    return "diverged", (
                        f"the {'gradient' if np.isfinite(result.loss) else 'loss'} stopped being a finite number in epoch "
                        f"{counters.epoch}, batch {counters.batch + 1}{self._where()}; {self._kept()}; {ADVICE}"
                    )
                divisor = self._divisor(batch)
                counters.batch += 1
                counters.epoch_loss += result.loss * divisor
                counters.epoch_divisor += divisor
                counters.epoch_correct += result.correct
                counters.epoch_images += len(batch)
                counters.epoch_norm += result.gradient_norm
                now = time.perf_counter()
                speed = (counters.epoch_images - images_before) / (now - start)
                images_left = len(self.train) - counters.epoch_images
                later_images = (settings.epochs - counters.epoch) * len(self.train)
                yield BatchDone(
                    counters.epoch,
                    counters.batch,
                    counters.epoch_loss / counters.epoch_divisor,
                    self._accuracy(),
                    counters.epoch_images,
                    speed,
                    images_left / speed,
                    (images_left + later_images) / speed,
                )
            counters.optimizer_step = self.optimizer.step
            if self.recorder is not None:
                yield from self.recorder.after_step(self.training.grads, counters)
            if self._is_to_stop() and counters.batch < self.batches:
                self._fetch()
                yield from self._save_checkpoint()
                if counters.best_epoch == 0:  # better than the first ones
                    self._kept_weights = self.progress.last
                return (
                    "interrupted",
                    f"interrupted in epoch {counters.epoch} after batch {counters.batch}; all is saved",
                )
        return (yield from self._end_epoch(rate, start))

    def _end_epoch(
        self, rate: float, start: float
    ) -> Generator[Event, None, tuple[str, str] | None]:
        """Validate, keep the best weights, save, and decide whether to go on."""
        counters, settings = self.counters, self.settings
        loss = counters.epoch_loss / counters.epoch_divisor
        accuracy = self._accuracy()
        if self.other_weights:
            self.optimizer.evaluation(self.training.params, self.weights)
            self._keep_frozen(self.weights)
        self._fetch()
        validation = (
            self._evaluate(self.validation, self.held_out) if self.validation is not None else None
        )
        watched = loss if validation is None or validation.loss is None else validation.loss
        if not (
            np.isfinite(watched)
            and np.isfinite(self.progress.params).all()
            and np.isfinite(self.progress.last).all()
        ):
            what = (
                "weights are no longer finite numbers"
                if np.isfinite(watched)
                else f"validation loss is {watched}"
            )
            return "diverged", f"the {what} after epoch {counters.epoch}; {self._kept()}; {ADVICE}"
        # The best weights have the highest accuracy and, among equals, the lowest loss; where there
        # are no classes, the loss alone counts.
        score = accuracy if validation is None else validation.accuracy
        reached = (score if self.has_classes else -1.0, -watched)
        best = reached > (counters.best_accuracy, -counters.best_loss)
        if best:
            counters.best_epoch, counters.best_accuracy, counters.best_loss = (
                counters.epoch,
                reached[0],
                watched,
            )
            self.progress.best_params[:] = self.progress.last
        if watched < counters.watched - settings.min_delta:
            counters.watched, counters.epochs_waited = watched, 0
        else:
            counters.epochs_waited += 1
        rule = self.trainer._schedule_rule
        if rule.observe is not None:
            rule.observe(watched, self.schedule_state, **settings.schedule_kwargs)
        change, counters.previous_loss = abs(counters.previous_loss - loss), loss
        yield EpochDone(
            counters.epoch,
            loss,
            accuracy,
            validation.loss if validation else None,
            validation.accuracy if validation else None,
            rate,
            counters.epoch_norm / self.batches,
            time.perf_counter() - start,
            best,
            self.optimizer.step,
        )
        done = counters.epoch
        counters.start_epoch(done + 1)
        if best:
            yield from self._save_model(None)
        yield from self._save_checkpoint()
        if self._is_to_stop():
            return "interrupted", f"interrupted after epoch {done}; all is saved"
        if settings.tol is not None and change < settings.tol:
            return (
                "converged",
                f"the training loss changed by {change:.2g}, less than {settings.tol:g}, in epoch {done}",
            )
        if settings.patience is not None and counters.epochs_waited >= settings.patience:
            return "no improvement", f"no improvement of the loss in {settings.patience} epochs"
        return None

    def _accuracy(self) -> float:
        """That of the training images of this epoch so far; NaN where there are no classes."""
        counters = self.counters
        return counters.epoch_correct / counters.epoch_images if self.has_classes else math.nan

    def _fetch(self) -> None:
        """Bring weights and slots to the host from where they are trained, the same on all ranks."""
        self.backend.fetch(self.training.params, self.progress.params)
        if self.progress.evaluated is not None:
            self.backend.fetch(self.weights, self.progress.evaluated)
        self.optimizer.fetch()
        if self.ranks is None:
            return
        if self.settings.batch_statistics == "local":  # the running ones become those of all
            pairs = [(self.progress.params, self.training.params)]
            if self.progress.evaluated is not None:
                pairs.append((self.progress.evaluated, self.weights))
            for host, there in pairs:
                self.ranks.average(host[self.network.trainable_size :])
                self.backend.copy(host, there)
        self.ranks.check_same({"weights": zlib.crc32(self.progress.params.data)})

    def _where(self) -> str:
        """On which of several ranks the gradient is not finite."""
        found = [] if self.ranks is None else self.ranks.not_finite()
        return f", on rank {' and '.join(map(str, found))}" if found else ""

    def _kept(self) -> str:
        """Which weights are left when the run diverges."""
        best = self.counters.best_epoch
        return (
            f"the weights of epoch {best}, the best one, are kept"
            if best
            else "the first weights are kept"
        )

    def _evaluate(
        self, split: Split, order: np.ndarray | None, params: np.ndarray | None = None
    ) -> Evaluation:
        inference = self.inference
        if params is not None:
            inference = self._inference(params)
        return evaluate(
            inference,
            split,
            self.scale,
            self.dataset.classes,
            self.loss,
            order,
            self.dataset.task,
        )

    def _finish(self, reason: str, explanation: str) -> Iterator[Event]:
        """The test set, once, with the best weights; then the end of the run."""
        counters, test = self.counters, None
        if reason not in ("interrupted", "diverged") and self.dataset.test is not None:
            test = self._evaluate(self.dataset.test, None, self.progress.best_params)
            self.compile_seconds += test.compile_seconds
            yield from self._save_model(test)
        elif reason == "diverged" and counters.best_epoch == 0:
            yield from self._save_model(None)
        if self.recorder is not None and self.output is not None:
            self.recorder.save(self.output)  # where a run diverged, with the batches that led there
        yield RunEnded(
            reason,
            explanation,
            counters.epoch - (counters.batch == 0),
            counters.best_epoch,
            self.seconds,
            self.compile_seconds,
            test,
            self.output,
        )

    def model(self, test: Evaluation | None) -> Model:
        """The model with the best weights, and how it was made."""
        counters, settings = self.counters, self.settings
        figures: dict[str, Any] = {"epoch": counters.best_epoch}
        if counters.best_epoch:
            figures |= {
                "accuracy": counters.best_accuracy if self.has_classes else None,
                "loss": counters.best_loss,
                "of": "training" if self.validation is None else "validation",
            }
        if test is not None:
            accuracy = None if math.isnan(test.accuracy) else test.accuracy
            figures |= {"test_accuracy": accuracy, "test_loss": test.loss}
        hyperparameters = {
            hyper.name: float(value)
            for hyper, value in zip(
                self.loss.rule.hyperparameters, self.loss.hyperparameters, strict=True
            )
        }
        weights = self.loss.class_weights.tolist() if self.loss.rule.class_weights else None
        return Model(
            network=self.network.freeze(()),
            params=aligned_copy(self._kept_weights),
            classes=tuple(self.dataset.classes),
            maximum=self.dataset.maximum,
            image_dtype=self.dataset.image_dtype or self.dataset.train.images.dtype.name,
            labels=self.dataset.labels,
            task=self.dataset.task,
            seen=self.dataset.seen,
            normalization=self.normalization,
            probabilities=self.loss.rule.probabilities,
            threads=settings.threads,
            device=settings.device,
            training={
                "data": self.dataset.name,
                "fingerprint": self.fingerprint,
                "settings": settings.to_dict(),
                "loss": {
                    "name": self.loss.rule.name,
                    "hyperparameters": hyperparameters,
                    "class_weights": weights,
                },
                "figures": figures,
            },
        )

    def _save_model(self, test: Evaluation | None) -> Iterator[Event]:
        if self.output is not None:
            path = self.output / "model.safetensors"
            self.model(test).save(path)
            yield CheckpointSaved(path)

    def _save_checkpoint(self) -> Iterator[Event]:
        if self.output is not None:
            if self.recorder is not None:  # first, so that no line is missing when the run goes on
                self.recorder.save(self.output)
            self.progress.seconds = time.perf_counter() - self._begun
            path = self.output / "last.safetensors"
            save_checkpoint(path, self.network, self.settings, self.progress, self.fingerprint)
            yield CheckpointSaved(path)
