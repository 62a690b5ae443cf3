"""What a notebook shows: a run as a table that grows and its curves, networks and models as tables.

The curves are SVG written here, so that no other package is needed.
"""

import html
import io
import time
from collections.abc import Sequence
from typing import Any

from minicnn.inference import Model
from minicnn.insight.advice import Advice
from minicnn.network.network import Network
from minicnn.network.summary import summary_rows
from minicnn.report.console import EPOCH_COLUMNS, ConsoleReporter, batch_figures, make_console
from minicnn.report.html import table
from minicnn.training.events import BatchDone, EpochDone, Event, RunEnded

_WIDTH, _HEIGHT, _EDGE = 480, 160, 48  # of the picture, and of the room for its numbers
_LINES = (("train_loss", "training loss", "#0072B2"), ("validation_loss", "validation", "#D55E00"))
_SECONDS = 0.5  # between two drawings


class NotebookReporter:
    """Shows a run in the output of the cell, which it replaces as the run goes on."""

    def __init__(self) -> None:
        self._text, self._end, self._status = io.StringIO(), io.StringIO(), ""
        self._start_reporter = ConsoleReporter(
            make_console(file=self._text), make_console(file=io.StringIO())
        )
        self._end_reporter = ConsoleReporter(make_console(file=self._end))
        self._epochs: list[EpochDone] = []
        self._handle: Any = None
        self._drawn = 0.0

    def __call__(self, event: Event | Advice) -> None:
        now = time.monotonic()
        if isinstance(event, BatchDone):
            figures = ", ".join(batch_figures(event))
            self._status = f"epoch {event.epoch}, batch {event.batch:,}: {figures}"
            if now < self._drawn + _SECONDS:
                return
        elif isinstance(event, EpochDone):
            self._epochs.append(event)
        elif isinstance(event, RunEnded):
            self._status = ""
            self._end_reporter(event)
        else:
            self._start_reporter(event)
        self._drawn = now
        if self._handle is None:
            from IPython.display import display

            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)

    def close(self) -> None:
        """End the display; what is shown stays."""

    def __repr__(self) -> str:
        rows = (
            " ".join(f"{cell(done):>{n}}" for *_, n, cell in EPOCH_COLUMNS) for done in self._epochs
        )
        return "\n".join([self._text.getvalue(), *rows, self._status, self._end.getvalue()])

    def _repr_html_(self) -> str:
        start, end = (
            f"<pre>{html.escape(text.getvalue())}</pre>" for text in (self._text, self._end)
        )
        names = [" ".join(filter(None, column[:2])) for column in EPOCH_COLUMNS]
        rows = [[cell(done) for *_, cell in EPOCH_COLUMNS] for done in self._epochs]
        return f"{start}{table(names, rows)}{curves(self._epochs)}<p>{html.escape(self._status)}</p>{end}"


def curves(epochs: Sequence[EpochDone]) -> str:
    """The losses over the epochs as SVG; empty before the second epoch."""
    named = [
        (words, colour, [getattr(done, name) for done in epochs]) for name, words, colour in _LINES
    ]
    drawn = [line for line in named if None not in line[2]]
    if len(epochs) < 2 or not drawn:
        return ""
    losses = [loss for *_, values in drawn for loss in values]
    low, high = min(losses), max(losses)
    step, span = (_WIDTH - 2 * _EDGE) / (len(epochs) - 1), (high - low) or 1.0
    room = _HEIGHT - _EDGE
    parts = [
        f'<text x="0" y="{y:.0f}">{loss:.4g}</text>'
        for y, loss in ((_EDGE / 2 + 4, high), (_HEIGHT - _EDGE / 2 + 4, low))
    ]
    for number, (words, colour, values) in enumerate(drawn):
        points = " ".join(
            f"{_EDGE + i * step:.1f},{_EDGE / 2 + (high - loss) / span * room:.1f}"
            for i, loss in enumerate(values)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{_EDGE + 140 * number}" y="12" fill="{colour}">{words}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" font-size="12" fill="currentColor" '
        f'role="img" aria-label="losses over the epochs">{"".join(parts)}</svg>'
    )


def network_html(network: Network) -> str:
    """A network as a table of its layers."""
    rows = [
        (row.name, ", ".join(row.reads), "×".join(map(str, row.output_shape)), *numbers, row.layer)
        for row in summary_rows(network)
        for numbers in [[f"{number:,}" for number in (row.parameters, row.multiply_adds)]]
    ]
    columns = ("layer", "reads", "output shape", "parameters", "multiply-adds", "description")
    return table(columns, rows)


def model_html(model: Model) -> str:
    """A model: its classes, the figures that it reached, and its network."""
    figures = model.training.get("figures", {})
    facts = [("task", model.task), ("classes", ", ".join(model.classes))]
    facts += [
        (name.replace("_", " "), f"{figure:.4g}" if isinstance(figure, float) else str(figure))
        for name, figure in figures.items()
        if figure is not None
    ]
    return table(("model", model.network.name), facts) + network_html(model.network)
