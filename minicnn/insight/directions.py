"""Directions through the space of weights: the axes of a landscape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minicnn.errors import SettingError
from minicnn.inference import Model
from minicnn.insight import weights
from minicnn.insight.batch_loss import BatchLoss
from minicnn.model_file import load
from minicnn.network.network import Network
from minicnn.training.record import load_record

_REACHES = 0.25 * 2.0 ** np.arange(
    7
)  # how far the range of a weight goes to each side: until the loss has risen, or
_USUAL_REACH = 4.0  # where it never rises


@dataclass(frozen=True, eq=False)
class Direction:
    """An axis: the weights at coordinate c are ``params + (c − origin) · vector``, in a picture
    from ``low`` to ``high``.

    ``origin`` is the coordinate of the model's own point: a single weight's value, else 0.
    ``vector`` [flat_size] is float32. ``path`` [points] are coordinates of a recorded run along it.
    """

    label: str
    vector: np.ndarray
    origin: float = 0.0
    low: float = -1.0
    high: float = 1.0
    path: np.ndarray | None = None

    def coordinates(self, points: int) -> np.ndarray:
        """``points`` coordinates from ``low`` to ``high``, float64."""
        return np.linspace(self.low, self.high, points)


def single_weight(network: Network, params: np.ndarray, text: str) -> Direction:
    """The axis of the one weight that ``text`` names; see `minicnn.insight.weights.parse`."""
    index = weights.parse(network, text)
    vector = np.zeros_like(params)
    vector[index] = 1
    value = float(params[index])
    return Direction(weights.name(network, index), vector, value, value - 1, value + 1)


def random_direction(
    network: Network, params: np.ndarray, rng: np.random.Generator, label: str = "random"
) -> Direction:
    """A Gaussian direction in which every filter, or row of weights into a unit, is as long as the
    model's own.

    Biases, and the scales and shifts of normalizations, stay as they are. Source: Li et al.,
    "Visualizing the loss landscape of neural nets", NeurIPS 2018, section 4.
    """
    vector = np.zeros_like(params)
    own, drawn = network.unflatten(params), network.unflatten(vector)
    for spec in network.parameters:
        if spec.kind == "weight":
            name, tensor = spec.name, drawn[spec.name]
            filters = tuple(range(tensor.ndim - 1))
            draw = rng.standard_normal(tensor.shape)
            length = np.sqrt((own[name].astype(float) ** 2).sum(axis=filters))
            tensor[:] = draw * (length / np.sqrt((draw**2).sum(axis=filters)))
    return Direction(label, vector)


def line_to(
    network: Network, params: np.ndarray, model: Model, label: str = "other model"
) -> Direction:
    """The line to another model of the same network: it is at 1, the own point at 0."""
    shapes = [
        [(spec.name, spec.shape) for spec in one.parameters] for one in (network, model.network)
    ]
    if shapes[0] != shapes[1]:
        raise SettingError(
            f"{label} has another network than the model: there is no line between them"
        )
    vector = model.params - params
    if not vector.any():
        raise SettingError(
            f"{label} has the same weights as the model: there is no line between them"
        )
    return Direction(label, vector, 0.0, -0.5, 1.5)


def principal_directions(params: np.ndarray, folder: Path | str) -> list[Direction]:
    """The first two principal directions of a recorded run (``train --record``), with its trajectory,
    seen from ``params``."""
    record = load_record(folder)
    vectors, path, fractions = record.principal_directions()
    end = (record.first + record.path[-1] @ record.basis - params) @ vectors.T
    found = []
    for number, (vector, along, fraction) in enumerate(
        zip(vectors, (path + end).T, fractions, strict=True), 1
    ):
        low, high = min(along.min(), 0.0), max(along.max(), 0.0)
        margin = 0.15 * (high - low)
        # of the squared distances on the path
        label = f"principal direction {number} ({100 * fraction:.0f} %)"
        found.append(Direction(label, vector, 0.0, low - margin, high + margin, along))
    return found


def largest_gradients(batch_loss: BatchLoss, count: int = 2) -> list[str]:
    """The names of the ``count`` weights, biases left out, with the largest gradients at the own
    point."""
    network = batch_loss.network
    grads = np.abs(batch_loss.gradient(batch_loss.params)[1])
    tensors = network.unflatten(grads)
    for spec in network.parameters:
        if spec.kind != "weight":
            tensors[spec.name][:] = 0
    return [
        weights.name(network, int(index)) for index in np.argsort(-grads, kind="stable")[:count]
    ]


def chosen(
    batch_loss: BatchLoss,
    wanted: Sequence[str | Direction],
    run: Path | str | None = None,
    seed: int = 0,
) -> list[Direction]:
    """The directions that are ``wanted``, in ranges in which the loss can be seen to rise.

    Each is a `Direction`, a weight (``conv1.weight[0,0,0,3]``), ``random``, ``pc1`` or ``pc2``
    (principal directions of the recorded run in the folder ``run``), or ``to:PATH``, the line to
    another model.
    """
    network, params = batch_loss.network, batch_loss.params
    found = []
    for number, text in enumerate(wanted):
        if isinstance(text, Direction):
            found.append(text)
        elif text == "random":
            rng = np.random.default_rng([seed, number])
            found.append(random_direction(network, params, rng, f"random direction {number + 1}"))
        elif text in ("pc1", "pc2"):
            if run is None:
                raise SettingError(
                    f"{text} is a direction of a recorded run: give the folder of a `train --record`"
                )
            found.append(principal_directions(params, run)[int(text[2]) - 1])
        elif text.startswith("to:"):
            line = line_to(network, params, load(text[3:]), text[3:])
            found.append(replace(line, label=f"line to {Path(text[3:]).name}"))
        else:
            found.append(fitted(batch_loss, single_weight(network, params, text)))
    return found


def fitted(batch_loss: BatchLoss, direction: Direction) -> Direction:
    """``direction`` with a range of 0.25, 0.5, ... 16 to each side, at one end of which the loss
    has risen by half.

    Where it rises on both sides, at both; where on none, the range is 4.
    """
    losses = batch_loss.along(direction.vector, np.concatenate([[0.0], -_REACHES, _REACHES]))
    rises = (losses[1:] > 1.5 * losses[0]).reshape(2, -1)
    reach = max(
        (float(_REACHES[side.argmax()]) for side in rises if side.any()), default=_USUAL_REACH
    )
    return replace(direction, low=direction.origin - reach, high=direction.origin + reach)
