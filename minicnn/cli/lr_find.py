"""The verb ``lr-find``."""

import argparse
from typing import TYPE_CHECKING

from minicnn.cli import common
from minicnn.cli.settings import add_settings, load_data, new_settings
from minicnn.kinds import COUNT
from minicnn.training.recipes import DEFAULT

if TYPE_CHECKING:
    from minicnn.insight.range_test import RangeTest

# Settings without a meaning here: the learning rate is what is looked for, and the epochs are not
# counted.
LEFT_OUT = (
    "epochs",
    "learning_rate",
    "schedule",
    "schedule_of",
    "schedule_kwargs",
    "schedule_unit",
    "warmup_epochs",
    "warmup_steps",
    "patience",
    "min_delta",
    "tol",
    "record",
)
WIDTH = 60  # of the curve in the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_settings(parser, LEFT_OUT)
    group = parser.add_argument_group("the range test")
    common.add_config(group)
    group.add_argument(
        "--from",
        dest="low",
        type=float,
        default=1e-6,
        metavar="X",
        help="first rate (default: 1e-6)",
    )
    group.add_argument(
        "--to", dest="high", type=float, default=10.0, metavar="X", help="last rate (default: 10)"
    )
    common.add_number(group, "--steps", COUNT, 200, "batches to train on")
    common.add_output(
        group,
        "folder for lr-find.csv and, with the extra plots, lr-find.png and .svg (default: none)",
    )
    common.add_plugins(group)
    common.add_json(group, "the figures")


def run(arguments: argparse.Namespace) -> int:
    """Run the test on weights of its own, which are then forgotten, and show its curve."""
    settings = new_settings(arguments, DEFAULT)
    common.use_plugins(arguments)

    from minicnn.insight.range_test import lr_find
    from minicnn.report.console import make_console, progress_bar, say
    from minicnn.report.run_plots import range_test
    from minicnn.training.trainer import Trainer

    dataset = load_data(settings)
    trainer = Trainer(common.begin(settings, dataset), settings)
    common.warn_of_plugins()
    with progress_bar("trying learning rates") as progress:
        result = lr_find(trainer, dataset, arguments.low, arguments.high, arguments.steps, progress)
    arrays = {name: getattr(result, name) for name in ("rates", "losses", "smoothed")}
    files: list[str] = []
    if arguments.output:
        table = ("learning_rate", "loss", "smoothed"), zip(*arrays.values(), strict=True)
        files = common.write_results(
            arguments.output,
            {"lr-find": table},
            {"lr-find": lambda: range_test(result)},
        )
    if result.suggestion is None:
        common.warn("the loss did not fall: try another range, by --from and --to, or more --steps")
    if arguments.json:
        figures = {
            name: getattr(result, name) for name in ("suggestion", "steepest", "lowest", "ended")
        }
        common.print_json({**figures, **arrays, "files": files})
        return 0
    console = make_console()
    say(console, f"network     {trainer.network.name}, {trainer.settings.optimizer}")
    _show(result)
    if files:
        say(console, f"files       {arguments.output}: {', '.join(files)}")
    return 0


def _show(result: "RangeTest") -> None:
    import numpy as np

    from minicnn.report.console import make_console, say
    from minicnn.report.terminal import sparkline

    console = make_console()
    rates, smoothed, width = result.rates, result.smoothed, min(WIDTH, len(result.rates))
    if not width:
        return
    say(
        console,
        f"tried       {len(rates)} batches, learning rate from {rates[0]:.1e} to {rates[-1]:.1e}: {result.ended}",
    )
    say(
        console,
        f"loss        {smoothed[0]:.4g} at first, {smoothed.min():.4g} at the lowest, {smoothed[-1]:.4g} at the end",
    )
    say(console, f"            {sparkline(np.minimum(smoothed, 1.2 * smoothed[0]), width)}")
    if result.suggestion is None or result.steepest is None or result.lowest is None:
        return
    line = [" "] * width
    for rate, mark in ((result.lowest, "l"), (result.steepest, "s"), (result.suggestion, "^")):
        line[int(np.searchsorted(rates, rate)) * width // len(rates)] = mark
    say(console, f"            {''.join(line).rstrip()}")
    say(console, f"s steepest  {result.steepest:.2e}, where the loss falls fastest")
    say(
        console,
        f"l lowest    {result.lowest:.2e}, where the loss is lowest; a tenth of it is {result.lowest / 10:.2e}",
    )
    say(
        console,
        f"^ try       {result.suggestion:.2e}, the middle between them: minicnn train --lr {result.suggestion:.2g}",
    )
