"""Pictures of the loss: the surface over two directions, the slice along one, and the loss of one
prediction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from minicnn.insight.descent import Trajectory
from minicnn.insight.prediction import LossCurve
from minicnn.insight.slice import Slice, verdict
from minicnn.insight.surface import Surface
from minicnn.report.plots import (
    BLUE,
    ORANGE,
    PURPLE,
    SKY,
    SURFACE,
    VERMILION,
    YELLOW,
    figure,
    is_steep,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# of optimizers; all stand out from the surface's colours
_COLOURS = (VERMILION, SKY, YELLOW, PURPLE, ORANGE)
_PANELS = 3  # of learning rates beside each other: their titles need the room
_TICKS, MOST_TICKS = 5, 8
_WORDS = {"output": "output a for the true class"}
_PROBABILITY = "predicted probability a of the true class"


def surface_plot(
    surface: Surface, trajectories: Sequence[Trajectory] = (), title: str = ""
) -> "Figure":
    """The surface in three dimensions, and its contours with the minimum, the model's own point and
    the trajectories; ``title`` says what the loss is of."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    steep, done = is_steep(surface.losses), np.isfinite(surface.losses)
    rows, columns = done.any(axis=1), done.any(axis=0)  # not all when it was interrupted
    losses = surface.losses[np.ix_(rows, columns)]
    heights = np.log10(losses) if steep else losses
    x, y = np.meshgrid(surface.x_values[columns], surface.y_values[rows])
    drawn = figure(f"Loss around the weights{title and f': {title}'}", height=9.0)
    above, below = cast("np.ndarray", drawn.subfigures(2, 1, height_ratios=(1.25, 1)))
    # With the order given, lines lie before the surface.
    solid: Any = above.add_subplot(projection="3d", computed_zorder=False)
    solid.plot_surface(x, y, heights, cmap=SURFACE, rcount=60, ccount=60, linewidth=0, alpha=0.9)
    solid.view_init(elev=40, azim=-60)
    solid.set_box_aspect((4, 4, 3), zoom=0.85)
    flat = below.add_subplot()
    low, high = heights.min(), heights.max()
    # closer where it is flat: at the bottom
    levels = low + (high - low) * np.linspace(0, 1, 25) ** (1 if steep else 2)
    norm = PowerNorm(1 if steep else 0.5, low, high)
    colours = flat.contourf(x, y, heights, levels=levels, cmap=SURFACE, norm=norm)
    flat.contour(x, y, heights, levels=levels, colors="white", linewidths=0.3)
    what = "mean loss C" + ", logarithmic" * steep
    bar = below.colorbar(colours, ax=flat, label=what, spacing="proportional")
    xlabel, ylabel = shown(surface.x.label), shown(surface.y.label)
    solid.set(zlabel=what)
    solid.set_xlabel(xlabel, labelpad=10)
    solid.set_ylabel(ylabel, labelpad=14)
    solid.zaxis.labelpad = 8
    for axis in (solid.xaxis, solid.yaxis, solid.zaxis, bar.ax.yaxis):
        axis.set_major_locator(MaxNLocator(_TICKS))
    if steep:
        digits = (1, 2, 5) if high - low < 2.5 else (1,)
        powers = [f"{digit}e{exponent}" for exponent in range(-37, 38) for digit in digits]
        places = np.log10(np.array(powers, float))
        inside = places[(places >= low) & (places <= high)]
        inside = inside[:: -(-len(inside) // MOST_TICKS) or 1]
        for axis in (solid.zaxis, bar.ax.yaxis):
            axis.set_ticks(inside, [f"{10**place:g}" for place in inside])
    flat.set(xlabel=xlabel, ylabel=ylabel)
    flat.set_xlim(surface.x_values[0], surface.x_values[-1])
    flat.set_ylim(surface.y_values[0], surface.y_values[-1])

    def draw(points: np.ndarray, losses: np.ndarray, colour: str, label: str) -> None:
        """A trajectory in both panels; only the first of a label is named."""
        named = label in flat.get_legend_handles_labels()[1]
        style = {"color": colour, "linewidth": 1.6}
        square: dict[str, Any] = {"marker": "s", "markersize": 6, "markeredgecolor": "black"}
        flat.plot(*points.T, marker=".", markersize=3, label=None if named else label, **style)
        flat.plot(*points[0], color=colour, **square)
        corners = np.array([(one.low, one.high) for one in (surface.x, surface.y)]).T
        inside = ((points >= corners[0]) & (points <= corners[1])).all(axis=1)
        height = np.where(inside, np.log10(losses) if steep else losses, np.nan)
        solid.plot(*points.T, height, zorder=10, **style)
        solid.plot(*points[:1].T, height[:1], color=colour, zorder=11, **square)

    if surface.x.path is not None and surface.y.path is not None:
        points = np.column_stack([surface.x.path, surface.y.path])
        draw(points, surface.losses_at(points), "white", "trajectory of the run")
    names = list(dict.fromkeys(one.optimizer for one in trajectories))
    for one in trajectories:
        colour = _COLOURS[names.index(one.optimizer) % len(_COLOURS)]
        draw(one.points, one.losses, colour, shown(one.optimizer))
    if trajectories or surface.x.path is not None:
        flat.plot([], [], "s", color="0.6", markeredgecolor="black", label="start")
    row, column = surface.minima()[0]
    marks = [
        (surface.x_values[column], surface.y_values[row], "*", surface.losses[row, column]),
        (surface.x.origin, surface.y.origin, "o", surface.own_loss),
    ]
    for (x_mark, y_mark, mark, loss), size, words in zip(
        marks, (14, 8), ("lowest on the grid", "the model"), strict=True
    ):
        style = {"color": "white", "markeredgecolor": "black", "linestyle": "none"}
        label = f"{words}, C = {loss:.4g}"
        flat.plot(x_mark, y_mark, mark, markersize=size, label=label, clip_on=False, **style)
        height = np.log10(loss) if steep else loss
        solid.plot([x_mark], [y_mark], [height], mark, markersize=size, zorder=12, **style)
    below.legend(loc="outside lower center", ncols=3, facecolor="0.8")
    return drawn


def slice_plot(cut: Slice) -> "Figure":
    """The curve with its tangent at the model's own point; below, the steps of each learning rate
    as arrows."""
    descents, label = cut.descents, shown(cut.direction.label)
    across = max(1, min(_PANELS, len(descents)))
    down = -(-len(descents) // across)
    drawn = figure(f"Loss along {label}, all other weights fixed", height=3.6 + 3.2 * down)
    grid = drawn.add_gridspec(1 + down, across)
    top = drawn.add_subplot(grid[0, :])
    _curve(top, cut)
    origin, reach = cut.direction.origin, 0.25 * (cut.direction.high - cut.direction.low)
    along = np.array([-reach, reach])
    top.plot(
        origin + along,
        cut.own_loss + cut.own_derivative * along,
        color=VERMILION,
        linewidth=1.5,
        label=f"tangent, dC/dw = {cut.own_derivative:.3g}",
    )
    model = f"the model, C = {cut.own_loss:.4g}"
    top.plot(origin, cut.own_loss, "o", color=VERMILION, label=model)
    rate = cut.largest_rate
    hint = (
        "not convex at its lowest point"
        if rate is None
        else f"steps settle for a learning rate below 2/C'' = {rate:.3g}"
    )
    top.set_title(f"C'' = {cut.curvature:.3g} at the lowest point: {hint}", fontsize=10)
    top.set(xlabel=label, ylabel="mean loss C", xlim=(cut.direction.low, cut.direction.high))
    top.legend()
    shared = None
    for number, one in enumerate(descents):
        place = grid[1 + number // across, number % across]
        axes = shared = drawn.add_subplot(place, sharey=shared)
        _curve(axes, cut)
        places, losses = one.points[:, 0], one.losses
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
        axes.plot(places, losses, ".", color=VERMILION, label="steps")
        axes.set_title(f"learning rate {one.learning_rate:.3g}:\n{verdict(one)}", fontsize=10)
        axes.set(xlabel=label, ylabel="" if number % across else "mean loss C")
        axes.set_xlim(cut.values[0], cut.values[-1])
        axes.locator_params(axis="x", nbins=_TICKS)
        if number == 0:
            axes.legend(*([one[-1:] for one in axes.get_legend_handles_labels()]))
    return drawn


def _curve(axes: Any, cut: Slice) -> None:
    spread = float(np.ptp(cut.losses)) or 1.0
    axes.plot(cut.values, cut.losses, color=BLUE, label="loss of all images")
    axes.set_ylim(cut.losses.min() - 0.1 * spread, cut.losses.max() + 0.1 * spread)
    axes.grid(alpha=0.3)


def loss_curve_plot(curve: LossCurve) -> "Figure":
    """C and its derivative dC/da over the prediction for the true class, with the samples of a
    batch."""
    drawn = figure(f"Loss of one image: {shown(curve.loss)}", height=4.2)
    names = "loss C", "derivative dC/da"
    for axes, values, label in zip(
        drawn.subplots(1, 2), (curve.losses, curve.derivatives), names, strict=True
    ):
        axes.plot(curve.values, values, color=BLUE, label="all other classes alike")
        axes.set(xlabel=_WORDS.get(curve.prediction, _PROBABILITY), ylabel=label)
        axes.grid(alpha=0.3)
        if values is curve.losses and len(curve.sample_values):
            count = f"{len(curve.sample_values)} images"
            axes.plot(
                curve.sample_values,
                curve.sample_losses,
                ".",
                color=VERMILION,
                alpha=0.6,
                label=count,
            )
        axes.legend()
    return drawn
