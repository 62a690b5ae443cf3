"""Pictures of training: the curves of a run and its record, runs beside each other, and the
learning-rate range test."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minicnn.insight.compare import RunCurves
from minicnn.insight.range_test import RangeTest
from minicnn.report.plots import BLUE, COLOURS, GREEN, ORANGE, PURPLE, VERMILION, figure
from minicnn.training.record import Record

if TYPE_CHECKING:
    from minicnn.report.plots import Figure

DASHES = ("-", "--", ":", "-.")  # tell runs apart that share a colour, from the ninth on


def run_curves(run: RunCurves) -> "Figure":
    """Loss and accuracy of a run on its training and its validation images, an epoch a point."""
    drawn = figure(height=3.6)
    for axes, what in zip(drawn.subplots(1, 2), ("loss", "accuracy"), strict=True):
        percent = 100 if what == "accuracy" else 1
        for kind, colour, mark in (("train", BLUE, "o"), ("validation", ORANGE, "s")):
            values = percent * np.array(run.curve(f"{kind}_{what}"))
            if np.isfinite(values).any():
                axes.plot(
                    run.curve("epoch"),
                    values,
                    color=colour,
                    marker=mark,
                    markersize=4,
                    label={"train": "training"}.get(kind, kind),
                )
        axes.set(
            xlabel="epoch",
            ylabel="accuracy (%)" if percent > 1 else "mean loss",
            xlim=(0.5, len(run.epochs) + 0.5),
        )
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    return drawn


def health(record: Record) -> "Figure":
    """Gradient norms, update-to-weight ratios and the share of dead units, a curve a tensor or
    layer, over the epochs."""
    drawn = figure(height=8.0)
    epochs = [line.epoch for line in record.lines[1:]]
    wanted = [
        ("gradient_norm", "L2 norm of the gradient"),
        ("update_ratio", "update / weight (L2 norms)"),
    ]
    wanted += [("dead", "dead channels (%)")] if record.lines[-1].dead else []
    for axes, (figures, words) in zip(
        drawn.subplots(len(wanted), 1, sharex=True, squeeze=False).flat, wanted, strict=True
    ):
        percent = 100 if figures == "dead" else 1
        curves = record.curves(figures)
        for i, (name, values) in enumerate(curves.items()):
            axes.plot(
                epochs,
                [percent * value for value in values],
                marker="os^Dv"[i % 5],
                markersize=4,
                color=COLOURS[i % len(COLOURS)],
                label=name,
            )
        axes.set(ylabel=words)
        if figures == "dead":
            axes.set_ylim(-4, 104)
        elif any(value > 0 for values in curves.values() for value in values):
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlabel("epochs done")
    return drawn


def comparison(runs: Sequence[RunCurves], target: float) -> "Figure":
    """Runs on one picture: training loss by epoch, and accuracy by epoch, step and second, with the
    target."""
    drawn = figure(height=7.2)
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
                else [100 * share for share in run.curve("accuracy")]
            )
            axes.plot(
                run.curve(across),
                values,
                DASHES[i // len(COLOURS) % len(DASHES)],
                marker="o",
                markersize=3,
                color=COLOURS[i % len(COLOURS)],
                label=run.name,
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
        elif (
            max(max(run.curve("train_loss")) for run in runs)
            > 20 * min(min(run.curve("train_loss")) for run in runs)
            > 0
        ):
            axes.set_yscale("log")
        if across == "epoch":
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
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
    axes.plot(
        result.rates,
        result.losses,
        ".",
        color="gray",
        alpha=0.5,
        markersize=4,
        label="loss of a batch",
    )
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
        xscale="log",
        xlabel="learning rate",
        ylabel="loss of a batch",
        ylim=(low - 2 * margin, high + 3 * margin),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return drawn
