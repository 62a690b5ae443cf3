"""The verb ``search``."""

import argparse
import itertools
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.cli import common
from minicnn.cli.settings import (
    SHORT,
    add_settings,
    given,
    load_data,
    new_settings,
    read_options,
)
from minicnn.cli.train import interruptible, on_first, status_of, with_ranks
from minicnn.errors import UsageError
from minicnn.kinds import COUNT

if TYPE_CHECKING:
    from minicnn.training.distributed import Ranks
    from minicnn.training.events import Event
    from minicnn.training.settings import Settings
    from minicnn.training.trainer import Trainer

_LOOK = 1.0  # seconds between two looks at what other ranks have done
_COLUMNS = (("trial", 5), ("state", 9), ("epochs", 6), ("score", 9), ("best", 9))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("the search")
    group.add_argument(
        "--vary",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUES",
        help="settings and their values: learning_rate=log:1e-4:1e-1 ema=0.9:0.999 batch_size=32,64 "
        "optimizer_kwargs.beta1=0.8:0.99",
    )
    text = "trials in all, those done before --resume included"
    common.add_number(group, "--trials", COUNT, 20, text)
    common.add_flag(group, "--no-prune", "let every trial run all of its epochs")
    group.add_argument(
        "--storage",
        metavar="URL",
        help="database of the trials, as SQLAlchemy has it (default: search.db in the folder)",
    )
    common.add_config(group)
    common.add_output(group, "folder, new or empty, for the trials (default: runs/DATE-TIME)")
    group.add_argument(
        "--resume", type=common.path, metavar="DIR", help="go on with the search in this folder"
    )
    common.add_plugins(group)
    common.add_json(group, "the trials and the best settings")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the trials, print a line for each, and write the results; if ``mpirun`` started several
    processes, they share the trials."""
    from minicnn.training.watch import launched

    return _run(arguments, None) if launched()[1] == 1 else with_ranks(_run, arguments)


def _run(arguments: argparse.Namespace, ranks: "Ranks | None") -> int:
    from minicnn import __version__
    from minicnn.cli.run_folder import check_output, run_folder
    from minicnn.training.search import dimension
    from minicnn.training.settings import read_settings

    common.use_plugins(arguments)
    if arguments.resume is not None:
        if arguments.vary or arguments.output or arguments.config or arguments.recipe:
            raise UsageError(
                "--resume sets everything: leave out --vary, --output, --config and --recipe"
            )
        if extra := given(arguments) | given(arguments, SHORT):
            raise UsageError(f"--resume has settings: leave out {', '.join(extra)}")
        if not (arguments.resume / "vary.txt").is_file():
            raise UsageError(f"--resume {arguments.resume} holds no search")
        texts = (arguments.resume / "vary.txt").read_text("utf-8").split("\n")
        base = read_settings(arguments.resume / "config.toml")
    else:
        texts, base = arguments.vary, new_settings(arguments)
        if not texts:
            raise UsageError(
                "--vary is missing: say which settings, as in learning_rate=log:1e-4:1e-1"
            )
        on_first(ranks, lambda: check_output(arguments.output))
    dimensions = [dimension(text) for text in texts]
    if len({one.name for one in dimensions}) < len(dimensions):
        raise UsageError("--vary has the same setting twice")
    if ranks is not None:
        facts = {"version": __version__, **base.to_dict(), "vary": texts}
        ranks.check_same(facts | {"trials": arguments.trials})
    is_first = ranks is None or ranks.rank == 0
    with run_folder(arguments.resume or arguments.output) if is_first else nullcontext() as made:
        folder = on_first(ranks, lambda: made)
        search = _Search(arguments, folder, base, dimensions, ranks)
        if arguments.resume is None and is_first:
            from minicnn.storage import write_atomically

            write_atomically(folder / "config.toml", base.to_toml().encode())
            write_atomically(folder / "vary.txt", "\n".join(texts).encode())
        return search.run()


def _how(settings: "Settings") -> dict[str, Any]:
    """The settings that determine the data set."""
    return {"data": settings.data, "loss": settings.loss, **read_options(settings)}


class _Search:
    """A search in its folder, of which each of several ranks takes the next trial when it has done
    one; rank 0 tells of all."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        folder: Path,
        base: "Settings",
        dimensions: list[Any],
        ranks: "Ranks | None",
    ):
        from minicnn.cli.run_folder import FILES
        from minicnn.report.console import make_console
        from minicnn.storage import remove_leftovers
        from minicnn.training.search import ended, open_study

        self.folder, self.base, self.dimensions = folder, base, dimensions
        self.arguments, self.ranks = arguments, ranks
        self.is_first = ranks is None or ranks.rank == 0
        self.threads = base.threads if ranks is None else ranks.threads(base.threads)
        self.console = make_console(stderr=arguments.json)
        data = load_data(base, ranks)
        self.loaded, self.maximize = (_how(base), data), data.task == "classification"
        first = {one.name: one.choices[0] if one.choices else one.low for one in dimensions}
        others = [{one.name: choice} for one in dimensions for choice in one.choices[1:]]
        for values in (*others, {}):  # what cannot be tried says so before anything is
            trainer, data = self.prepare(first | values)
            trainer.prepared(data)
        storage = arguments.storage or f"sqlite:///{folder.resolve() / 'search.db'}"
        given = not arguments.no_prune, self.maximize
        if self.is_first:
            for place, name in itertools.product(folder.glob("trial-*"), FILES):
                remove_leftovers(place, f".{name}.")
            self.study = open_study(storage, base.seed, *given)
        self.done = on_first(ranks, lambda: ended(self.study))
        if arguments.trials < self.done:
            raise UsageError(
                f"--trials {arguments.trials} is below the {self.done} trials that are done"
            )
        if ranks is not None and not self.is_first:
            seed = base.seed + ranks.rank * 0x9E3779B9
            self.study = open_study(storage, seed, *given, begins=False)
        self.reported = {trial.number for trial in self.study.trials}
        self.next_look = 0.0
        self.stopped = False

    def run(self) -> int:
        """All trials; the exit status."""
        from minicnn.training.search import run_trial

        if self.is_first:
            self._header()
        tickets: Any = nullcontext(itertools.count().__next__)
        if self.ranks is not None:
            tickets = self.ranks.tickets(self._lines)
        silent, left = not self.is_first, self.arguments.trials - self.done
        with interruptible(self.interrupt, silent) as signals, tickets as take:
            while not self.stopped and take() < left:
                run_trial(self.study, self.dimensions, self.prepare, self.folder, self.watch)
                self._lines(now=True)
        self._lines(now=True)
        status = status_of("interrupted" if self.stopped else "", signals)
        if not self.is_first:
            return status
        finished = [one for one in self.study.trials if one.value is not None]
        files = self._write(finished) if finished else []
        best = self.study.best_trial if finished else None
        if self.arguments.json:
            common.print_json(
                {
                    "trials": [self._row(one) for one in self.study.trials],
                    "best": self._row(best) if best else None,
                    "output": self.folder,
                    "files": files,
                }
            )
        elif best:
            from minicnn.report.console import say

            values = "  ".join(f"{name}={_text(value)}" for name, value in best.params.items())
            say(self.console, f"best      trial {best.number}: {values}")
            say(self.console, f"files     {self.folder}: {', '.join(files)}")
            say(self.console, f"next      minicnn train --config {self.folder / 'best.toml'}")
        return status

    def prepare(self, values: Mapping[str, Any]) -> "tuple[Trainer, Any]":
        """Trainer and data set for the values of a trial."""
        from minicnn.training.search import with_values
        from minicnn.training.trainer import Trainer

        settings = with_values(self.base, {"threads": self.threads, **values})
        if self.loaded[0] != _how(settings):
            self.loaded = _how(settings), load_data(settings)
        data = self.loaded[1]
        return Trainer(common.begin(settings, data), settings), data

    def watch(self, trainer: "Trainer", event: "Event") -> None:
        """Pass an interrupt on to the running trial, and report the trials of other ranks."""
        if self.stopped:
            trainer.interrupt()
        if self.ranks is not None:
            self.ranks.go_on()
            self._lines()

    def interrupt(self) -> None:
        """End the search after the batch under way."""
        self.stopped = True

    def _row(self, trial: Any) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "epochs": trial.last_step or 0,
            "score": trial.value
            if trial.value is not None
            else trial.intermediate_values.get(trial.last_step),
            **trial.params,
        }

    def _header(self) -> None:
        from minicnn.report.console import say

        say(
            self.console,
            f"search    {self.done} of {self.arguments.trials} trials are done; the score is the "
            f"validation {'accuracy' if self.maximize else 'loss'}"
            + (f"; {self.ranks.size} ranks" if self.ranks else ""),
        )
        names = (f"  {one.name}" for one in self.dimensions)
        line = " ".join(f"{name:>{width}}" for name, width in _COLUMNS)
        say(self.console, line + "".join(names), "bold", wrap=False)

    def _lines(self, now: bool = False) -> None:
        """A line for each trial that has ended since, of this rank or another; once a second, or
        ``now``."""
        if not self.is_first or (time.monotonic() < self.next_look and not now):
            return
        self.next_look = time.monotonic() + _LOOK
        ended = [one for one in self.study.trials if one.state.is_finished()]
        for trial in sorted(ended, key=lambda one: one.datetime_complete):
            if trial.number not in self.reported:
                self.reported.add(trial.number)
                self._line(trial)

    def _line(self, trial: Any) -> None:
        from minicnn.report.console import say

        scores = [one.value for one in self.study.trials if one.value is not None]
        best = (max if self.maximize else min)(scores) if scores else None
        row = self._row(trial) | {"best": best}
        for name in ("score", "best"):
            row[name] = "–" if row[name] is None else f"{row[name]:.4f}"
        line = " ".join(f"{row[name]!s:>{width}}" for name, width in _COLUMNS)
        names = (one.name for one in self.dimensions)
        values = (f"  {_text(trial.params[name]):>{len(name)}}" for name in names)
        say(self.console, line + "".join(values), wrap=False)

    def _write(self, finished: list[Any]) -> list[str]:
        """`trials.csv`, the picture, and the settings of the best trial."""
        from minicnn.report.run_plots import search_outcome
        from minicnn.storage import write_atomically
        from minicnn.training.search import with_values

        best = with_values(self.base, self.study.best_trial.params)
        write_atomically(self.folder / "best.toml", best.to_toml().encode())
        rows = [self._row(one) for one in self.study.trials]
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[row.get(name) for name in names] for row in rows]
        points = [(one.params, one.value) for one in finished]
        pictures: common.Pictures = {"search": lambda: search_outcome(points, self.maximize)}
        written = common.write_results(self.folder, {"trials": (names, cells)}, pictures)
        return ["best.toml", *written]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
