"""What a run holds: the buffers, the progress, and the model with its best weights."""

import math
import zlib
from copy import deepcopy
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from minicnn import __version__
from minicnn.data import Dataset
from minicnn.errors import DataError, SettingError
from minicnn.evaluation.loss import class_weights
from minicnn.evaluation.metrics import Evaluation
from minicnn.inference import Model
from minicnn.memory import aligned_copy
from minicnn.rules import StepRule
from minicnn.training.checkpoint import Checkpoint, Progress
from minicnn.training.distributed import Ranks
from minicnn.training.engine import Engine
from minicnn.training.inputs import Inputs
from minicnn.training.optimizer import Optimizer
from minicnn.training.record import Recorder
from minicnn.training.schedules import warm_up
from minicnn.training.settings import Settings
from minicnn.training.setup import Setup


class RunState:
    """The state of a run over one data set, new or as ``resume`` has it."""

    def __init__(
        self, setup: Setup, dataset: Dataset, output: Path | None, resume: Checkpoint | None
    ):
        settings, network = setup.settings, setup.network
        if resume is None and settings.init is not None and setup.init is None:
            raise SettingError("init is a model that was not loaded: use Trainer(load(init))")
        self.setup, self.network, self.dataset, self.output = setup, network, dataset, output
        self.ranks, self.inputs = setup.ranks, Inputs(setup, dataset, resume or setup.init)
        inputs = self.inputs
        model = network.name if settings.model == Settings.model else settings.model
        self.settings = replace(
            settings, batch_size=inputs.batch_size, data=dataset.name, model=model
        )
        strata = inputs.strata[inputs.train]
        weights = class_weights(settings.class_weights, strata, dataset.classes)
        self.loss = setup.make_loss(weights)
        if weights is not None:
            named = dict(zip(dataset.classes, weights, strict=True))
            self.settings = replace(self.settings, class_weights=named)
        if inputs.augment.mixes and not self.loss.rule.soft:
            raise SettingError(
                f"mixup and cutmix need a loss of soft targets, such as cross_entropy, not {self.loss.rule.name}"
            )
        rate = {} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}
        self.optimizer = Optimizer(
            setup.optimizer_rule,
            network,
            np.float32,
            settings.device,
            settings.decay,
            settings.factors,
            **settings.optimizer_kwargs,
            **rate,
        )
        self.schedule_state = dict(setup.schedule_rule.state)
        if resume is None:
            params = (
                network.initialize(
                    np.random.default_rng([settings.seed, 0]),
                    methods=settings.initialization,
                    images=inputs.first() if settings.initialization else None,
                )
                if setup.init is None
                else aligned_copy(setup.init.params)
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
        self.has_eval_params = isinstance(rule, StepRule) and rule.evaluation is not None
        if self.has_eval_params and settings.ema is not None:
            raise SettingError(f"optimizer {rule.name} averages the weights itself: leave ema out")
        threads = settings.threads if self.ranks is None else self._join(self.ranks)
        kept, self.progress.eval_params = self.progress.eval_params, None
        if self.has_eval_params or settings.ema is not None:
            self.progress.eval_params = aligned_copy(self.progress.params if kept is None else kept)
        self.engine = Engine(setup, inputs, self.loss, self.optimizer, self.progress, threads)
        self.recorder: Recorder | None = None
        if settings.record is not None and (self.ranks is None or self.ranks.rank == 0):
            if settings.device != "cpu":
                raise SettingError(
                    "record looks at weights and activations on the CPU: it goes with device=cpu only"
                )
            self.recorder = Recorder(
                network,
                self.progress.params,
                inputs.images,
                inputs.train,
                inputs.scale,
                settings.record or inputs.batches,
                inputs.batches,
            )
        self.seconds = 0.0
        self.compile_seconds = 0.0

    def _join(self, ranks: Ranks) -> int | None:
        """Check that all ranks have the same job, log how they share it, and return the threads of
        each."""
        settings = self.settings
        has_statistics = any(spec.kind == "state" for spec in self.network.parameters)
        if settings.device == "cuda" and has_statistics and settings.batch_statistics == "global":
            raise SettingError(
                "device cuda normalizes by the images of each rank: choose batch_statistics=local"
            )
        if ranks.size > self.inputs.batch_size:
            raise SettingError(
                f"batch_size {self.inputs.batch_size} gives work to as many ranks, and there are {ranks.size}"
            )
        progress = self.progress
        ranks.check_same(
            {
                "version": __version__,
                **settings.to_dict(),
                "images and labels": self.inputs.fingerprint,
                "network": self.network.to_dict(),
                "weights": zlib.crc32(progress.params.data),
                "progress": asdict(progress.counters),
            }
        )
        threads = ranks.threads(settings.threads)
        ranks.reduction, ranks.batch_statistics = settings.reduction, settings.batch_statistics
        ranks.asks_to_stop, ranks.stopping = lambda: self.setup.interrupted, False
        return threads

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.network != self.network:
            raise SettingError("the network differs from the one of the run to be resumed")
        if checkpoint.fingerprint != self.inputs.fingerprint:
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

    def scheduled(self, batch: int) -> dict[str, float]:
        """The hyperparameters that a schedule changes, for this batch: the scheduled one times the
        factor of the schedule, and the learning rate times that of the warm-up."""
        settings, usual = self.settings, self.optimizer.hyperparameters
        steps = (self.counters.epoch - 1) * self.inputs.batches + batch
        per_epoch = self.inputs.batches if settings.schedule_unit == "step" else 1
        factor = self.setup.schedule_rule.factor(
            steps if per_epoch > 1 else self.counters.epoch - 1 + batch / self.inputs.batches,
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
                steps + 1, settings.warmup_steps or settings.warmup_epochs * self.inputs.batches
            )
        return values

    def model(self, test: Evaluation | None) -> Model:
        """The model with the best weights, and how it was made."""
        counters, settings = self.counters, self.settings
        figures: dict[str, Any] = {"epoch": counters.best_epoch}
        if counters.best_epoch:
            figures |= {
                "accuracy": counters.best_accuracy if self.inputs.has_classes else None,
                "loss": counters.best_loss,
                "of": "training" if self.inputs.validation is None else "validation",
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
            normalization=self.inputs.normalization,
            probabilities=self.loss.rule.probabilities,
            threads=settings.threads,
            device=settings.device,
            training={
                "data": self.dataset.name,
                "fingerprint": self.inputs.fingerprint,
                "settings": settings.to_dict(),
                "loss": {
                    "name": self.loss.rule.name,
                    "hyperparameters": hyperparameters,
                    "class_weights": weights,
                },
                "figures": figures,
            },
        )
