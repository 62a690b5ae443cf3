"""The record of a run to look at: gradients, steps and dead units over the epochs, as a picture and in the terminal."""

from typing import TYPE_CHECKING

from minicnn.report.console import Console, make_console, say, table
from minicnn.report.plots import COLOURS, figure
from minicnn.report.terminal import sparkline
from minicnn.training.record import Record

if TYPE_CHECKING:
    from minicnn.report.plots import Figure

NAN = float("nan")


def _curves(record: Record, figures: str) -> dict[str, list[float]]:
    """One of the figures of a `Recorded` by name, a number a line but the first; of tensors, those of weights alone."""
    lines = [getattr(line, figures) for line in record.lines[1:]]
    names = [name for name in (lines[-1] if lines else {}) if not name.endswith(".bias")]
    return {name: [NAN if line.get(name) is None else line[name] for line in lines] for name in names}


def health(record: Record) -> "Figure":
    """Gradient norms, update-to-weight ratios and the share of dead units, a curve a tensor or layer, over the epochs."""
    drawn = figure(height=8.0)
    epochs = [line.epoch for line in record.lines[1:]]
    wanted = [("gradient_norm", "L2 norm of the gradient"), ("update_ratio", "update / weight (L2 norms)")]
    wanted += [("dead", "dead channels (%)")] if record.lines[-1].dead else []
    for axes, (figures, words) in zip(drawn.subplots(len(wanted), 1, sharex=True, squeeze=False).flat, wanted, strict=True):
        percent = 100 if figures == "dead" else 1
        curves = _curves(record, figures)
        for i, (name, values) in enumerate(curves.items()):
            axes.plot(epochs, [percent * value for value in values], marker="os^Dv"[i % 5], markersize=4,
                      color=COLOURS[i % len(COLOURS)], label=name)  # fmt: skip
        axes.set(ylabel=words)
        if figures == "dead":
            axes.set_ylim(-4, 104)
        elif any(value > 0 for values in curves.values() for value in values):
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlabel("epochs done")
    return drawn


def show_health(record: Record, console: Console | None = None) -> None:
    """Print the same as sparklines, each with its last figure."""
    console = console or make_console()
    wanted = {"gradient_norm": "gradient norm", "update_ratio": "update / weight", "dead": "dead channels"}
    for figures, words in wanted.items():
        rows = [(name, sparkline(values, 30), f"{values[-1]:.2g}") for name, values in _curves(record, figures).items()]
        if rows:
            say(console)
            table("", ["", words, "last"], rows, console)
