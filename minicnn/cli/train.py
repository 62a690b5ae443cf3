"""train a network, validate each epoch, evaluate at the end, and write a run folder"""

import argparse
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.cli import common
from minicnn.cli.settings import (
    add_settings,
    as_options,
    load_data,
    new_settings,
    resumed_settings,
)
from minicnn.errors import DivergedError, UsageError

if TYPE_CHECKING:
    from minicnn.data import Dataset
    from minicnn.inference import Model
    from minicnn.training.checkpoint import Checkpoint
    from minicnn.training.events import Event, RunEnded
    from minicnn.training.settings import Settings
    from minicnn.training.trainer import Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_settings(parser)
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--config", metavar="FILE.toml", help="settings, such as a run's config.toml; flags win"
    )
    group.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="run folder, new or empty (default: runs/DATE-TIME)",
    )
    group.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with the run in this folder and its settings",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="check everything, run one batch, write nothing"
    )
    group.add_argument(
        "--quiet", action="store_true", help="show how the run ended, but no progress"
    )
    group.add_argument(
        "--log-interval",
        type=common.at_least_one,
        metavar="N",
        help="where stderr is no terminal, print a line every N batches (default: none)",
    )
    group.add_argument(
        "--report",
        action="store_true",
        help="also write report.html, a page with pictures, as evaluate --report does (extra plots)",
    )
    common.add_plugins(group)
    common.add_json(group, "the final report")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, train, and return the exit status."""
    settings, checkpoint = _settings(arguments)

    from minicnn.cli.run_folder import check_output

    check_output(arguments.output)
    common.use_plugins(arguments)
    dataset = load_data(settings)
    if arguments.report and dataset.task != "classification":
        raise UsageError("--report shows classes, and this data set has none")
    init: Model | None = None
    if checkpoint is None and settings.init is not None:
        from minicnn.inference import load

        init = load(settings.init, settings.threads)
        network = init.network
    elif checkpoint is None:
        network = common.build_network(settings.model, dataset.image_shape, len(dataset.classes))
    else:
        network = checkpoint.network

    from minicnn.training.trainer import Trainer

    trainer = Trainer(init or network, settings)
    common.warn_of_plugins()
    if not arguments.dry_run:
        return _train(arguments, trainer, dataset, checkpoint)
    loss = trainer.dry_run(dataset, checkpoint)
    if arguments.json:
        common.print_json(
            {
                "dry_run": True,
                "network": network.name,
                "loss": loss,
                "settings": trainer.settings.to_dict(),
            }
        )
    else:
        print(
            f"dry run: everything fits, and the loss of one batch is {loss:.4f}; nothing was written"
        )
    return 0


def _settings(arguments: argparse.Namespace) -> "tuple[Settings, Checkpoint | None]":
    """The settings and, for a run to be resumed, where it was."""
    if arguments.resume is None:
        return new_settings(arguments), None
    for option in ("config", "output"):
        if getattr(arguments, option) is not None:
            raise UsageError(
                f"--{option} and --resume exclude each other: a resumed run has settings and a folder"
            )

    from minicnn.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(arguments.resume / "last.safetensors")
    return resumed_settings(
        arguments, checkpoint.settings, checkpoint.progress.counters.epoch - 1
    ), checkpoint


def _train(
    arguments: argparse.Namespace,
    trainer: "Trainer",
    dataset: "Dataset",
    checkpoint: "Checkpoint | None",
) -> int:
    from minicnn.cli.run_folder import run_folder

    with run_folder(arguments.resume or arguments.output) as folder:
        ended, report = train_into(folder, trainer, dataset, arguments, checkpoint)
    if arguments.json:
        common.print_json(report)
    elif trainer.settings.record is not None and not arguments.quiet:
        from minicnn.report.terminal import show_health

        show_health(trainer.record)
    return _status(ended, arguments.json)


def train_into(
    folder: Path,
    trainer: "Trainer",
    dataset: "Dataset",
    arguments: argparse.Namespace,
    checkpoint: "Checkpoint | None" = None,
) -> "tuple[RunEnded, dict[str, Any]]":
    """Train and fill the run folder; return how it ended, and the final report.

    Of ``arguments``, json, quiet and log_interval say what is shown, and report whether the run
    gets a page.
    """
    from minicnn.cli.report import write_page
    from minicnn.cli.run_folder import FILES, final_report
    from minicnn.inference import load
    from minicnn.insight.advice import Advice, advised
    from minicnn.report.console import ConsoleReporter, make_console
    from minicnn.report.jsonl import JsonlReporter, write_json
    from minicnn.storage import write_atomically
    from minicnn.training.events import RunEnded, RunStarted
    from minicnn.training.settings import Settings

    # With --json stdout is for the report alone.
    console = ConsoleReporter(
        make_console(stderr=arguments.json), None, arguments.quiet, arguments.log_interval
    )
    reporters: list[Callable[[Event | Advice], None]] = [JsonlReporter(folder / "metrics.jsonl")]
    if not (arguments.json and arguments.quiet):
        reporters.append(console)
    settings: dict[str, Any] = {}
    warnings: list[Advice] = []
    ended: RunEnded | None = None
    with _interruptible(trainer):
        try:
            for event in advised(trainer.run(dataset, folder, checkpoint)):
                if isinstance(event, RunStarted):
                    settings = event.settings
                    write_atomically(
                        folder / "config.toml", Settings(**settings).to_toml().encode()
                    )
                elif isinstance(event, Advice):
                    warnings.append(event)
                elif isinstance(event, RunEnded):
                    event = replace(event, explanation=as_options(event.explanation))
                    report = final_report(event, trainer.network, settings) | {"warnings": warnings}
                    write_json(folder / "report.json", report)
                    if arguments.report and event.test is not None:
                        write_page(load(folder), dataset, event.test, folder, folder)
                    there = {name: text for name, text in FILES.items() if (folder / name).exists()}
                    event = ended = replace(event, files=there)
                for reporter in reporters:
                    reporter(event)
        finally:
            console.close()
    assert ended is not None
    return ended, report


def _status(ended: "RunEnded", say_why: bool) -> int:
    if ended.reason == "diverged":
        where = f"training diverged; {ended.output} holds the last good weights"
        raise DivergedError(ended.explanation if say_why else where)
    return common.INTERRUPTED if ended.reason == "interrupted" else 0


@contextmanager
def _interruptible(trainer: "Trainer") -> Iterator[None]:
    """The first Ctrl-C lets the trainer finish the batch and save; the second one stops at once."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        trainer.interrupt()
        # Not print: the signal may have come in the middle of one.
        os.write(
            2, b"\nminicnn: stopping after this batch and saving; Ctrl-C again stops at once\n"
        )

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
