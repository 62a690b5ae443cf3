"""The loss along one direction: the curve, its slope, and the steps w ← w − learning rate ·
slope."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from minicnn.inference import Model
from minicnn.insight.descent import Path, Plane
from minicnn.insight.directions import Direction, chosen, largest_gradients
from minicnn.insight.objective import Objective
from minicnn.training.loss import Loss

_LADDER = (
    0.1,
    0.5,
    0.9,
    1.1,
    1.3,
    1.6,
    2.0,
    3.0,
    6.0,
    12.0,
)  # of 2 / C'': tried when no learning rate is given
_KINDS = ("converging", "oscillating", "diverging")


@dataclass(frozen=True, eq=False)
class Slice:
    """The curve ``losses`` [points] over ``values`` [points], with the slope dC/dc at the model's
    own point.

    The values go from ``direction.low`` to ``high``, and on to where the walks went, by half as
    much at most. ``curvature`` is C'' at ``bottom``, the lowest point of the range: near there a
    learning rate above 2 / C'' does not settle.
    """

    direction: Direction
    values: np.ndarray
    losses: np.ndarray
    own_loss: float
    own_slope: float
    bottom: float
    curvature: float
    walks: list[Path]

    @property
    def largest_rate(self) -> float | None:
        """2 / C'', beyond which steps near the lowest point grow instead of shrinking; None where
        the curve is not convex.

        Near a minimum C ≈ C''/2 · (w − w*)², so that each step multiplies w − w* by 1 − learning
        rate · C''.
        """
        return 2 / self.curvature if self.curvature > 0 else None


def loss_slice(
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    direction: str | Direction | None = None,
    learning_rates: Sequence[float] | None = None,
    points: int = 201,
    *,
    loss: Loss | None = None,
    start: float | None = None,
    steps: int = 12,
) -> Slice:
    """The loss of ``model`` along one direction, by default the weight with the largest gradient,
    and walks from ``start``.

    ``learning_rates`` None shows the smallest of 0.1 to 12 times 2 / C'' that converges, that
    oscillates and that diverges.
    """
    objective = Objective.of(model, x, y, loss)
    (found,) = chosen(objective, [direction or largest_gradients(objective, 1)[0]])
    return slice_of(objective, found, learning_rates, points, start, steps)


def slice_of(
    objective: Objective,
    direction: Direction,
    learning_rates: Sequence[float] | None = None,
    points: int = 201,
    start: float | None = None,
    steps: int = 12,
) -> Slice:
    """The slice along ``direction``; a ``start`` that is None is a fifth of the range from its
    higher end."""
    rows = objective.rows(direction.vector)

    def curve(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        values = np.linspace(low, high, points)
        return values, rows(objective.params, values - direction.origin) / objective.divisor

    values, losses = curve(direction.low, direction.high)
    plane = Plane(objective, [direction])
    own_loss, own_slope = plane.gradient(np.array([direction.origin]))
    span, bottom = direction.high - direction.low, float(values[losses.argmin()])
    ahead, behind = (
        plane.gradient(np.array([bottom + side * 0.01 * span]))[1][0] for side in (1, -1)
    )
    curvature = float((ahead - behind) / (0.02 * span))
    if start is None:
        start = (
            direction.low + 0.2 * span if losses[0] > losses[-1] else direction.high - 0.2 * span
        )
    slope = float(plane.gradient(np.array([start]))[1][0])
    largest = 2 / curvature if curvature > 0 else span / abs(slope or 1.0)
    rates = (
        [float(f"{share * largest:.2g}") for share in _LADDER]
        if learning_rates is None
        else learning_rates
    )
    walks: list[Path] = []
    for rate in rates:
        walk = plane.descend([start], "gd", rate, steps, float(min(np.ptp(losses), own_loss)))
        if learning_rates is not None or verdict(walk) in set(_KINDS) - {
            verdict(other) for other in walks
        }:
            walks.append(walk)
        if learning_rates is None and len(walks) == len(_KINDS):
            break
    places = [
        direction.low,
        direction.high,
        *(place for walk in walks for place in walk.points[:, 0]),
    ]
    values, losses = curve(
        max(min(places), direction.low - 0.5 * span), min(max(places), direction.high + 0.5 * span)
    )
    return Slice(
        direction, values, losses, float(own_loss), float(own_slope[0]), bottom, curvature, walks
    )


def verdict(walk: Path) -> str:
    """How the steps of a walk along one direction go on: converging, oscillating, diverging, or
    hardly moving.

    Diverging: the loss rose, or the walk left the picture. Oscillating: most of the last steps
    turned back.
    """
    slopes = walk.gradients[:, 0]
    if walk.outcome in ("diverged", "left the picture") or walk.losses[-1] > walk.losses[0]:
        return "diverging"
    turns = np.sign(slopes[1:]) != np.sign(slopes[:-1])
    if walk.outcome != "converged" and turns[len(turns) // 2 :].mean() > 0.5:
        return "oscillating"
    return "hardly moving" if abs(slopes[-1]) > 0.7 * abs(slopes[0]) else "converging"
