"""One run: the loop over epochs and batches."""

import math
import time
from collections.abc import Generator, Iterator

import numpy as np

from minicnn.data import Split
from minicnn.evaluation.metrics import Evaluation, evaluate
from minicnn.training.checkpoint import save_checkpoint
from minicnn.training.engine import is_finite
from minicnn.training.events import (
    BatchDone,
    CheckpointSaved,
    Compiled,
    EpochDone,
    Event,
    RunEnded,
    RunStarted,
)
from minicnn.training.settings import shown
from minicnn.training.state import RunState

_FEWEST = 20  # batches that are timed
ADVICE = "try a smaller learning rate, clip_grad=1, or warmup_epochs=1"


class Run(RunState):
    """One run over one data set."""

    def _is_to_stop(self) -> bool:
        """Whether the run was interrupted; on all ranks at the same step."""
        return self.setup.interrupted if self.ranks is None else self.ranks.stopping

    def compile(self) -> float:
        """Compile or load every kernel; return the seconds that it took."""
        start = time.perf_counter()
        self.engine.compile()
        if self.recorder is not None:
            self.recorder.compile()
        return time.perf_counter() - start

    def events(self) -> Iterator[Event]:
        """Run, and yield every event."""
        settings, counters = self.settings, self.counters
        yield RunStarted(
            self.network.name,
            self.network.parameter_count,
            len(self.inputs.train),
            len(self.inputs.held_out),
            self.inputs.batches,
            counters.epoch,
            settings.epochs,
            {name: value for name, value in settings.to_dict().items() if value is not None},
            shown(settings, self.setup.usual),
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
        """Estimate the seconds of an epoch from its first batches, trained for a fiftieth of
        ``limit`` seconds, and its validation. What this changes belongs to this run alone."""
        self.compile_seconds = self.compile()
        times, counters = [time.perf_counter()], self.counters
        order = self.inputs.order(counters.epoch)
        self.inputs.views(counters.epoch)
        times.append(time.perf_counter())
        while counters.batch < min(_FEWEST, self.inputs.batches) or (
            counters.batch < self.inputs.batches and time.perf_counter() - times[0] < limit / 50
        ):
            counters.batch += len(self.engine.steps(order, counters.batch, self.scheduled)[0])
        times.append(time.perf_counter())
        if self.inputs.validation is not None:
            self._evaluate(self.inputs.validation, self.inputs.held_out)
        times.append(time.perf_counter())
        drawing, steps, validation = np.diff(times)
        return float(drawing + steps * self.inputs.batches / counters.batch + validation)

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
        order = self.inputs.order(counters.epoch)
        images_before = counters.epoch_images
        rate = settings.learning_rate or 1.0
        while counters.batch < self.inputs.batches:
            if self.recorder is not None:
                self.recorder.before_step(counters)
            results, rate = self.engine.steps(order, counters.batch, self.scheduled)
            for result in results:
                batch = self.inputs.batch(order, counters.batch)
                if not is_finite(result):
                    return "diverged", (
                        f"the {'gradient' if np.isfinite(result.loss) else 'loss'} stopped being a finite number in epoch "
                        f"{counters.epoch}, batch {counters.batch + 1}{self._where()}; {self._kept()}; {ADVICE}"
                    )
                divisor = self.engine.divisor(batch)
                counters.batch += 1
                counters.epoch_loss += result.loss * divisor
                counters.epoch_divisor += divisor
                counters.epoch_correct += result.correct
                counters.epoch_images += len(batch)
                counters.epoch_norm += result.gradient_norm
                now = time.perf_counter()
                speed = (counters.epoch_images - images_before) / (now - start)
                images_left = len(self.inputs.train) - counters.epoch_images
                later_images = (settings.epochs - counters.epoch) * len(self.inputs.train)
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
                yield from self.recorder.after_step(self.engine.training.grads, counters)
            if self._is_to_stop() and counters.batch < self.inputs.batches:
                self.engine.fetch()
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
        if self.has_eval_params:
            self.engine.use_own_weights()
        self.engine.fetch()
        validation = (
            self._evaluate(self.inputs.validation, self.inputs.held_out)
            if self.inputs.validation is not None
            else None
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
        reached = (score if self.inputs.has_classes else -1.0, -watched)
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
        rule = self.setup.schedule_rule
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
            counters.epoch_norm / self.inputs.batches,
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
        """The accuracy on the training images of this epoch so far; NaN where there are no
        classes."""
        counters = self.counters
        return (
            counters.epoch_correct / counters.epoch_images if self.inputs.has_classes else math.nan
        )

    def _where(self) -> str:
        """Names the ranks whose gradient is not finite, if there are several ranks."""
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
        inference = self.engine.inference
        if params is not None:
            inference = self.engine.inference_of(params)
        return evaluate(
            inference,
            split,
            self.inputs.scale,
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
            of_inputs = self.inputs.fingerprint, self.inputs.normalization
            save_checkpoint(path, self.network, self.settings, self.progress, *of_inputs)
            yield CheckpointSaved(path)
