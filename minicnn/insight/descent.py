"""Descent: an optimizer's rule applied to the few coordinates of a landscape, with gradients from
the backward pass."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minicnn.insight.batch_loss import BatchLoss, first_layer
from minicnn.insight.directions import Direction, chosen
from minicnn.rules import AnyOptimizer
from minicnn.training.optimizer import Optimizer

FIRST_STEP = 0.05  # of the picture: how far a first step goes when no learning rate is given
# Converged: over the whole picture this gradient would change the loss by less than this fraction of
# its scale,
_FLAT = 0.05
_STILL = 0.002  # and the last step went less far than this fraction of the picture.


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where an optimizer went: ``points`` [steps + 1, coordinates], with the loss and the gradient
    at each.

    ``outcome`` is "converged", "not converged", "left the picture" or "diverged".
    """

    optimizer: str
    learning_rate: float | None
    points: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray
    outcome: str

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.points) - 1


class Plane:
    """The loss as a function of the coordinates along some directions.

    It computes on one thread; any number of threads may call `descend` at once.
    """

    def __init__(self, batch_loss: BatchLoss, directions: Sequence[Direction]):
        self.directions = directions
        layer = min(first_layer(batch_loss.network, one.vector) for one in directions)
        self._tail = replace(batch_loss.since(layer), threads=1)
        self._vectors = np.array([one.vector[-len(self._tail.params) :] for one in directions])
        self.origin = np.array([one.origin for one in directions])
        self._last = b"", (0.0, self.origin)  # a point, and what `gradient` returned for it

    @property
    def ranges(self) -> np.ndarray:
        """high − low of each direction."""
        return np.array([one.high - one.low for one in self.directions])

    def gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """(C, ∂C/∂c) at ``point`` [coordinates]: the gradient with respect to the weights, from the
        backward pass, along each direction. The last point is cached.

        params = own + Σ_i (c_i − origin_i) · v_i            ∂C/∂c_i = Σ_w ∂C/∂w · v_i[w]
        """
        if point.tobytes() != self._last[0]:
            moved = (point - self.origin).astype(self._vectors.dtype)
            loss, grads = self._tail.gradient(self._tail.params + moved @ self._vectors)
            self._last = point.tobytes(), (loss, self._vectors.astype(np.float64) @ grads)
        return self._last[1]

    def descend(
        self,
        start: Sequence[float],
        rule: str | AnyOptimizer,
        learning_rate: float | None = None,
        steps: int = 100,
        scale: float = 1.0,
        **hyperparameters: float,
    ) -> Trajectory:
        """Follow the rule from ``start`` for at most ``steps`` steps; ``learning_rate`` None: see
        `suitable_rate`.

        ``scale`` is a difference in loss that matters here: by it is judged what is flat.
        """
        if learning_rate is None:
            learning_rate = self.suitable_rate([start], rule, **hyperparameters)
        optimizer = _optimizer(rule, len(start), learning_rate, hyperparameters)
        point, own = np.array(start, np.float64), copy.copy(self)
        own._tail = replace(self._tail)  # with buffers of its own
        loss, gradient = own.gradient(point)
        points, losses, gradients = [point.copy()], [loss], [gradient]
        outcome = "not converged"
        while len(points) <= steps and outcome == "not converged":
            optimizer.update(point, own.gradient)
            if not np.isfinite(point).all():
                outcome = "diverged"
                break
            loss, gradient = own.gradient(point)
            moved = np.abs(point - points[-1])
            points.append(point.copy())
            losses.append(loss)
            gradients.append(gradient)
            outcome = self._outcome_at(point, loss, gradient, moved, scale)
        return Trajectory(
            optimizer.rule.name,
            learning_rate,
            np.array(points),
            np.array(losses),
            np.array(gradients),
            outcome,
        )

    def _outcome_at(
        self, point: np.ndarray, loss: float, gradient: np.ndarray, moved: np.ndarray, scale: float
    ) -> str:
        outside = [
            max(one.low - c, c - one.high) for one, c in zip(self.directions, point, strict=True)
        ]
        if not np.isfinite(loss):
            return "diverged"
        if (np.array(outside) > self.ranges).any():
            return "left the picture"
        flat = (np.abs(gradient) * self.ranges).max() < _FLAT * scale
        return "converged" if flat and (moved / self.ranges).max() < _STILL else "not converged"

    def suitable_rate(
        self, starts: Sequence[Sequence[float]], rule: str | AnyOptimizer, **hyperparameters: float
    ) -> float | None:
        """The learning rate with which the longest first step from ``starts`` goes a twentieth of
        the picture.

        None for a rule that has no learning rate.
        """
        lengths = []
        for start in starts:
            optimizer = _optimizer(rule, len(start), None, hyperparameters)
            point = np.array(start, np.float64)
            optimizer.update(point, self.gradient)
            lengths.append(float((np.abs(point - start) / self.ranges).max()))
        usual = optimizer.hyperparameters.get("learning_rate")
        longest = max(lengths)
        return (
            usual
            if usual is None or not 0 < longest < np.inf
            else float(f"{usual * FIRST_STEP / longest:.2g}")
        )


def descend(
    batch_loss: BatchLoss,
    directions: Sequence[str | Direction],
    start: Sequence[float],
    optimizer: str | AnyOptimizer = "gd",
    learning_rate: float | None = None,
    steps: int = 100,
    **hyperparameters: float,
) -> Trajectory:
    """The trajectory of ``optimizer`` from ``start`` on the loss over ``directions``.

    These are those of a surface, or of `minicnn.insight.directions.chosen`; see `Plane.descend` for
    the rest.
    """
    plane = Plane(batch_loss, chosen(batch_loss, directions))
    scale = plane.gradient(plane.origin)[0]
    return plane.descend(start, optimizer, learning_rate, steps, scale, **hyperparameters)


def _optimizer(
    rule: str | AnyOptimizer, size: int, rate: float | None, hyperparameters: dict[str, float]
) -> Optimizer:
    given = hyperparameters if rate is None else {**hyperparameters, "learning_rate": rate}
    return Optimizer(rule, size, np.float64, **given)
