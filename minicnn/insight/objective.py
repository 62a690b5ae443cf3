"""What is looked at from all sides: the mean loss of some labelled images as a function of the
weights."""

import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from minicnn.backends import cpu
from minicnn.backends.surface import LossRows
from minicnn.errors import SettingError
from minicnn.inference import Model
from minicnn.network.layers import Flatten
from minicnn.network.network import Network
from minicnn.rules import StepRule
from minicnn.training.loss import Loss


@dataclass(frozen=True, eq=False)
class Objective:
    """C(params) of ``images`` float32 [N, H, W, C], scaled, with ``labels`` (class numbers [N], or
    values [N, outputs]), as in evaluation: nothing is dropped out, and normalization is by the
    running statistics.

    ``params`` [flat_size] is the model's own point.
    """

    network: Network
    params: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    loss: Loss
    threads: int | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        x: ArrayLike,
        y: ArrayLike,
        loss: Loss | None = None,
        maximum: float | None = None,
    ) -> "Objective":
        """The loss of ``model`` on images and labels as `Model.evaluate` takes them; ``loss`` None
        is the model's own."""
        images, labels, scale = model.check_labelled(x, y, maximum)
        if loss is None:
            if "loss" not in model.training:
                raise SettingError(
                    "loss must be named: the model does not say with which loss it was trained"
                )
            loss = model.trained_loss()
        scaled = images.astype(np.float32) * np.float32(scale)
        return cls(model.network, model.params, scaled, labels, loss, model.threads)

    def since(self, layer: int) -> "Objective":
        """The same as a function of the weights from ``layer`` on: what comes before is computed,
        once, for all images.

        Its parameters are the last ones of the flat vector. Where a later layer reads what lies
        before ``layer``, or there is state behind the weights, it is the function of all weights.
        """
        network, shape = self.network, self.network.shapes[layer]
        reads = network.reads[layer:]
        cut = layer > 0 and min(value for values in reads for value in values) >= layer
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
        names = ["before" if flat else "input", *network.layer_names[layer:]]
        following = [
            replace(
                network.layers[layer + i],
                name=names[i + 1],
                inputs=tuple(names[v - layer] for v in values),
            )
            for i, values in enumerate(reads)
        ]
        tail = Network(
            shape, [*([Flatten(name="before")] if flat else []), *following], network.name
        )
        return Objective(
            tail,
            self.params[head.flat_size :],
            activations.reshape(-1, *shape),
            self.labels,
            self.loss,
            self.threads,
        )

    def rows(self, direction: np.ndarray) -> LossRows:
        """What computes the summed loss along ``direction``; `divisor` makes the mean of it."""
        loss = self.loss
        rows, table = loss.table(self.labels)
        return LossRows(
            self.network,
            direction,
            self.images,
            rows,
            loss.rule,
            table,
            loss.class_weights,
            loss.hyperparameters,
            self.threads,
        )

    @property
    def divisor(self) -> float:
        """What turns the summed loss into the mean."""
        return self.loss.divisor(self.labels)

    def gradient(self, params: np.ndarray) -> tuple[float, np.ndarray]:
        """(C, its gradient [flat_size]) at ``params`` by the forward and the backward pass."""
        training, loss = self._training, self.loss
        training.params[:] = params
        rows = self.images.reshape(len(self.images), -1)
        labels, table = loss.table(self.labels)
        none = np.empty((0, 0), np.float32)
        result = training.step(
            rows,
            labels,
            np.arange(len(rows)),
            1.0,
            table,
            loss.class_weights,
            loss.hyperparameters,
            self.divisor,
            0,
            none,
            none,
        )
        return result.loss, training.grads.copy()

    @functools.cached_property
    def _training(self) -> cpu.Training:
        no_update = StepRule("gradient", lambda step: None, ())
        return cpu.Training(
            self.network,
            self.params.copy(),
            len(self.images),
            no_update,
            self.loss.rule,
            self.threads,
            frozen=True,
        )
