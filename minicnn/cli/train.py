"""The verb ``train``."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
from minicnn.kinds import COUNT
from minicnn.training.recipes import DEFAULT, recipe_file

if TYPE_CHECKING:
    from minicnn.data import Dataset
    from minicnn.training.checkpoint import Checkpoint
    from minicnn.training.distributed import Ranks
    from minicnn.training.events import Event
    from minicnn.training.settings import Settings
    from minicnn.training.trainer import Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_settings(parser)
    group = parser.add_argument_group("the run")
    common.add_config(group)
    common.add_output(group, "run folder, new or empty (default: runs/DATE-TIME)")
    group.add_argument(
        "--resume",
        type=common.path,
        metavar="DIR",
        help="go on with the run in this folder and its settings",
    )
    common.add_flag(group, "--dry-run", "check everything, run one batch, write nothing")
    common.add_profile(
        group, "take steps for a second, and print, layer by layer, where their time"
    )
    common.add_flag(group, "--quiet", "show only how the run ended")
    text = "where stderr is no terminal, print a line every N batches (default: none)"
    common.add_number(group, "--log-interval", COUNT, None, text)
    common.add_flag(
        group,
        "--report",
        "also write report.html, a page with pictures, as evaluate --report does (extra plots)",
    )
    common.add_flag(
        group,
        "--distributed",
        "train together with the other processes that mpirun started (extra mpi)",
    )
    common.add_plugins(group)
    common.add_json(group, "the final report")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, train, and return the exit status."""
    if arguments.distributed:
        return with_ranks(_run, arguments)
    return _run(arguments, None) if common.is_alone("add --distributed") else 0


def with_ranks(
    run: "Callable[[argparse.Namespace, Ranks], int]", arguments: argparse.Namespace
) -> int:
    """``run`` with the processes that ``mpirun`` started, which end together."""
    from minicnn.training.distributed import connect

    ranks = connect()
    with ranks.together():
        return run(arguments, ranks)


def _run(arguments: argparse.Namespace, ranks: "Ranks | None") -> int:
    if arguments.profile and ranks is not None:
        raise UsageError("--profile is for one process: leave --distributed out")
    settings, checkpoint = _settings(arguments, ranks)

    from minicnn.cli.run_folder import check_output

    on_first(ranks, lambda: check_output(arguments.output))
    common.use_plugins(arguments)
    dataset = load_data(settings, ranks)
    if arguments.report and dataset.task != "classification":
        raise UsageError("--report shows classes, and this data set has none")
    first = checkpoint.network if checkpoint else common.begin(settings, dataset)

    from minicnn.training.trainer import Trainer

    trainer = Trainer(first, settings, distributed=arguments.distributed)
    if ranks is not None and ranks.rank > 0:
        return _follow(trainer, dataset, checkpoint, arguments.dry_run)
    common.warn_of_plugins()
    if arguments.profile:
        common.show_profile(trainer.profile(dataset), arguments.json)
        return 0
    if not arguments.dry_run:
        return _train(arguments, trainer, dataset, checkpoint)
    loss = trainer.dry_run(dataset, checkpoint)
    if arguments.json:
        common.print_json(
            {
                "dry_run": True,
                "network": trainer.network.name,
                "loss": loss,
                "settings": trainer.settings.to_dict(),
            }
        )
    else:
        print(
            f"dry run: everything fits, and the loss of one batch is {loss:.4f}; nothing was written"
        )
    return 0


def on_first(ranks: "Ranks | None", function: Callable[[], Any]) -> Any:
    """What ``function`` returns on rank 0, where the run folder is, on all ranks."""
    return function() if ranks is None else ranks.first(function)


def _follow(
    trainer: "Trainer", dataset: "Dataset", checkpoint: "Checkpoint | None", dry_run: bool
) -> int:
    """Do what rank 0 does, silently; return the exit status."""
    from minicnn.training.events import RunEnded

    if dry_run:
        trainer.dry_run(dataset, checkpoint)
        return 0
    with interruptible(trainer.interrupt, silent=True) as signals:
        for event in trainer.run(dataset, None, checkpoint):
            if isinstance(event, RunEnded):
                reason = event.reason
    return status_of(reason, signals)


def status_of(reason: str, signals: Iterable[int]) -> int:
    """The exit status of a run that ended for this reason."""
    if reason == "interrupted":
        return 128 + next(iter(signals), signal.SIGINT)
    return DivergedError.exit_status if reason == "diverged" else 0


def _settings(
    arguments: argparse.Namespace, ranks: "Ranks | None"
) -> "tuple[Settings, Checkpoint | None]":
    """The settings and, for a run to be resumed, where it was."""
    if arguments.resume is None:
        settings = new_settings(arguments, DEFAULT)
        if arguments.recipe and not arguments.quiet and (ranks is None or ranks.rank == 0):
            text = recipe_file(arguments.recipe).read_text("utf-8")
            print(text, end="", file=sys.stderr if arguments.json else sys.stdout)
        return settings, None
    for option in ("recipe", "config", "output"):
        if getattr(arguments, option) is not None:
            raise UsageError(
                f"--{option} and --resume exclude each other: a resumed run has settings and a folder"
            )

    from minicnn.training.checkpoint import load_checkpoint

    checkpoint = on_first(ranks, lambda: load_checkpoint(arguments.resume / "last.safetensors"))
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
        report, status = train_into(folder, trainer, dataset, arguments, checkpoint)
    if arguments.json:
        common.print_json(report)
    elif trainer.settings.record is not None and not arguments.quiet:
        from minicnn.report.terminal import show_health

        show_health(trainer.record)
    if report["reason"] == "diverged":
        where = f"training diverged; {report['output']} holds the last good weights"
        raise DivergedError(report["explanation"] if arguments.json else where)
    return status


def train_into(
    folder: Path,
    trainer: "Trainer",
    dataset: "Dataset",
    arguments: argparse.Namespace,
    checkpoint: "Checkpoint | None" = None,
) -> tuple[dict[str, Any], int]:
    """Train and fill the run folder; return the final report and the exit status.

    Of ``arguments``, json, quiet and log_interval say what is shown, and report whether the run
    gets a page.
    """
    from minicnn.cli.report import write_page
    from minicnn.cli.run_folder import FILES, final_report
    from minicnn.insight.advice import Advice, advised
    from minicnn.model_file import load
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
    report: dict[str, Any] = {}
    with interruptible(trainer.interrupt) as signals:
        try:
            for event in advised(trainer.run(dataset, folder, checkpoint)):
                if isinstance(event, RunStarted):
                    settings = event.settings
                    write_atomically(
                        folder / "config.toml",
                        Settings(**settings).to_toml().encode("utf-8", "surrogateescape"),
                    )
                elif isinstance(event, Advice):
                    warnings.append(event)
                elif isinstance(event, RunEnded):
                    event = replace(event, explanation=as_options(event.explanation))
                    report = final_report(event, trainer.network, settings) | {"warnings": warnings}
                    write_json(folder / "report.json", report)
                    if arguments.report and event.test is not None:
                        write_page(load(folder), dataset, event.test, folder, folder)
                    files = {name: text for name, text in FILES.items() if (folder / name).exists()}
                    event = replace(event, files=files)
                for reporter in reporters:
                    try:
                        reporter(event)
                    except OSError:  # stdout is closed, or the terminal gone: the training goes on
                        common.release_closed_streams()
        finally:
            console.close()
    return report, status_of(report["reason"], signals)


@contextmanager
def interruptible(stop: Callable[[], None], silent: bool = False) -> Iterator[list[int]]:
    """The first Ctrl-C calls ``stop``, so that a trainer finishes the batch and saves; the second
    one stops at once.

    So do SIGTERM and a terminal that hangs up. Gives the list of the signals that came; ``silent``
    says nothing of it.
    """
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in (signal.Signals[n] for n in names)}
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        signal.signal(number, previous[number])  # type: ignore[index]
        came.append(number)
        stop()
        if silent:
            return
        # Not print: the signal may have come in the middle of one.
        with suppress(OSError):
            os.write(
                2, b"\nminicnn: stopping after this batch and saving; Ctrl-C again stops at once\n"
            )

    for number, handler in previous.items():
        if handler != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
