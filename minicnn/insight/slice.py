"""The loss along one direction: the curve, its derivative, and the steps w ← w − learning rate ·
derivative."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.descent import Plane, Trajectory
from minicnn.insight.directions import Direction, chosen, largest_gradients

# times 2 / C'': the learning rates tried when none is given
_LADDER = (0.1, 0.5, 0.9, 1.1, 1.3, 1.6, 2.0, 3.0, 6.0, 12.0)
_KINDS = ("converging", "oscillating", "diverging")


@dataclass(frozen=True, eq=False)
class Slice:
    """The curve ``losses`` [points] over ``values`` [points], with the derivative dC/dc at the
    model's own point.

    The values go from ``direction.low`` to ``high``, and on to where the descents went, by half as
    much at most. ``curvature`` is C'' at ``bottom``, the lowest point of the range: near there a
    learning rate above 2 / C'' does not settle.
    """

    direction: Direction
    values: np.ndarray
    losses: np.ndarray
    own_loss: float
    own_derivative: float
    bottom: float
    curvature: float
    descents: list[Trajectory]

    @property
    def largest_rate(self) -> float | None:
        """2 / C'', beyond which steps near the lowest point grow instead of shrinking; None where
        the curve is not convex.

        Near a minimum C ≈ C''/2 · (w − w*)², so that each step multiplies w − w* by 1 − learning
        rate · C''.
        """
        return 2 / self.curvature if self.curvature > 0 else None


def loss_slice(
    batch_loss: BatchLoss,
    direction: str | Direction | None = None,
    learning_rates: Sequence[float] | None = None,
    points: int = 201,
    start: float | None = None,
    steps: int = 12,
) -> Slice:
    """The loss along one direction, by default the weight with the largest gradient, and gradient
    descent from ``start``.

    A ``start`` that is None is a fifth of the range from its higher end. ``learning_rates`` None
    shows the smallest of 0.1 to 12 times 2 / C'' that converges, that oscillates and that diverges.
    """
    (along,) = chosen(batch_loss, [direction or largest_gradients(batch_loss, 1)[0]])
    low, high, span = along.low, along.high, along.high - along.low
    values = along.coordinates(points)
    losses = batch_loss.along(along.vector, values - along.origin)
    plane = Plane(batch_loss, [along])

    def derivative(value: float) -> float:
        return float(plane.gradient(np.array([value]))[1][0])

    own_loss = float(plane.gradient(np.array([along.origin]))[0])
    own_derivative, bottom = derivative(along.origin), float(values[losses.argmin()])
    ahead, behind = (derivative(bottom + side * 0.01 * span) for side in (1, -1))
    curvature = (ahead - behind) / (0.02 * span)
    if start is None:
        start = low + 0.2 * span if losses[0] > losses[-1] else high - 0.2 * span
    largest = 2 / curvature if curvature > 0 else span / abs(derivative(start) or 1.0)
    rates = learning_rates
    if rates is None:
        rates = [float(f"{factor * largest:.2g}") for factor in _LADDER]
    descents: list[Trajectory] = []
    for rate in rates:
        one = plane.descend([start], "gd", rate, steps, float(min(np.ptp(losses), own_loss)))
        shown = {verdict(other) for other in descents}
        if learning_rates is not None or verdict(one) in set(_KINDS) - shown:
            descents.append(one)
        if learning_rates is None and len(descents) == len(_KINDS):
            break
    ends = [low, high, *(place for one in descents for place in one.points[:, 0])]
    values = np.linspace(
        max(min(ends), low - 0.5 * span), min(max(ends), high + 0.5 * span), points
    )
    losses = batch_loss.along(along.vector, values - along.origin)
    return Slice(along, values, losses, own_loss, own_derivative, bottom, curvature, descents)


def verdict(descent: Trajectory) -> str:
    """How the steps of a descent along one direction go on: converging, oscillating, diverging, or
    hardly moving.

    Diverging: the loss rose, or the steps left the picture. Oscillating: most of the last steps
    went back.
    """
    derivatives = descent.gradients[:, 0]
    if (
        descent.outcome in ("diverged", "left the picture")
        or descent.losses[-1] > descent.losses[0]
    ):
        return "diverging"
    changes = np.sign(derivatives[1:]) != np.sign(derivatives[:-1])
    if descent.outcome != "converged" and changes[len(changes) // 2 :].mean() > 0.5:
        return "oscillating"
    return "hardly moving" if abs(derivatives[-1]) > 0.7 * abs(derivatives[0]) else "converging"
