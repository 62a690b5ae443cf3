"""The steps of a run on its device, from the images of a batch to the weights that they change."""

import itertools
import timeit
import zlib
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from minicnn.backends import StepInputs, StepOptions, StepResult, backend
from minicnn.evaluation.loss import Loss
from minicnn.evaluation.profile import Profile, profile
from minicnn.rules import OptimizerRule
from minicnn.training.checkpoint import Progress
from minicnn.training.distributed import SharedInference
from minicnn.training.inputs import Inputs
from minicnn.training.optimizer import Optimizer
from minicnn.training.setup import Setup


def is_finite(result: StepResult) -> bool:
    """Whether loss and gradient are finite numbers, so that the step was made."""
    return bool(np.isfinite(result.loss) and np.isfinite(result.gradient_norm))


class _NotFinite(Exception):
    """Ends the step of a rule whose gradient is not finite."""

    def __init__(self, result: StepResult):
        super().__init__()
        self.result = result


class Engine:
    """Owns the buffers of a run. Call `compile` first: it makes ``training``, whose steps change
    ``training.params``, and ``inference``, which evaluates ``weights``: the same parameters, their
    moving average, or those that the optimizer computes."""

    def __init__(
        self,
        setup: Setup,
        inputs: Inputs,
        loss: Loss,
        optimizer: Optimizer,
        progress: Progress,
        threads: int | None,
    ):
        self._settings, self._network, self._ranks = setup.settings, setup.network, setup.ranks
        self._backend = backend(setup.settings.device)
        self._inputs, self._loss, self._optimizer = inputs, loss, optimizer
        self._progress, self._threads = progress, threads
        self._data = loss.data(inputs.images, inputs.labels, inputs.scale, inputs.sample_weights)

    def step(self, order: np.ndarray, scheduled: dict[str, float]) -> StepResult:
        """One step on the images ``order``."""
        vectors = self._optimizer.vectors
        if isinstance(self._optimizer.rule, OptimizerRule):
            batch = self._batch(order, self._optimizer.scalars(**scheduled))
            return self.training.step(self._data, batch, vectors)
        results: list[StepResult] = []

        def gradient(params: np.ndarray) -> tuple[float, np.ndarray]:
            batch = self._batch(order, np.empty((1, 0), params.dtype))
            results.append(self.training.step(self._data, batch, vectors))
            if not is_finite(results[-1]):
                raise _NotFinite(results[-1])
            return results[-1].loss, self.training.grads

        try:
            self._optimizer.update(self.training.params, gradient, **scheduled)
            self._keep_frozen(self.training.params)
        except _NotFinite as stopped:
            return stopped.result
        return results[0]

    def steps(
        self, order: np.ndarray, first: int, scheduled: Callable[[int], dict[str, float]]
    ) -> tuple[list[StepResult], float]:
        """The steps from batch ``first`` of the epoch's ``order`` on, as many as the device makes at
        once, with the hyperparameters ``scheduled`` (batch); their results, and the last learning
        rate."""
        batches: list[StepInputs] = []
        values: dict[str, float] = {}
        steps_per_call = self.training.steps_per_call if self._settings.ema is None else 1
        for index in range(first, min(first + steps_per_call, self._inputs.batches)):
            values = scheduled(index)
            images = self._inputs.batch(order, index)
            if steps_per_call == 1:
                result = self.step(images, values)
                if self._settings.ema is not None:
                    self._average(self._settings.ema)
                return [result], values.get("learning_rate", 1.0)
            batches.append(self._batch(images, self._optimizer.scalars(**values)))
        results = self.training.steps(self._data, batches, self._optimizer.vectors)
        return results, values.get("learning_rate", 1.0)

    def _average(self, decay: float) -> None:
        """Move the average towards the weights, running statistics included; the first step's
        weights are its beginning, as in PyTorch's ``AveragedModel(use_buffers=True)``."""
        if self._optimizer.step == 1:
            self._backend.copy(self.training.params, self.weights)
        else:
            self._backend.scale(decay, self.weights)
            self._backend.axpy(1.0 - decay, self.training.params, self.weights)
            self._keep_frozen(self.weights)

    def _keep_frozen(self, vector: Any) -> None:
        """Write the parameters of the frozen layers into ``vector`` again, to the bit."""
        for begin, end in self._frozen:
            self._backend.copy(self._first[begin:end], vector[begin:end])

    def divisor(self, order: np.ndarray) -> float:
        """The number by which the summed loss of the images ``order`` is divided to give their mean
        loss."""
        weights = self._inputs.sample_weights
        return self._loss.divisor(
            self._inputs.labels[order], None if weights is None else weights[order]
        )

    def _batch(self, order: np.ndarray, scalars: np.ndarray) -> StepInputs:
        key = (self._settings.seed * 0x9E3779B97F4A7C15 + self._optimizer.step) % 2**64
        views = self._inputs.views(self._progress.counters.epoch)
        return StepInputs(order, self.divisor(order), key, scalars, views)

    def compile(self) -> None:
        """Compile or load every kernel by a step that changes nothing, one rank after another."""
        if self._ranks is None:
            self._compile()
        else:
            self._ranks.one_by_one(self._compile)

    def _compile(self) -> None:
        settings = self._settings
        self.training = self._backend.TrainStep(
            self._network,
            self._progress.params,
            self._inputs.batch_size,
            self._optimizer.rule,
            self._loss.rule,
            self._threads,
            StepOptions(
                settings.clip_grad or 0.0,
                settings.clip_grad_value or 0.0,
                self._optimizer.spans,
                ranks=self._ranks,
            ),
        )
        self._frozen = [
            (spec.offset, spec.offset + spec.size)
            for spec in self._network.parameters
            if spec.layer in self._network.frozen
        ]
        self._first: Any = None
        if self._frozen:
            self._first = self._backend.to_device(self._progress.params.copy())
        evaluated = self._progress.eval_params
        self.weights = (
            self.training.params if evaluated is None else self._backend.to_device(evaluated)
        )
        self.inference = self.inference_of(self.weights)
        views = self._inputs.views(self._progress.counters.epoch)
        self.training.compile(self._data, self._optimizer.vectors, views)
        if not isinstance(self._optimizer.rule, OptimizerRule):
            self._optimizer.compile()
        if self._inputs.validation is not None:
            # Of two images: one alone is computed by other functions.
            self.inference.logits(self._inputs.validation.images[:2], self._inputs.scale)
            self._loss(np.zeros((1, self._network.outputs)), self._inputs.labels[:1])

    def inference_of(self, weights: Any) -> Any:
        """Forward passes with ``weights``, a vector on the device, on all ranks."""
        inference = self._backend.Inference(self._network, weights, self._threads)
        return inference if self._ranks is None else SharedInference(inference, self._ranks)

    def use_own_weights(self) -> None:
        """Set ``weights`` to those that the optimizer wants to be evaluated."""
        self._optimizer.evaluation(self.training.params, self.weights)
        self._keep_frozen(self.weights)

    def fetch(self) -> None:
        """Bring weights and slots to the host from where they are trained, the same on all ranks."""
        self._backend.to_host(self.training.params, self._progress.params)
        if self._progress.eval_params is not None:
            self._backend.to_host(self.weights, self._progress.eval_params)
        self._optimizer.fetch()
        if self._ranks is None:
            return
        if self._settings.batch_statistics == "local":  # the running ones become those of all
            pairs = [(self._progress.params, self.training.params)]
            if self._progress.eval_params is not None:
                pairs.append((self._progress.eval_params, self.weights))
            for host, on_device in pairs:
                self._ranks.average(host[self._network.trainable_size :])
                self._backend.copy(host, on_device)
        self._ranks.check_same({"weights": zlib.crc32(self._progress.params.data)})

    def profile(self, scheduled: Callable[[int], dict[str, float]], seconds: float) -> Profile:
        """Where the time of training steps goes: takes steps for some ``seconds``, with the
        hyperparameters ``scheduled`` (batch)."""
        inputs, optimizer, done = self._inputs, self._optimizer, itertools.count()
        order = inputs.order(1)

        def step() -> int:
            images = inputs.batch(order, next(done) % inputs.batches)
            self.step(images, scheduled(0))
            return len(images)

        batch = self._batch(inputs.batch(order, 0), np.empty((1, 0)))
        others = {"gather": _time(lambda: self.training.gather(self._data, batch))}
        if isinstance(optimizer.rule, OptimizerRule):
            params, grads = self.training.params, self.training.grads
            others["optimizer"] = _time(lambda: optimizer.update(params, grads))
        others = {name: its / inputs.batch_size for name, its in others.items()}
        return profile(self._network, self.training, step, others, seconds)


def _time(work: Callable[[], object]) -> float:
    """The seconds that a call of ``work`` takes after the first one, the median of ten."""
    return median(timeit.repeat(work, repeat=11, number=1)[1:])
