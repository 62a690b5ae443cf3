"""see the loss around a model's weights: the surface over two directions with optimizers' trajectories,
or a slice along one"""

import argparse
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.cli import common
from minicnn.cli.evaluate import add_model_and_data, model_and_data
from minicnn.cli.settings import add_option, key_value
from minicnn.errors import UsageError
from minicnn.kinds import COUNT, INDEX, POSITIVE, Kind

if TYPE_CHECKING:
    import numpy as np

    from minicnn.inference import Model
    from minicnn.insight.batch_loss import BatchLoss
    from minicnn.insight.descent import Trajectory
    from minicnn.insight.directions import Direction
    from minicnn.insight.surface import Surface

_SEVERAL = Kind(int, "a whole number from 2 on", "N", lambda value: value >= 2)
BATCH = 64  # images that are marked on the curve of a loss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_and_data(parser)
    common.add_number(parser, "--images", COUNT, 500, "test images")
    parser.add_argument(
        "--loss", metavar="NAME", help="loss (default: the one that the model was trained with)"
    )
    parser.add_argument(
        "--along",
        nargs="+",
        default=[],
        metavar="DIRECTION",
        help="two directions, or one for --slice: a weight such as conv1.weight[0,0,0,3], random (as long "
        "as the filters), pc1 and pc2 (principal directions of a run trained with --record), or "
        "to:PATH, a line to another model (default: weights with the largest gradients)",
    )
    text = "points along each direction (default: 41; for --slice 201)"
    common.add_number(parser, "--points", _SEVERAL, None, text)
    text = "show X to both sides of the model (default: as far as the loss rises)"
    common.add_number(parser, "--reach", POSITIVE, None, text)
    text = "seed of random directions and starts (default: 0)"
    add_option(parser, "seed", default=0, help=text)
    descent = parser.add_argument_group("descent")
    descent.add_argument(
        "--opt",
        nargs="+",
        default=["gd"],
        metavar="NAME",
        help="optimizers (default: gd, gradient descent)",
    )
    descent.add_argument(
        "--opt-kwargs",
        type=key_value,
        nargs="+",
        default=[],
        metavar="K=V",
        help="their hyperparameters",
    )
    descent.add_argument(
        "--lr",
        type=float,
        nargs="+",
        metavar="X",
        help="learning rate, for --slice any number of them (default: so that the first step goes a 20th of "
        "the picture; for --slice, one each that converges, oscillates and diverges)",
    )
    descent.add_argument(
        "--start",
        type=float,
        nargs="+",
        action="append",
        default=[],
        metavar="X",
        help="where a descent begins, one coordinate per direction; may be repeated",
    )
    common.add_number(descent, "--starts", INDEX, 3, "random starts without --start")
    text = "steps at most (default: 100; slice 12)"
    common.add_number(descent, "--steps", COUNT, None, text)
    kind = parser.add_mutually_exclusive_group()
    common.add_flag(kind, "--slice", "one direction: the curve, its tangent, and steps as arrows")
    common.add_flag(
        kind,
        "--loss-curve",
        "the loss of one image and its derivative, over the prediction for its class",
    )
    text = "where CSV files and, with the extra plots, pictures go (default: beside MODEL)"
    common.add_output(parser, text)
    common.add_json(parser, "the figures")


@dataclass
class _Seen:
    """The results: figures for ``--json``, tables and pictures by name, and a function that shows
    them in the terminal."""

    figures: dict[str, Any]
    tables: common.Tables
    pictures: common.Pictures
    show: Callable[[], None]
    complete: bool = True


def run(arguments: argparse.Namespace) -> int:
    """Compute the landscape, show it and write its files."""
    model, dataset, test = model_and_data(arguments)

    from minicnn.evaluation.loss import Loss
    from minicnn.insight.batch_loss import BatchLoss

    loss = Loss(arguments.loss, len(model.classes)) if arguments.loss else None
    count = arguments.images
    images, labels = test.images[:count], test.labels[:count]
    batch_loss = BatchLoss.of(model, images, labels, loss, dataset.maximum)
    place, output = common.folders(arguments.model, arguments.output)
    if arguments.loss_curve:
        seen = _loss_curve(model, batch_loss)
    else:
        seen = (_slice if arguments.slice else _surface)(arguments, batch_loss, place)
    files = common.write_results(output, seen.tables, seen.pictures)
    if arguments.json:
        what = {
            "network": model.network.name,
            "loss": batch_loss.loss.rule.name,
            "images": len(batch_loss.images),
        }
        common.print_json({**what, **seen.figures, "files": files})
    else:
        seen.show()
        print(f"files     {output}: {', '.join(files)}")
    if not seen.complete:
        common.warn("interrupted: what was not computed is left out")
    return 0 if seen.complete else common.INTERRUPTED


def _surface(arguments: argparse.Namespace, batch_loss: "BatchLoss", place: Path) -> _Seen:
    """The surface and the trajectories on it."""
    from minicnn.insight.surface import loss_surface, two_directions
    from minicnn.report.console import progress_bar
    from minicnn.report.landscape_plots import surface_plot
    from minicnn.report.landscape_terminal import show_surface

    directions = two_directions(batch_loss, arguments.along, place, arguments.seed)
    directions = [_reaching(one, arguments.reach) for one in directions]
    with progress_bar("loss") as progress:
        surface = loss_surface(batch_loss, directions, arguments.points or 41, progress=progress)
    trajectories: list[Trajectory] = []
    complete = surface.complete
    if complete:
        with progress_bar("descent") as progress:
            complete = _descend(arguments, batch_loss, surface, trajectories, progress)
    minima = surface.minima()
    ends = [surface.minimum_below(one.points[-1]) for one in trajectories]
    numbers = [None if end is None else minima.index(end) + 1 for end in ends]
    grid = [
        (x, y, surface.losses[j, i])
        for j, y in enumerate(surface.y_values)
        for i, x in enumerate(surface.x_values)
    ]
    name = _file_name("surface", surface.x, surface.y)
    tables: common.Tables = {name: (("x", "y", "loss"), grid)}
    if trajectories:
        columns = ("trajectory", "optimizer", "learning_rate", "step", "x", "y", "loss")
        tables[_file_name("trajectories", surface.x, surface.y)] = (
            columns,
            [
                (number, one.optimizer, one.learning_rate, step, *point, loss)
                for number, one in enumerate(trajectories, 1)
                for step, (point, loss) in enumerate(zip(one.points, one.losses, strict=True))
            ],
        )
    found = [
        {"x": surface.x_values[i], "y": surface.y_values[j], "loss": surface.losses[j, i]}
        for j, i in minima
    ]
    figures = {
        "x": _axis(surface.x, surface.x_values),
        "y": _axis(surface.y, surface.y_values),
        "losses": surface.losses,
        "model_loss": surface.own_loss,
        "minima": found,
        "complete": complete,
        "trajectories": [
            {**_figures(one), "minimum": number}
            for one, number in zip(trajectories, numbers, strict=True)
        ],
    }
    title = f"{batch_loss.loss.rule.name} on {len(batch_loss.images):,} images"
    return _Seen(
        figures,
        tables,
        {name: lambda: surface_plot(surface, trajectories, title)},
        lambda: show_surface(surface, trajectories, numbers, title),
        complete,
    )


def _descend(
    arguments: argparse.Namespace,
    batch_loss: "BatchLoss",
    surface: "Surface",
    trajectories: "list[Trajectory]",
    progress: Callable[[int, int], None],
) -> bool:
    """Put into ``trajectories`` that of each optimizer from each start; False if Ctrl-C came before
    the last.

    All trajectories of one optimizer have the same learning rate.
    """
    import numpy as np

    from minicnn.insight.batch_loss import side_by_side
    from minicnn.insight.descent import Plane

    _check_starts(arguments, 2)
    if arguments.lr and len(arguments.lr) > 1:
        raise UsageError("--lr takes one learning rate here; for --slice it takes any number")
    plane = Plane(batch_loss, [surface.x, surface.y])
    starts = arguments.start
    if not starts:
        low, high = np.array([(one.low, one.high) for one in plane.directions]).T
        rng = np.random.default_rng(arguments.seed)
        starts = rng.uniform(low, high, (arguments.starts, 2)).tolist()
    rate, steps = arguments.lr and arguments.lr[0], arguments.steps or 100
    hypers = dict(arguments.opt_kwargs)
    given: list[tuple[Any, ...]] = []
    try:
        for name in arguments.opt if starts else ():
            own = rate or plane.suitable_rate(starts, name, **hypers)
            given += [(start, name, own, steps, surface.scale) for start in starts]
        going = side_by_side(lambda one: plane.descend(*one, **hypers), given, batch_loss.threads)
        for trajectory in going:
            trajectories.append(trajectory)
            progress(len(trajectories), len(given))
    except KeyboardInterrupt:
        return False
    return True


def _slice(arguments: argparse.Namespace, batch_loss: "BatchLoss", place: Path) -> _Seen:
    """The curve along one direction, and gradient descent on it."""
    from minicnn.insight.directions import chosen, largest_gradients
    from minicnn.insight.slice import loss_slice, verdict
    from minicnn.report.landscape_plots import slice_plot
    from minicnn.report.landscape_terminal import show_slice

    _check_starts(arguments, 1)
    if len(arguments.along) > 1 or len(arguments.start) > 1:
        raise UsageError("--slice takes one direction by --along and one --start")
    (direction,) = chosen(
        batch_loss, arguments.along or largest_gradients(batch_loss, 1), place, arguments.seed
    )
    start = arguments.start[0][0] if arguments.start else None
    cut = loss_slice(
        batch_loss,
        _reaching(direction, arguments.reach),
        arguments.lr,
        arguments.points or 201,
        start,
        arguments.steps or 12,
    )
    name = _file_name("slice", direction)
    tables: common.Tables = {name: (("value", "loss"), zip(cut.values, cut.losses, strict=True))}
    if cut.descents:
        tables[_file_name("slice-steps", direction)] = (
            ("learning_rate", "step", "value", "loss", "derivative"),
            [
                (one.learning_rate, step, value, loss, derivative)
                for one in cut.descents
                for step, (value, loss, derivative) in enumerate(
                    zip(one.points[:, 0], one.losses, one.gradients[:, 0], strict=True)
                )
            ],
        )
    figures = {
        **_axis(cut.direction, cut.values),
        "losses": cut.losses,
        "model_loss": cut.own_loss,
        "derivative": cut.own_derivative,
        "curvature": cut.curvature,
        "largest_rate": cut.largest_rate,
        "descents": [
            {**_figures(one), "derivatives": one.gradients[:, 0], "verdict": verdict(one)}
            for one in cut.descents
        ],
    }
    return _Seen(figures, tables, {name: lambda: slice_plot(cut)}, lambda: show_slice(cut))


def _loss_curve(model: "Model", batch_loss: "BatchLoss") -> _Seen:
    """The loss over the prediction for the true class."""
    from minicnn.insight.prediction import loss_curve
    from minicnn.report.landscape_plots import loss_curve_plot
    from minicnn.report.landscape_terminal import show_loss_curve

    logits = model.logits(batch_loss.images[:BATCH])
    curve = loss_curve(batch_loss.loss, logits, batch_loss.labels[:BATCH])
    rows = zip(curve.values, curve.losses, curve.derivatives, strict=True)
    samples = zip(curve.sample_values, curve.sample_losses, strict=True)
    name = f"landscape-loss-curve-{curve.loss}"
    tables: common.Tables = {
        name: (("prediction", "loss", "derivative"), rows),
        f"landscape-loss-samples-{curve.loss}": (("prediction", "loss"), samples),
    }
    pictures: common.Pictures = {name: lambda: loss_curve_plot(curve)}
    return _Seen(asdict(curve), tables, pictures, lambda: show_loss_curve(curve))


def _file_name(kind: str, *directions: "Direction") -> str:
    """landscape-KIND-DIRECTION-…: what shows other directions is in other files."""
    labels = [one.label.partition(" (")[0].lower() for one in directions]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(["landscape", kind, *labels])).strip("-")


def _check_starts(arguments: argparse.Namespace, coordinates: int) -> None:
    for start in arguments.start:
        if len(start) != coordinates:
            raise UsageError(
                f"--start takes {coordinates} number{'s' * (coordinates > 1)} here, not {len(start)}"
            )


def _reaching(direction: "Direction", reach: float | None) -> "Direction":
    """``direction``, up to ``reach`` to both sides of the model if that is given."""
    if reach is None:
        return direction
    return replace(direction, low=direction.origin - reach, high=direction.origin + reach)


def _axis(direction: "Direction", values: "np.ndarray") -> dict[str, Any]:
    return {"direction": direction.label, "model": direction.origin, "values": values}


def _figures(trajectory: "Trajectory") -> dict[str, Any]:
    names = "optimizer", "learning_rate", "steps", "outcome", "points", "losses"
    return {name: getattr(trajectory, name) for name in names}
