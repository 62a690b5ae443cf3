"""Pictures of training: the curves of a run and its record, runs beside each other, and the
learning-rate range test."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from minicnn.insight.compare import RunCurves
from minicnn.insight.range_test import RangeTest
from minicnn.report.plots import (
    BLUE,
    COLOURS,
    GREEN,
    MARKERS,
    ORANGE,
    PURPLE,
    VERMILION,
    figure,
    is_steep,
    logarithmic,
    shown,
    whole_epochs,
)
from minicnn.training.record import Record

if TYPE_CHECKING:
    from minicnn.report.plots import Figure

MOST_POINTS = 60  # of a curve: marks of more lie on each other
DASHES = ("-", "--", ":", "-.")  # tell runs apart that share a colour, from the ninth on


def run_curves(run: RunCurves) -> "Figure":
    """Loss and accuracy of a run on its training and its validation images, a point per epoch."""
    drawn = figure("Loss and accuracy by epoch", height=4.0)
    for axes, what in zip(drawn.subplots(1, 2), ("loss", "accuracy"), strict=True):
        percent = 100 if what == "accuracy" else 1
        sets = ("train", "training", BLUE, "o"), ("validation", "validation", ORANGE, "s")
        for kind, words, colour, mark in sets:
            values = percent * np.array(run.curve(f"{kind}_{what}"))
            if np.isfinite(values).any():
                style = {"color": colour, "marker": mark, "markersize": 4}
                axes.plot(run.curve("epoch"), values, label=f"{words} images", **style)
        axes.set(xlabel="epoch", ylabel="accuracy (%)" if percent > 1 else "mean loss")
        axes.set_xlim(0.5, len(run.epochs) + 0.5)
        whole_epochs(axes)
        axes.grid(alpha=0.3)
        axes.legend()
    return drawn


def health(record: Record) -> "Figure":
    """Gradient norms, update-to-weight ratios and the fraction of dead units, a curve per tensor or
    layer, over the epochs.

    Many lines are means over neighbours, so that a curve has `MOST_POINTS` at most. What is 0 has no
    place on a logarithmic axis: it is a mark at the lower edge.
    """
    wanted = [
        ("gradient_norm", "gradient (L2)"),
        ("update_ratio", "update / weight (L2)"),
    ]
    wanted += [("dead", "dead channels (%)")] if record.lines[-1].dead else []
    drawn = figure("Health of the layers while training", height=1 + 2.6 * len(wanted))
    epochs = np.array([line.epoch for line in record.lines[1:]])
    size = -(-len(epochs) // MOST_POINTS)
    parts = [slice(begin, begin + size) for begin in range(0, len(epochs), size)]

    def means(values: ArrayLike) -> np.ndarray:
        return np.array([np.mean(np.asarray(values)[part]) for part in parts])

    for axes, (figures, words) in zip(
        drawn.subplots(len(wanted), 1, sharex=True, squeeze=False).flat, wanted, strict=True
    ):
        percent = figures == "dead"
        curves = {name: means(values) for name, values in record.curves(figures).items()}
        positive = [values[values > 0] for values in curves.values()]
        lowest = min((values.min() for values in positive if len(values)), default=None)
        for i, (name, values) in enumerate(curves.items()):
            style: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                "marker": MARKERS[i % len(MARKERS)],
            }
            style |= {"markersize": max(3, 7 - i)}  # of equal curves all are seen
            height = values * 100 if percent else np.where(values > 0, values, np.nan)
            axes.plot(means(epochs), height, label=shown(name), **style)
            zeros = means(epochs)[values == 0]
            if len(zeros) and not percent:
                style |= {"transform": axes.get_xaxis_transform(), "linestyle": "none"}
                axes.plot(zeros, 0 * zeros, label=f"{shown(name)} is 0", clip_on=False, **style)
        axes.set_ylabel(words)
        if percent:
            axes.set_ylim(-4, 104)
        elif lowest is not None:
            logarithmic(axes, words)
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlabel("epochs done")
    whole_epochs(axes)
    return drawn


def comparison(runs: Sequence[RunCurves], target: float) -> "Figure":
    """Runs on one picture: training loss by epoch, and accuracy by epoch, step and second, with the
    target."""
    drawn = figure("Runs beside each other", height=7.6)
    panels = drawn.subplots(2, 2)
    wanted = (
        ("epoch", "loss"),
        ("epoch", "accuracy"),
        ("steps", "accuracy"),
        ("elapsed", "accuracy"),
    )
    words = {"epoch": "epoch", "steps": "steps of the optimizer", "elapsed": "time (s)"}
    held_out = all(np.isfinite(run.curve("validation_accuracy")).all() for run in runs)
    accuracy_of = "validation accuracy (%)" if held_out else "accuracy (%)"
    for axes, (across, up) in zip(panels.flat, wanted, strict=True):
        for i, run in enumerate(runs):
            values = (
                run.curve("train_loss")
                if up == "loss"
                else [100 * accuracy for accuracy in run.curve("accuracy")]
            )
            axes.plot(
                run.curve(across),
                values,
                DASHES[i // len(COLOURS) % len(DASHES)],
                marker="o",
                markersize=3,
                color=COLOURS[i % len(COLOURS)],
                label=shown(run.name),
            )
        axes.set(xlabel=words[across], ylabel="mean training loss" if up == "loss" else accuracy_of)
        if up == "accuracy":
            axes.axhline(
                100 * target,
                color="gray",
                linewidth=1,
                linestyle="--",
                label=f"target {100 * target:.4g} %",
            )
        elif is_steep(np.concatenate([run.curve("train_loss") for run in runs])):
            logarithmic(axes, "mean training loss")
        if across == "epoch":
            whole_epochs(axes)
        axes.grid(alpha=0.3)
    handles, names = panels.flat[1].get_legend_handles_labels()
    longest = max(map(len, names))
    drawn.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=max(1, min(len(names), 90 // (longest + 8))),
    )
    return drawn


def range_test(result: RangeTest) -> "Figure":
    """Loss against learning rate, each batch a point, with the smoothed curve and what it
    suggests."""
    drawn = figure(height=4.2)
    axes = drawn.subplots()
    style: dict[str, Any] = {"color": "gray", "alpha": 0.5, "markersize": 4}
    axes.plot(result.rates, result.losses, ".", label="loss of a batch", **style)
    axes.plot(result.rates, result.smoothed, color=BLUE, linewidth=2, label="smoothed")
    for rate, colour, dash, words in (
        (result.suggestion, VERMILION, "-", "suggestion"),
        (result.steepest, GREEN, "--", "steepest fall"),
        (result.lowest, PURPLE, ":", "lowest"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle=dash, label=f"{words}: {rate:.1e}")
    low, high = result.smoothed.min(), result.smoothed[0]
    margin = 0.15 * (high - low or 1.0)
    axes.set(
        ylabel="loss of a batch",
        title="Learning-rate range test",
        ylim=(low - 2 * margin, high + 3 * margin),
    )
    logarithmic(axes, "learning rate", "x")
    axes.grid(alpha=0.3)
    axes.legend()
    return drawn


def search_outcome(points: Sequence[tuple[dict[str, Any], float]], maximize: bool) -> "Figure":
    """The score of each trial in order, with the best so far, and over each setting that was
    varied; ``points`` are (values, score)."""
    names = list(points[0][0])
    drawn = figure("Trials of a search", height=2.6 * (len(names) + 1))
    panels = np.atleast_1d(drawn.subplots(len(names) + 1))
    scores = [score * (100 if maximize else 1) for _, score in points]
    word = "validation accuracy (%)" if maximize else "validation loss"
    best = (np.maximum if maximize else np.minimum).accumulate(scores)
    order = range(1, len(scores) + 1)
    panels[0].plot(order, scores, "o", color=COLOURS[0], markersize=4, label="a trial")
    panels[0].step(order, best, where="post", color=COLOURS[1], label="best so far")
    panels[0].set(xlabel="finished trials", ylabel=word)
    whole_epochs(panels[0])
    panels[0].legend()
    for name, axes in zip(names, panels[1:], strict=True):
        values = [given[name] for given, _ in points]
        numbers = all(type(value) in (int, float) for value in values)
        axes.plot(
            values if numbers else list(map(str, values)),
            scores,
            "o",
            color=COLOURS[0],
            markersize=4,
        )
        axes.set(xlabel=shown(name, 60), ylabel=word)
        if numbers and is_steep(np.asarray(values, float)):
            logarithmic(axes, shown(name, 60), "x")
    for axes in panels:
        axes.grid(alpha=0.3)
    return drawn
