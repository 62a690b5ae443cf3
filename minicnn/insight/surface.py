"""The loss over two directions on a grid, and its minima."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minicnn.errors import SettingError
from minicnn.insight.batch_loss import BatchLoss, first_layer, side_by_side
from minicnn.insight.directions import Direction, chosen, largest_gradients

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
        """The local minimum to which the descent leads from ``point`` (x, y); None outside of
        the grid."""
        cell = []
        for value, axis in ((point[1], self.y_values), (point[0], self.x_values)):
            spacing = abs(axis[1] - axis[0])
            if not axis.min() - spacing <= value <= axis.max() + spacing:
                return None
            cell.append(int(np.abs(axis - value).argmin()))
        return self._downhill(*cell) if np.isfinite(self.losses[cell[0], cell[1]]) else None

    def losses_at(self, points: np.ndarray) -> np.ndarray:
        """The losses [N] at ``points`` [N, 2] (x, y), interpolated between those of the grid; NaN
        outside of it."""
        corners, parts = [], []
        for axis, values in ((self.y_values, points[:, 1]), (self.x_values, points[:, 0])):
            corner = np.clip(np.searchsorted(axis, values) - 1, 0, len(axis) - 2)
            part = (values - axis[corner]) / (axis[corner + 1] - axis[corner])
            corners.append(corner)
            parts.append(np.where((part >= 0) & (part <= 1), part, np.nan))
        (row, column), (down, right) = corners, parts
        above, below = (
            self.losses[i, column] * (1 - right) + self.losses[i, column + 1] * right
            for i in (row, row + 1)
        )
        return np.asarray(above * (1 - down) + below * down)

    def _downhill(self, row: int, column: int) -> tuple[int, int]:
        while True:
            top, left = max(0, row - _NEIGHBOURS), max(0, column - _NEIGHBOURS)
            around = self.losses[top : row + _NEIGHBOURS + 1, left : column + _NEIGHBOURS + 1]
            down, right = np.unravel_index(np.nanargmin(around), around.shape)
            if not around[down, right] < self.losses[row, column]:
                return row, column
            row, column = top + int(down), left + int(right)


def loss_surface(
    batch_loss: BatchLoss,
    directions: Sequence[str | Direction] = (),
    points: int = 41,
    *,
    run: Path | str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Surface:
    """The loss on ``points`` × ``points`` weights over two directions, row by row from the model's
    own point outwards.

    ``directions`` are what `two_directions` takes, with ``run``, the folder of a recorded run, and
    ``seed``. ``progress(rows done, rows)`` is called after each row. Ctrl-C keeps those that are
    done, if there are two at least.
    """
    x, y = both = two_directions(batch_loss, directions, run, seed)
    layers = [first_layer(batch_loss.network, direction.vector) for direction in both]
    # What comes before the first changed layer is computed once for a row, so that rows run along
    # the direction that begins later.
    outer, inner = (x, y) if layers[0] < layers[1] else (y, x)
    tail = batch_loss.since(min(layers))
    outer_vector, inner_vector = (one.vector[-len(tail.params) :] for one in (outer, inner))
    (own_loss,) = tail.along(inner_vector, np.zeros(1))
    along = inner.coordinates(points) - inner.origin
    across = (outer.coordinates(points) - outer.origin).astype(tail.params.dtype)
    losses = np.full((points, points), np.nan)
    rows = np.argsort(np.abs(across), kind="stable")

    def of_row(row: int) -> np.ndarray:
        moved = replace(tail, params=tail.params + across[row] * outer_vector, threads=1)
        return moved.along(inner_vector, along)

    try:
        every = zip(rows, side_by_side(of_row, rows, tail.threads), strict=True)
        for done, (row, found) in enumerate(every, 1):
            losses[row] = found
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
        float(own_loss),
    )


def two_directions(
    batch_loss: BatchLoss,
    wanted: Sequence[str | Direction],
    run: Path | str | None = None,
    seed: int = 0,
) -> list[Direction]:
    """The two directions that are ``wanted``, of what `minicnn.insight.directions.chosen` takes;
    none are the two weights with the largest gradients."""
    wanted = list(wanted) or largest_gradients(batch_loss)
    if len(wanted) != 2:
        raise SettingError(f"directions must be two, not {len(wanted)}")
    first, second = chosen(batch_loss, wanted, run, seed)
    lengths, along = (
        [float(np.linalg.norm(one.vector)) for one in (first, second)],
        float(first.vector @ second.vector),
    )
    if abs(along) > 0.999 * lengths[0] * lengths[1]:
        raise SettingError(f"directions must differ: {first.label} and {second.label} are the same")
    return [first, second]
