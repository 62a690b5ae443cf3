"""The verb ``compare``."""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from minicnn.cli import common
from minicnn.cli.settings import SHORT, add_settings, key_value, load_data, new_settings
from minicnn.cli.train import train_into
from minicnn.errors import MinicnnError, UsageError

if TYPE_CHECKING:
    from minicnn.insight.compare import Row, RunCurves
    from minicnn.training.settings import Settings

LEFT_OUT = (
    "optimizer",
    "optimizer_kwargs",
    "learning_rate",
    "record",
    *SHORT,
)  # --opt says it for each optimizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", metavar="RUN", nargs="*", type=common.path, help="run folders")
    parser.add_argument(
        "--opt",
        metavar="NAME[:K=V,...]",
        nargs="+",
        default=[],
        help="optimizers to train and compare, from the same first weights, on the same batches; "
        "hyperparameters may follow, as in sgd:learning_rate=0.1",
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="X",
        help="accuracy, from 0 to 1, to which steps and seconds are counted (default: the highest that all "
        "runs reached)",
    )
    common.add_output(
        parser,
        "folder, new or empty, for the runs of --opt, compare.csv and, with the extra plots, "
        "compare.png and .svg (default: runs/DATE-TIME)",
    )
    common.add_flag(parser, "--quiet", "show how the runs of --opt ended, but no progress")
    common.add_plugins(parser)
    common.add_json(parser, "the table and the curves")
    add_settings(parser, LEFT_OUT)
    parser.set_defaults(config=None, recipe=None, log_interval=None, report=False)


def run(arguments: argparse.Namespace) -> int:
    """Train what is to be trained, print the table and write the picture."""
    from minicnn.cli.run_folder import check_output, run_folder
    from minicnn.insight.compare import differences, ranking, read_run
    from minicnn.report.console import make_console, say
    from minicnn.report.run_plots import comparison

    if not common.is_alone("start one"):
        return 0
    if len(arguments.runs) + len(arguments.opt) < 2:
        raise UsageError("two or more are needed to compare: run folders, or optimizers by --opt")
    if arguments.target is not None and not 0 < arguments.target <= 1:
        raise UsageError(
            f"--target must be an accuracy above 0 and up to 1, not {arguments.target:g}"
        )
    check_output(arguments.output)
    runs = [read_run(folder) for folder in arguments.runs]
    with run_folder(arguments.output) as folder:
        trained, status = _train(arguments, folder) if arguments.opt else ([], 0)
        runs += trained
        names = [Path(run.name).name for run in runs]
        if len(set(names)) == len(names):
            runs = [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
        finished = [run for run in runs if run.epochs]
        if not finished and status:
            return status
        if not finished:
            raise MinicnnError("no run finished an epoch: there is nothing to compare")
        target = arguments.target or min(max(run.curve("accuracy")) for run in finished)
        rows = ranking(runs, target)
        cells = [tuple(asdict(row).values()) for row in rows]
        files = common.write_results(
            folder,
            {"compare": (list(asdict(rows[0])), cells)},
            {"compare": lambda: comparison(finished, target)},
        )
    for name, values in differences(runs).items():
        common.warn(
            f"the runs differ in {name} ({', '.join(values)}), so that their accuracies are hard to compare"
        )
    if arguments.json:
        common.print_json(
            {
                "target": target,
                "runs": rows,
                "curves": {run.name: run.epochs for run in runs},
                "output": folder,
                "files": files,
            }
        )
    else:
        _show(runs, rows, target)
        say(make_console(), f"files     {folder}: {', '.join(files)}")
    return status


def _train(arguments: argparse.Namespace, folder: Path) -> "tuple[list[RunCurves], int]":
    """Train with each optimizer of ``--opt`` in a folder of its own; (what the runs did, the exit
    status)."""
    from minicnn.insight.compare import read_run
    from minicnn.storage import make_folder
    from minicnn.training.trainer import Trainer

    common.use_plugins(arguments)
    settings = [_settings(arguments, text) for text in arguments.opt]
    first, runs = settings[0], []
    dataset = load_data(first)
    start = common.begin(first, dataset)
    trainers = [Trainer(start, each) for each in settings]  # every mistake shows before training
    common.warn_of_plugins()
    for i, (text, trainer) in enumerate(zip(arguments.opt, trainers, strict=True), 1):
        print(f"training {i} of {len(trainers)}: {text}", file=sys.stderr)
        place = make_folder(folder / text.replace(":", "-").replace(",", "-"))
        report, status = train_into(place, trainer, dataset, arguments)
        runs.append(read_run(place))
        if report["reason"] == "interrupted":
            return runs, status
    return runs, 0


def _settings(arguments: argparse.Namespace, text: str) -> "Settings":
    """The settings of the run that an entry of ``--opt``, NAME or NAME:K=V,K=V, stands for."""
    if arguments.opt.count(text) > 1:
        raise UsageError(f"--opt has {text} twice")
    name, _, values = text.partition(":")
    try:
        pairs = [key_value(pair) for pair in values.split(",")] if values else []
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--opt {text}: {error}") from None
    return new_settings(
        argparse.Namespace(**{**vars(arguments), "optimizer": name, "optimizer_kwargs": pairs})
    )


def _show(runs: "list[RunCurves]", rows: "list[Row]", target: float) -> None:
    from minicnn.report.console import table
    from minicnn.report.terminal import sparkline

    def decimals(value: float | None, number: int, factor: int = 1) -> str | None:
        return None if value is None else f"{factor * value:.{number}f}"

    curves = {run.name: sparkline(run.curve("accuracy"), 10) for run in runs}
    cells = [
        (
            row.name,
            curves[row.name],
            decimals(row.accuracy, 2, 100),
            decimals(row.test_accuracy, 2, 100),
            row.steps,
            row.steps_to_target,
            decimals(row.seconds, 1),
            decimals(row.seconds_to_target, 1),
        )
        for row in rows
    ]
    columns = ["run", "curve", "val %", "test %", "steps", "to target", "seconds", "to target"]
    table(f"target: an accuracy of {100 * target:.4g} % in validation", columns, cells)
    for row in rows:
        if row.ended != "epochs done":
            print(f"{row.name}: {row.ended} after {row.epochs} epochs")
