"""Console output of a run: progress, epoch table, closing lines; and how lines and tables are
printed.

Results go to stdout and progress to stderr; where these are no terminals, there are plain lines
without escape codes. Text that comes from the user (class names, paths) is printed literally.
"""

import math
import os
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from minicnn.errors import literal
from minicnn.evaluation.metrics import Evaluation
from minicnn.insight.advice import Advice
from minicnn.training.events import (
    BatchDone,
    Compiled,
    EpochDone,
    Event,
    Recorded,
    RunEnded,
    RunStarted,
)

NOTHING = "–"  # stands for None and NaN
REFRESH_SECONDS = (
    0.2  # drawing the bar into memory took 0.3 ms, and it is the training thread that draws
)
_LEAST = 8  # columns of text in a table
UNFOLDED = 10_000  # columns: a line in a file or a pipe is not folded


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich would end the program


def make_console(stderr: bool = False, file: IO[str] | None = None) -> Console:
    """Return a console on stdout, on stderr, or on ``file``; where that is no terminal, its lines
    are not folded."""
    in_notebook = None if file is None else False  # None: rich finds out
    console = _Console(stderr=stderr, file=file, force_jupyter=in_notebook)
    if not console.width or (not console.is_terminal and "COLUMNS" not in os.environ):
        console.width = UNFOLDED
    return console


def say(console: Console, text: str = "", style: str | None = None, wrap: bool = True) -> None:
    """Print one line literally; where it is too long, it goes on below the end of its label."""
    for line in wrapped(literal(text), console.width if wrap else UNFOLDED):
        console.print(line, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of ``width``, broken between words; from the second on they begin below the
    end of a label such as ``files     ``."""
    label = re.match(r"\s*(\S+ {2,}|! )?", text)
    indent = " " * (len(label[0]) if label and label[0] else 4)
    lines = textwrap.wrap(
        text,
        max(width, 20 + len(indent)),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines if cell_len(text) > width else [text]


def number(value: float | None, form: str) -> str:
    """The value in that format; "–" for None and NaN."""
    return NOTHING if value is None or math.isnan(value) else format(value, form)


def fixed(value: float | None, decimals: int = 4) -> str:
    """The value with ``decimals``, or with an exponent where that would be long."""
    text = number(value, f".{decimals}f")
    return text if len(text) <= 8 else number(value, ".2e")


def percent(fraction: float | None, decimals: int = 2) -> str:
    """The fraction in percent, with ``decimals``."""
    return number(None if fraction is None else 100 * fraction, f".{decimals}f")


def accuracy(evaluation: Evaluation) -> str:
    """Accuracy and its standard error sqrt(a (1 - a) / images), in percent; of values their R²."""
    if evaluation.errors:
        return "R² " + ", ".join(fixed(error.r2) for error in evaluation.errors)
    error = math.sqrt(evaluation.accuracy * (1 - evaluation.accuracy) / evaluation.images)
    return f"{percent(evaluation.accuracy)} % ± {percent(error)}"


def _score(evaluation: Evaluation) -> str:
    return ("" if evaluation.errors else "accuracy ") + accuracy(evaluation)


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return NOTHING
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def batch_figures(event: BatchDone) -> tuple[str, ...]:
    """Means so far, speed, and the time left of the epoch and of the run."""
    return (
        f"loss {fixed(event.loss, 3)}",
        f"acc {percent(event.accuracy, 1)} %",
        f"{event.images_per_second:,.0f} img/s",
        f"{_clock(event.epoch_seconds_left)}/{_clock(event.seconds_left)} left",
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            long = isinstance(value, float) and len(str(value)) > 8
            yield f"{prefix}{name}={value:.4g}" if long else f"{prefix}{name}={value}"


EPOCH_COLUMNS: list[tuple[str, str, int, Callable[[EpochDone], str]]] = [
    # two header lines, width, cell; with one space in between they fill 77 columns
    ("", "epoch", 5, lambda done: str(done.epoch)),
    ("train", "loss", 9, lambda done: fixed(done.train_loss)),
    ("train", "acc %", 7, lambda done: percent(done.train_accuracy)),
    ("val", "loss", 9, lambda done: fixed(done.validation_loss)),
    ("val", "acc %", 7, lambda done: percent(done.validation_accuracy)),
    ("learning", "rate", 9, lambda done: number(done.learning_rate, ".3g")),
    ("gradient", "norm", 9, lambda done: number(done.gradient_norm, ".3g")),
    ("", "seconds", 9, lambda done: f"{done.seconds:.1f}"),
    ("", "best", 5, lambda done: "*" if done.best else ""),
]


class _Bar:
    """A bar that its owner draws, if ``console`` is a terminal: a refresh thread would compete with
    those that work."""

    def __init__(self, console: Console, description: str, figures: str = ""):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
        )
        # Nothing of stdout may go through stderr.
        self._progress = Progress(
            *columns,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            expand=True,
            disable=not console.is_interactive,
        )
        self._task = self._progress.add_task(description, figures=figures)
        self._progress.start()
        self._console, self._next = console, -math.inf

    def draw(self, description: str, done: int, total: int, figures: str) -> None:
        if self._console.get_time() >= self._next:
            self._next = self._console.get_time() + REFRESH_SECONDS
            self._progress.update(
                self._task,
                description=description,
                completed=done,
                total=total,
                figures=figures,
                refresh=True,
            )

    def close(self) -> None:
        self._progress.stop()


class ConsoleReporter:
    """Shows a run's events: a header, a bar while an epoch runs, a line per epoch, and how it ended.

    The bar is drawn where stderr is a terminal; elsewhere ``log_interval=N`` gives a line every N
    batches. ``quiet`` leaves only the end. Call `close` when a run is left by an exception: it
    takes the bar away and restores the cursor.
    """

    def __init__(
        self,
        console_out: Console | None = None,
        console_err: Console | None = None,
        quiet: bool = False,
        log_interval: int | None = None,
    ):
        self._out = console_out or make_console()
        self._err = console_err or make_console(stderr=True)
        self._quiet = quiet
        self._log_interval = log_interval
        self._bar: _Bar | None = None
        self._epochs = self._batches = 0
        self._header_is_due = True

    def __call__(self, event: Event | Advice) -> None:
        if isinstance(event, Recorded):
            return
        if isinstance(event, BatchDone):
            if not self._quiet:
                self._show_batch(event)
            return
        self.close()  # before anything is printed: stdout and the bar may share a terminal
        match event:
            case RunEnded():
                self._show_end(event)
            case RunStarted() if not self._quiet:
                self._show_start(event)
            case Compiled() if not self._quiet:
                say(self._out, f"compiling or loading kernels: {event.seconds:.1f} s")
            case EpochDone() if not self._quiet:
                self._show_epoch(event)
            case Advice() if not self._quiet:
                say(self._out, f"    ! {event.text}", style="yellow")

    def close(self) -> None:
        """Take the progress bar away, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, description: str, done: int, total: int, figures: str) -> None:
        if self._bar is None:
            self._bar = _Bar(self._err, description, figures)
        self._bar.draw(description, done, total, figures)

    def _show_start(self, run: RunStarted) -> None:
        self._epochs, self._batches, self._header_is_due = run.epochs, run.batches, True
        trained = "" if run.trained is None else f", {run.trained:,} of them trained"
        say(self._out, f"network   {run.network}, {run.parameters:,} parameters{trained}")
        say(
            self._out,
            f"images    {run.training_images:,} for training, {run.validation_images:,} for validation; "
            f"{run.batches:,} batches an epoch",
        )
        say(self._out, f"settings  {'  '.join(_flat(run.shown))}")
        if run.first_epoch > 1:
            say(self._out, f"resumed   at epoch {run.first_epoch} of {run.epochs}")
        if self._err.is_interactive:
            self._draw("compiling or loading kernels", 0, 1, "")

    def _show_batch(self, event: BatchDone) -> None:
        epoch = f"epoch {event.epoch}/{self._epochs}"
        parts = [f"{event.batch}/{self._batches}", *batch_figures(event)]
        room = self._err.width - 7 if self._err.is_interactive else UNFOLDED
        if len(epoch + "  ".join(parts)) > room:
            del parts[3]  # the speed, so that the others keep their place
        if len(epoch + "  ".join(parts)) > room:
            parts[-1] = parts[-1].partition("/")[2]
        figures = "  ".join(parts)
        if self._err.is_interactive:
            self._draw(epoch, event.batch, self._batches, figures)
        elif self._log_interval and event.batch % self._log_interval == 0:
            say(self._err, f"{epoch}  batch {figures}")

    def _show_epoch(self, event: EpochDone) -> None:
        narrow = self._out.width < 77  # then without learning rate and gradient norm
        columns = EPOCH_COLUMNS[:5] + EPOCH_COLUMNS[7:] if narrow else EPOCH_COLUMNS
        if self._header_is_due:
            self._header_is_due = False
            for i in (0, 1):
                header = " ".join(f"{column[i]:>{column[2]}}" for column in columns)
                say(self._out, header.rstrip(), "bold", wrap=False)
        line = " ".join(f"{cell(event):>{width}}" for _, _, width, cell in columns)
        say(self._out, line.rstrip(), wrap=False)

    def _show_end(self, run: RunEnded) -> None:
        say(self._out, f"stopped after epoch {run.epoch}, {run.reason}: {run.explanation}")
        if run.test is not None:
            say(
                self._out,
                f"test      loss {fixed(run.test.loss)}, {_score(run.test)} ({run.test.images:,} images), "
                f"weights of epoch {run.best_epoch}",
            )
        if not self._quiet:
            say(
                self._out,
                f"time      {run.seconds:.1f} s training, {run.compile_seconds:.1f} s compiling",
            )
        if run.output is None:
            return
        say(self._out, f"files     {run.output}")
        if self._quiet:
            return
        width = max(map(len, run.files), default=0)
        for name, content in run.files.items():
            say(self._out, f"          {name:<{width}}  {content}")
        if run.reason == "interrupted":
            say(self._out, f"next      minicnn train --resume {shlex.quote(str(run.output))}")
        elif "model.safetensors" in run.files:
            say(
                self._out,
                f"next      minicnn evaluate {shlex.quote(str(run.output / 'model.safetensors'))}",
            )


@contextmanager
def progress_bar(
    description: str, console: Console | None = None
) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block runs, if that is a terminal: call what it gives with (steps
    done, steps)."""
    bar = _Bar(console or make_console(stderr=True), description)
    try:
        yield lambda done, total: bar.draw(description, done, total, f"{100 * done / total:3.0f} %")
    finally:
        bar.close()


def _cell(value: object) -> str:
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return NOTHING
    if isinstance(value, Integral) and not isinstance(value, bool):
        return f"{int(value):,}"
    return (
        f"{float(value):.4g}"
        if isinstance(value, Real) and not isinstance(value, bool)
        else literal(str(value))
    )


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    console: Console | None = None,
) -> None:
    """Print a title line (unless empty) and a table; numbers, also those that are text, stand to
    the right.

    None and NaN are shown as "–". Where the console is too narrow, text is folded, and numbers are
    whole: lines are then longer.
    """
    console = console or make_console()
    cells = [[_cell(value) for value in row] for row in rows]
    grid, needed = Table(box=None, pad_edge=False, header_style="bold"), 0
    for i, column in enumerate(columns):
        numeric = all(
            re.fullmatch(rf"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?|inf|-inf|{NOTHING}", row[i])
            for row in cells
        )
        texts = (column, *(row[i] for row in cells))
        needed += 1 + (max(map(cell_len, texts)) if numeric else _LEAST)
        grid.add_column(
            Text(literal(column)),
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
        )
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    if title:
        say(console, title, style="bold")
    width = console.width
    console.width = max(width, needed)  # rich would cut figures off
    console.print(grid)
    console.width = width
