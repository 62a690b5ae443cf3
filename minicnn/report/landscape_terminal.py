"""The loss in the terminal: heat map and tables of a surface, sparklines of a slice and of a
loss."""

from collections.abc import Sequence

import numpy as np

from minicnn.insight.descent import Trajectory
from minicnn.insight.prediction import LossCurve
from minicnn.insight.slice import Slice, verdict
from minicnn.insight.surface import Surface
from minicnn.report.console import table
from minicnn.report.plots import is_steep
from minicnn.report.terminal import heat_map, sparkline

_WIDTH = 60  # of a curve


def show_surface(
    surface: Surface, trajectories: Sequence[Trajectory], minima: Sequence[int | None], title: str
) -> None:
    """Print the surface from above, its minima, and where each trajectory ended; ``minima`` are the
    numbers of their minima, and ``title`` says what the loss is of."""
    x, y, losses = surface.x, surface.y, surface.losses
    cells = surface.minima()
    print(
        f"loss      {title}: from {np.nanmin(losses):.4g} to {np.nanmax(losses):.4g}, the model's own "
        f"{surface.own_loss:.4g}{'; shown on a logarithmic scale' if is_steep(losses) else ''}"
    )
    print(f"across    {x.label}, from {x.low:.3g} to {x.high:.3g}; the model is at {x.origin:.3g}")
    print(f"upwards   {y.label}, from {y.low:.3g} to {y.high:.3g}; the model is at {y.origin:.3g}")
    shown = (
        np.log(losses) if is_steep(losses) else np.sqrt(losses - np.nanmin(losses))
    )  # more shades at the bottom
    last = len(losses) - 1
    marks = {
        (last - row, column): str(number)
        for number, (row, column) in list(enumerate(cells, 1))[8::-1]
    }
    own = [
        int(np.abs(axis - one.origin).argmin())
        for axis, one in ((surface.y_values, y), (surface.x_values, x))
    ]
    marks |= {(last - own[0], own[1]): "o"}
    heat_map(shown[::-1], marks)
    print("          o the model   1 the lowest minimum, 2 the next")
    rows: list[tuple[object, ...]] = [
        (number, f"{surface.x_values[j]:.3g}", f"{surface.y_values[i]:.3g}", f"{losses[i, j]:.4f}")
        for number, (i, j) in enumerate(cells, 1)
    ]
    table("minima on the grid", ["minimum", "x", "y", "loss"], rows)
    if trajectories:
        columns = "optimizer", "learning rate", "start", "end", "loss", "steps", "ended", "minimum"
        ends = [
            (*_ends(one), one.outcome, minimum)
            for one, minimum in zip(trajectories, minima, strict=True)
        ]
        rows = [(one.optimizer, *end) for one, end in zip(trajectories, ends, strict=True)]
        table("trajectories", columns, rows)


def show_slice(cut: Slice) -> None:
    """Print the curve, its derivative, what a learning rate may be, and how each descent went."""
    one, rate = cut.direction, cut.largest_rate
    low, high = cut.values[0], cut.values[-1]
    print(
        f"along     {one.label}, from {low:.3g} to {high:.3g}; loss from {cut.losses.min():.4g} to {cut.losses.max():.4g}"
    )
    print(f"          {sparkline(cut.losses, _WIDTH)}")
    print(f"          {' ' * round((one.origin - low) / (high - low) * (_WIDTH - 1))}o")
    print(f"o model   at {one.origin:.4g}, loss {cut.own_loss:.4f}, dC/dw {cut.own_derivative:.4g}")
    hint = (
        "not convex there"
        if rate is None
        else f"learning rates above 2/C'' = {rate:.3g} do not settle there"
    )
    print(f"bottom    at {cut.bottom:.4g}, C'' = {cut.curvature:.3g}: {hint}")
    columns = "learning rate", "start", "end", "loss", "steps", "", "loss after each step"
    rows = [(*_ends(one), verdict(one), sparkline(one.losses)) for one in cut.descents]
    table("steps", columns, rows)


def show_loss_curve(curve: LossCurve) -> None:
    """Print C and dC/da over the prediction, and the images by their prediction."""
    low, high = curve.values[0], curve.values[-1]
    what = "output" if curve.prediction == "output" else "probability"
    print(
        f"loss      {curve.loss}, over the {what} a of the true class from {low:.2g} to {high:.2g}"
    )
    print(
        f"C         {sparkline(curve.losses, _WIDTH)}  {curve.losses[0]:.4g} to {curve.losses[-1]:.4g}"
    )
    print(
        f"dC/da     {sparkline(curve.derivatives, _WIDTH)}  {curve.derivatives[0]:.4g} to {curve.derivatives[-1]:.4g}"
    )
    if len(curve.sample_values):
        edges = np.linspace(low, high, _WIDTH + 1)
        counts, _ = np.histogram(np.clip(curve.sample_values, low, high), edges)
        print(
            f"images    {sparkline(np.where(counts, counts, np.nan))}  {len(curve.sample_values)}, mean loss "
            f"{curve.sample_losses.mean():.4g}"
        )


def _ends(one: Trajectory) -> tuple[object, ...]:
    """(learning rate, start, end, loss there, steps) as a table has them."""
    start, end = (", ".join(f"{c:.3g}" for c in point) for point in one.points[[0, -1]])
    return one.learning_rate, start, end, f"{one.losses[-1]:.4f}", one.steps
