"""Pictures of the loss: the surface over two directions, the slice along one, and the loss of one
prediction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from minicnn.insight.descent import Path
from minicnn.insight.prediction import LossCurve
from minicnn.insight.slice import Slice, verdict
from minicnn.insight.surface import Surface
from minicnn.report.plots import BLUE, ORANGE, PURPLE, SKY, SURFACE, VERMILION, YELLOW, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOG_FROM = (
    20.0  # highest over lowest loss, from which on a logarithmic scale is needed to see the floor
)
_PATHS = (
    VERMILION,
    SKY,
    YELLOW,
    PURPLE,
    ORANGE,
)  # of optimizers; all stand out from the surface's colours
_PANELS = 3  # of learning rates beside each other: their titles need the room
_WORDS = {
    "softmax": "predicted probability a of the true class",
    "output": "output a for the true class",
    "sigmoid": "predicted probability a of the true class",
}


def is_steep(losses: np.ndarray) -> bool:
    """Whether losses are so far apart that they should be shown on a logarithmic scale."""
    low, high = np.nanmin(losses), np.nanmax(losses)
    return bool(0 < low < high / _LOG_FROM)


def surface_plot(surface: Surface, paths: Sequence[Path] = ()) -> "Figure":
    """The surface in three dimensions, and its contours with the minimum, the model's own point and
    the paths down."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    steep, done = is_steep(surface.losses), np.isfinite(surface.losses)
    rows, columns = done.any(axis=1), done.any(axis=0)  # not all when it was interrupted
    losses = surface.losses[np.ix_(rows, columns)]
    shown = np.log10(losses) if steep else losses
    x, y = np.meshgrid(surface.x_values[columns], surface.y_values[rows])
    drawn = figure(height=8.6)
    above, below = cast("np.ndarray", drawn.subfigures(2, 1, height_ratios=(1.1, 1)))
    solid: Any = above.add_subplot(
        projection="3d", computed_zorder=False
    )  # the paths before the surface
    solid.plot_surface(x, y, shown, cmap=SURFACE, rcount=60, ccount=60, linewidth=0, alpha=0.9)
    solid.set(xlabel=surface.x.label, ylabel=surface.y.label, zlabel="mean loss C")
    solid.view_init(elev=40, azim=-60)
    for axis in (solid.xaxis, solid.yaxis, solid.zaxis):
        axis.set_major_locator(MaxNLocator(5))
    flat = below.add_subplot()
    low, high = shown.min(), shown.max()
    levels = low + (high - low) * np.linspace(0, 1, 25) ** (
        1 if steep else 2
    )  # closer where it is flat: at the bottom
    colours = flat.contourf(
        x, y, shown, levels=levels, cmap=SURFACE, norm=PowerNorm(1 if steep else 0.5, low, high)
    )
    flat.contour(x, y, shown, levels=levels, colors="white", linewidths=0.3)
    bar = below.colorbar(
        colours, ax=flat, label="mean loss C", ticks=MaxNLocator(8), spacing="proportional"
    )
    if steep:
        power = FuncFormatter(lambda exponent, _: f"{10**exponent:.3g}")
        bar.ax.yaxis.set_major_formatter(power)
        solid.zaxis.set_major_formatter(power)
    flat.set(xlabel=surface.x.label, ylabel=surface.y.label)
    flat.set_xlim(surface.x_values[0], surface.x_values[-1])
    flat.set_ylim(surface.y_values[0], surface.y_values[-1])
    if surface.x.path is not None and surface.y.path is not None:
        flat.plot(
            surface.x.path,
            surface.y.path,
            color="white",
            marker=".",
            markersize=4,
            label="path of the run",
        )
    low_corner, high_corner = np.array([(one.low, one.high) for one in (surface.x, surface.y)]).T
    names = list(dict.fromkeys(path.optimizer for path in paths))
    for number, path in enumerate(paths):
        colour = _PATHS[names.index(path.optimizer) % len(_PATHS)]
        first = path.optimizer not in [earlier.optimizer for earlier in paths[:number]]
        flat.plot(
            *path.points.T,
            color=colour,
            linewidth=1.6,
            marker=".",
            markersize=3,
            label=path.optimizer if first else None,
        )
        flat.plot(*path.points[0], color=colour, marker="s", markersize=6, markeredgecolor="black")
        inside = ((path.points >= low_corner) & (path.points <= high_corner)).all(axis=1)
        heights = np.where(inside, np.log10(path.losses) if steep else path.losses, np.nan)
        solid.plot(*path.points.T, heights, color=colour, linewidth=1.6, zorder=10)
        solid.plot(
            *path.points[:1].T,
            heights[:1],
            color=colour,
            marker="s",
            markeredgecolor="black",
            zorder=11,
        )
    row, column = surface.minima()[0]
    flat.plot(
        surface.x_values[column],
        surface.y_values[row],
        "*",
        color="white",
        markersize=14,
        markeredgecolor="black",
        linestyle="none",
        label=f"minimum, C = {surface.losses[row, column]:.4g}",
    )
    flat.plot(
        surface.x.origin,
        surface.y.origin,
        "o",
        color="white",
        markersize=8,
        markeredgecolor="black",
        linestyle="none",
        label=f"the model, C = {surface.own_loss:.4g}",
    )
    below.legend(loc="outside lower center", ncols=4, facecolor="0.8")
    return drawn


def slice_plot(cut: Slice) -> "Figure":
    """The curve with its tangent at the model's own point; below, the steps of each learning rate
    as arrows."""
    walks = cut.walks
    across = max(1, min(_PANELS, len(walks)))
    down = -(-len(walks) // across)
    drawn = figure(height=3.4 + 3.2 * down)
    grid = drawn.add_gridspec(1 + down, across)
    top = drawn.add_subplot(grid[0, :])
    _curve(top, cut)
    reach = 0.25 * (cut.direction.high - cut.direction.low)
    along = cut.direction.origin + np.array([-reach, reach])
    top.plot(
        along,
        cut.own_loss + cut.own_slope * (along - cut.direction.origin),
        color=VERMILION,
        linewidth=1.5,
        label=f"tangent, slope {cut.own_slope:.3g}",
    )
    top.plot(
        cut.direction.origin,
        cut.own_loss,
        "o",
        color=VERMILION,
        label=f"the model, C = {cut.own_loss:.4g}",
    )
    rate = cut.largest_rate
    hint = (
        "not convex at its lowest point"
        if rate is None
        else f"steps settle for a learning rate below 2/C'' = {rate:.3g}"
    )
    top.set(ylabel="mean loss C", title=f"C'' = {cut.curvature:.3g} at the lowest point: {hint}")
    top.set(xlabel=cut.direction.label, xlim=(cut.direction.low, cut.direction.high))
    top.legend()
    shared = None
    for number, walk in enumerate(walks):
        axes = shared = drawn.add_subplot(
            grid[1 + number // across, number % across], sharey=shared
        )
        _curve(axes, cut)
        places, losses = walk.points[:, 0], walk.losses
        for start, end, low, high in zip(
            places[:-1], places[1:], losses[:-1], losses[1:], strict=True
        ):
            arrow: Any = axes.annotate(
                "",
                (end, high),
                (start, low),
                annotation_clip=False,
                arrowprops={"arrowstyle": "->", "color": VERMILION},
            )
            arrow.arrow_patch.set_clip_path(axes.patch)  # a step may lead out of the picture
        axes.plot(places, losses, ".", color=VERMILION)
        axes.set(
            title=f"learning rate {walk.learning_rate:.3g}:\n{verdict(walk)}",
            xlabel=cut.direction.label,
        )
        axes.set_xlim(cut.values[0], cut.values[-1])
        axes.set_ylabel("mean loss C" if number % across == 0 else "")
    return drawn


def _curve(axes: Any, cut: Slice) -> None:
    spread = float(np.ptp(cut.losses))
    axes.plot(cut.values, cut.losses, color=BLUE)
    axes.set_ylim(cut.losses.min() - 0.1 * spread, cut.losses.max() + 0.1 * spread)
    axes.grid(alpha=0.3)


def loss_curve_plot(curve: LossCurve) -> "Figure":
    """C and its slope dC/da over the prediction for the true class, with the samples of a batch."""
    drawn = figure(height=3.6)
    for axes, values, label in zip(
        drawn.subplots(1, 2),
        (curve.losses, curve.slopes),
        (f"loss C ({curve.loss})", "slope dC/da"),
        strict=True,
    ):
        axes.plot(curve.values, values, color=BLUE, label="all other classes alike")
        axes.set(xlabel=_WORDS[curve.prediction], ylabel=label)
        axes.grid(alpha=0.3)
        if values is curve.losses and len(curve.sample_values):
            axes.plot(
                curve.sample_values,
                curve.sample_losses,
                ".",
                color=VERMILION,
                alpha=0.6,
                label=f"{len(curve.sample_values)} images",
            )
            axes.legend()
    return drawn
