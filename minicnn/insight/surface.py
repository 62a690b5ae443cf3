"""The loss over two directions on a grid, and its minima."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from minicnn.backends.surface import first_layer
from minicnn.errors import SettingError
from minicnn.inference import Model
from minicnn.insight.directions import Direction, chosen, largest_gradients
from minicnn.insight.objective import Objective
from minicnn.training.loss import Loss

# cells to each side among which a minimum is the lowest: one would find many along a slanting
# valley
_NEIGHBOURS = 2


@dataclass(frozen=True, eq=False)
class Surface:
    """Mean losses [Y, X], float64, at the coordinates ``y_values`` [Y] and ``x_values`` [X]; NaN
    where none was computed."""

    x: Direction
    y: Direction
    x_values: np.ndarray
    y_values: np.ndarray
    losses: np.ndarray
    own_loss: float

    @property
    def complete(self) -> bool:
        """Whether every point was computed: nobody pressed Ctrl-C."""
        return not np.isnan(self.losses).any()

    @property
    def scale(self) -> float:
        """A difference in loss that matters in this picture: by how much it differs, and at most
        the own loss."""
        return float(min(np.nanmax(self.losses) - np.nanmin(self.losses), self.own_loss or np.inf))

    def minima(self) -> list[tuple[int, int]]:
        """(row, column) of each local minimum of the grid, the lowest first."""
        cells = {
            self._downhill(row, column)
            for row, column in np.argwhere(np.isfinite(self.losses)).tolist()
        }
        return sorted(cells, key=lambda cell: float(self.losses[cell]))

    def minimum_below(self, point: Sequence[float]) -> tuple[int, int] | None:
        """The local minimum to which the way leads downhill from ``point`` (x, y); None outside of
        the grid."""
        cell = []
        for value, axis in ((point[1], self.y_values), (point[0], self.x_values)):
            spacing = abs(axis[1] - axis[0])
            if not axis.min() - spacing <= value <= axis.max() + spacing:
                return None
            cell.append(int(np.abs(axis - value).argmin()))
        return self._downhill(*cell) if np.isfinite(self.losses[cell[0], cell[1]]) else None

    def _downhill(self, row: int, column: int) -> tuple[int, int]:
        while True:
            top, left = max(0, row - _NEIGHBOURS), max(0, column - _NEIGHBOURS)
            around = self.losses[top : row + _NEIGHBOURS + 1, left : column + _NEIGHBOURS + 1]
            down, right = np.unravel_index(np.nanargmin(around), around.shape)
            if not around[down, right] < self.losses[row, column]:
                return row, column
            row, column = top + int(down), left + int(right)


def loss_surface(
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    directions: Sequence[str | Direction] = (),
    points: int = 41,
    *,
    loss: Loss | None = None,
    run: Path | str | None = None,
    seed: int = 0,
) -> Surface:
    """The loss of ``model`` on images ``x`` with labels ``y``, on ``points`` × ``points`` weights
    around its own.

    ``directions`` are two of what `minicnn.insight.directions.chosen` takes; none are the two
    weights with the largest gradients. ``loss`` None is the one that the model was trained with;
    ``run`` is the folder of a recorded run.
    """
    objective = Objective.of(model, x, y, loss)
    return surface_of(objective, two_directions(objective, directions, run, seed), points)


def two_directions(
    objective: Objective,
    wanted: Sequence[str | Direction],
    run: Path | str | None = None,
    seed: int = 0,
) -> list[Direction]:
    """The two directions that are ``wanted``; without any, the two weights with the largest
    gradients."""
    wanted = list(wanted) or largest_gradients(objective)
    if len(wanted) != 2:
        raise SettingError(f"directions must be two, not {len(wanted)}")
    first, second = chosen(objective, wanted, run, seed)
    lengths, along = (
        [float(np.linalg.norm(one.vector)) for one in (first, second)],
        float(first.vector @ second.vector),
    )
    if abs(along) > 0.999 * lengths[0] * lengths[1]:
        raise SettingError(f"directions must differ: {first.label} and {second.label} are the same")
    return [first, second]


def surface_of(
    objective: Objective,
    directions: Sequence[Direction],
    points: int = 41,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Surface:
    """The surface over two directions, row by row from the model's own point outwards.

    ``progress(rows done, rows)`` is called after each row. Ctrl-C keeps those that are done, if
    there are two at least.
    """
    x, y = directions
    layers = [first_layer(objective.network, direction.vector) for direction in directions]
    tail = objective.since(min(layers))
    # A row shares all layers before the first that it changes, so rows run along the direction that
    # begins later.
    outer, inner = (x, y) if layers[0] < layers[1] else (y, x)
    rows = tail.rows(inner.vector[-len(tail.params) :])
    own_loss = float(rows(tail.params, np.zeros(1))[0] / tail.divisor)
    along, across = inner.coordinates(points), outer.coordinates(points)
    losses = np.full((points, points), np.nan)
    try:
        for done, row in enumerate(np.argsort(np.abs(across - outer.origin), kind="stable"), 1):
            params = (
                tail.params
                + np.float32(across[row] - outer.origin) * outer.vector[-len(tail.params) :]
            )
            losses[row] = rows(params, along - inner.origin) / tail.divisor
            progress(done, points)
    except KeyboardInterrupt:
        if np.isfinite(losses).any(axis=1).sum() < 2:
            raise
    return Surface(
        x,
        y,
        x.coordinates(points),
        y.coordinates(points),
        losses if outer is y else losses.T,
        own_loss,
    )
