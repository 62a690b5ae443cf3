"""The mean loss of some labelled images as a function of the weights."""

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minicnn.backends import StepInputs, StepOptions, cpu
from minicnn.data.dataset import as_array
from minicnn.data.normalization import scaled as as_read
from minicnn.errors import DataError, SettingError, short
from minicnn.evaluation.loss import Loss
from minicnn.inference import Model
from minicnn.memory import check_array
from minicnn.network.layers import Flatten
from minicnn.network.network import Network, check_network
from minicnn.rules import StepRule


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """The mean loss C(params) of ``images`` [N, H, W, C], scaled, with ``labels`` (class numbers [N],
    or values [N, outputs]).

    ``params`` [flat_size] is the point from which the weights are moved. The methods compute as in
    evaluation, in the dtype of ``params``: nothing is dropped out, and normalization is by the
    running statistics. `minicnn.insight.gradcheck` takes the loss as training has it.
    """

    network: Network
    params: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    loss: Loss
    threads: int | None = None

    def __post_init__(self) -> None:
        check_network(self.network)
        if not isinstance(self.loss, Loss):
            raise SettingError(f"loss must be a Loss(name, outputs), not {short(self.loss)}")
        check_array("params", self.params, (self.network.flat_size,), writable=False)
        images, shape = as_array("images", self.images), self.network.input_shape
        if images.dtype.kind not in "buif" or images.shape[1:] != shape or len(images) == 0:
            raise DataError(
                f"images must be numbers [N, {', '.join(map(str, shape))}], not {images.dtype} "
                f"{list(images.shape)}"
            )
        labels = self.loss.check((len(images), self.network.outputs), self.labels)
        vars(self).update(images=images, labels=labels)

    @classmethod
    def of(
        cls,
        model: Model,
        x: ArrayLike,
        y: ArrayLike,
        loss: Loss | None = None,
        maximum: float | None = None,
    ) -> "BatchLoss":
        """The loss of ``model`` on images and labels as `Model.evaluate` takes them; ``loss`` None
        is the model's own."""
        images, labels, scale = model.check_labelled(x, y, maximum)
        if loss is None:
            if "loss" not in model.training:
                raise SettingError(
                    "loss must be named: the model does not say with which loss it was trained"
                )
            loss = model.trained_loss()
        scaled = as_read(images, scale)
        return cls(model.network, model.params, scaled, labels, loss, model.threads)

    def since(self, layer: int) -> "BatchLoss":
        """The same as a function of the weights from ``layer`` on: what comes before is computed
        once.

        Its parameters are the last ones of the flat vector. Where no weight comes before, where a
        later layer reads what lies before ``layer``, or where there is state behind the weights, it
        is the function of all weights.
        """
        network, shape = self.network, self.network.shapes[layer]
        reads = network.reads[layer:]
        cut = (
            any(spec.layer < layer for spec in network.parameters)
            and min(value for values in reads for value in values) >= layer
        )
        if not cut or network.trainable_size < network.flat_size:
            return self
        flat = len(shape) == 1
        head = Network(
            network.input_shape, [*network.layers[:layer], *([] if flat else [Flatten()])]
        )
        activations = cpu.Inference(head, self.params[: head.flat_size], self.threads).logits(
            self.images, 1.0
        )
        shape = (1, 1, *shape) if flat else shape
        before = max(network.layer_names, key=len) + "_"  # which no layer is called
        names = [before if flat else "input", *network.layer_names[layer:]]
        following = [
            replace(
                network.layers[layer + i],
                name=names[i + 1],
                inputs=tuple(names[v - layer] for v in values),
            )
            for i, values in enumerate(reads)
        ]
        tail = Network(shape, [*([Flatten(name=before)] if flat else []), *following], network.name)
        params, images = self.params[head.flat_size :], activations.reshape(-1, *shape)
        return replace(self, network=tail, params=params, images=images)

    def along(self, vector: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
        """C at ``params`` + each of the ``coordinates`` · ``vector`` [flat_size], float64."""
        tail = self.since(first_layer(self.network, vector))
        base, vector = tail.params, vector[-len(tail.params) :]
        moved = base.copy()
        inference = cpu.Inference(tail.network, moved, tail.threads)
        losses = np.empty(len(coordinates))
        for i, coordinate in enumerate(coordinates):
            moved[:] = base + base.dtype.type(coordinate) * vector
            losses[i], _ = tail.loss(inference.logits(tail.images, 1.0), tail.labels)
        return losses

    def gradient(self, params: np.ndarray) -> tuple[float, np.ndarray]:
        """(C, its gradient [flat_size]) at ``params`` by the forward and the backward pass."""
        training, loss = self._training, self.loss
        training.params[:] = params
        data, none = loss.data(self.images, self.labels, 1.0), np.empty((0, 0), np.float32)
        everyone = np.arange(len(self.images))
        batch = StepInputs(everyone, loss.divisor(self.labels), 0, none)
        result = training.step(data, batch, none)
        return result.loss, training.grads.copy()

    @functools.cached_property
    def _training(self) -> cpu.TrainStep:
        no_update = StepRule("gradient", lambda step: None, ())
        return cpu.TrainStep(
            self.network,
            self.params.copy(),
            len(self.images),
            no_update,
            self.loss.rule,
            self.threads,
            StepOptions(frozen=True),
        )


def side_by_side(
    function: Callable[..., Any], items: Iterable[Any], threads: int | None
) -> Iterator[Any]:
    """``function`` of each of ``items``, in their order, as many at once as there are ``threads``
    (None: all cores).

    Where steps are small, that is what threads are best used for: inside of a step they wait for
    each other many times, and where other programs compute too, each time for long.
    """
    with ThreadPoolExecutor(cpu.resolve_threads(threads)) as pool:
        waiting = [pool.submit(function, item) for item in items]
        try:
            for one in waiting:
                yield one.result()
        finally:  # Ctrl-C, or an error
            for one in waiting:
                one.cancel()


def first_layer(network: Network, vector: np.ndarray) -> int:
    """Index of the first layer whose weights ``vector`` [flat_size] changes; the last layer with
    weights if it changes none."""
    layers = [spec.layer for spec in network.parameters]
    tensors = zip(layers, network.unflatten(vector).values(), strict=True)
    return min((layer for layer, tensor in tensors if tensor.any()), default=layers[-1])
