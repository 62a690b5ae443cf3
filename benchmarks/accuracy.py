"""What a recipe reaches, beside PyTorch with the same network, first weights, batches, augmented
images, schedule and average of the weights.

    python benchmarks/accuracy.py RECIPE [--seeds 3] [--data PATH] [--epochs N] [--target 0.91]
                                         [--threads N] [--alone] [--json FILE]

Both train in turns, in one process. PyTorch gets the very images that minicnn's gather makes, before
its clock starts, and computes contiguous or channels last, whichever makes its first batches faster,
with its fused optimizers. Training time is that of the steps; compiling, validating and testing are
apart. After each epoch the test images are classified with the weights of that moment: accuracy is
that after the last epoch, once by the images alone and once by the views of ``evaluate --tta``, the
same on both sides; time to the target is that of the training up to the first epoch that reaches it
(none: not in every run). CPU seconds are those of all threads, and mean more on a shared machine.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import environment  # noqa: F401  # before Numba
import numpy as np
from rich.console import Console
from rich.table import Table

import minicnn
from minicnn.backends.cpu import Inference, show
from minicnn.data import Dataset
from minicnn.data.tta import Averaged, suited
from minicnn.training.events import BatchDone, Compiled, EpochDone
from minicnn.training.run import Run

TIMED = 10  # batches by which PyTorch's layout is chosen


@dataclass
class Curve:
    """One training, a figure an epoch: seconds of steps so far and test accuracy. ``with_tta`` is the
    accuracy of the last weights by several views of each image."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    with_tta: float = math.nan

    def to(self, target: float) -> float | None:
        """Seconds of training up to the first epoch that reaches the target."""
        pairs = zip(self.seconds, self.accuracy, strict=True)
        return next((seconds for seconds, accuracy in pairs if accuracy >= target), None)


class Clock:
    """Seconds and CPU seconds, while it runs."""

    def __init__(self) -> None:
        self.total = np.zeros(2)

    def start(self) -> None:
        self.begun = np.array([time.perf_counter(), time.process_time()])

    def stop(self) -> None:
        self.total += np.array([time.perf_counter(), time.process_time()]) - self.begun

    def note(self, curve: Curve, run: Run, inference: Any) -> None:
        """Put an epoch into the curve, with what ``inference`` says of the test images."""
        curve.seconds.append(float(self.total[0]))
        curve.cpu_seconds.append(float(self.total[1]))
        curve.accuracy.append(right(run, inference))
        if len(curve.accuracy) == run.settings.epochs:
            views = suited("auto", {"settings": run.settings.to_dict()})
            curve.with_tta = right(run, Averaged(inference, views))


def right(run: Run, inference: Any) -> float:
    """The share of the test images that ``inference`` classifies as they are labelled."""
    test = run.dataset.test
    found = inference.logits(test.images, run.inputs.scale).argmax(axis=1)
    return float((found == test.labels).mean())


def run_of(settings: minicnn.Settings, dataset: Dataset) -> Run:
    """The recipe's run, not begun."""
    network = minicnn.preset(settings.model, dataset.image_shape, len(dataset.classes))
    return minicnn.Trainer(network, settings).prepared(dataset)


def with_minicnn(settings: minicnn.Settings, dataset: Dataset) -> Curve:
    """Train as `minicnn train` does."""
    run, clock, curve = run_of(settings, dataset), Clock(), Curve()
    for event in run.events():
        if isinstance(event, BatchDone) and event.batch == run.inputs.batches:
            clock.stop()
        if isinstance(event, EpochDone):
            clock.note(curve, run, Inference(run.network, run.progress.last, settings.threads))
        if isinstance(event, Compiled | EpochDone):
            clock.start()
    return curve


def batches_of(run: Run, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """(augmented images [n, H, W, C], labels, learning rate) as minicnn's training has them."""
    dataset, settings, inputs = run.dataset, run.settings, run.inputs
    given = dataset.train.images, inputs.train, dataset.maximum, 0.0 if dataset.seen else None
    views, order = inputs.augment.draw(settings.seed, epoch, *given), inputs.order(epoch)
    run.counters.epoch = epoch
    for batch in range(inputs.batches):
        chosen = inputs.batch(order, batch)
        images = show(dataset.train.images, chosen, run.inputs.scale, views)
        yield images, inputs.labels[chosen], run.scheduled(batch)["learning_rate"]


def with_torch(settings: minicnn.Settings, dataset: Dataset) -> Curve:
    """The same in PyTorch."""
    import torch
    from peers.torch_recipe import TorchRecipe

    run, curve = run_of(settings, dataset), Curve()
    if settings.threads:
        torch.set_num_threads(settings.threads)

    def step(twin: TorchRecipe, clock: Clock, batch: tuple[np.ndarray, np.ndarray, float]) -> None:
        x, labels, rate = twin.tensors(batch[0]), torch.from_numpy(batch[1]), batch[2]
        clock.start()
        twin.step(x, labels, rate)
        clock.stop()

    def trial(layout: torch.memory_format) -> float:
        twin, times = TorchRecipe(run, layout), []
        for _, batch in zip(range(TIMED), batches_of(run, 1), strict=False):
            step(twin, clock := Clock(), batch)
            times.append(clock.total[1])
        return statistics.median(times)

    layout = min((torch.contiguous_format, torch.channels_last), key=trial)
    twin, clock = TorchRecipe(run, layout), Clock()
    for epoch in range(1, settings.epochs + 1):
        for batch in batches_of(run, epoch):
            step(twin, clock, batch)
        clock.note(curve, run, twin)
    return curve


def mean_and_range(shares: list[float]) -> str:
    """``91.48 (91.25–91.60)`` of numbers from 0 to 1."""
    low, mean, high = (100 * of(shares) for of in (min, statistics.mean, max))
    return f"{mean:.2f} ({low:.2f}–{high:.2f})"


def summary(curves: list[Curve], target: float | None) -> list[str]:
    """The cells of a row."""
    reached = [curve.to(target) for curve in curves] if target else [None]
    to_target = None if None in reached else statistics.mean(filter(None, reached))
    return [
        mean_and_range([curve.accuracy[-1] for curve in curves]),
        mean_and_range([curve.with_tta for curve in curves]),
        f"{statistics.mean(curve.seconds[-1] for curve in curves):.1f}",
        f"{statistics.mean(curve.cpu_seconds[-1] for curve in curves):.1f}",
        "none" if to_target is None else f"{to_target:.1f}",
    ]


def main() -> None:
    """Train, print the table, and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--data", help="in the place of the recipe's")
    parser.add_argument("--epochs", type=int, help="in the place of the recipe's")
    parser.add_argument("--target", type=float, help="accuracy from 0 to 1")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    changes = {name: getattr(given, name) for name in ("data", "epochs", "threads")}
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = replace(minicnn.recipe(given.recipe), **changes)
    dataset = minicnn.load_dataset(settings.data)
    sides = {"minicnn": with_minicnn}
    if not given.alone and find_spec("torch"):
        sides["PyTorch"] = with_torch
    curves: dict[str, list[Curve]] = {side: [] for side in sides}
    for seed in range(given.seeds):
        for side, train in sides.items():
            curve = train(replace(settings, seed=seed), dataset)
            curves[side].append(curve)
            print(
                f"seed {seed}  {side}: {100 * curve.accuracy[-1]:.2f}%, with tta {100 * curve.with_tta:.2f}%, after "
                f"{curve.seconds[-1]:.1f} s, {curve.cpu_seconds[-1]:.1f} CPU s",
                flush=True,
            )
    table = Table(title=f"{given.recipe}, {given.seeds} seeds, {settings.epochs} epochs")
    for column in (
        "",
        "test accuracy, %",
        "with --tta, %",
        "training, s",
        "CPU s",
        "to the target, s",
    ):
        table.add_column(column)
    for side in sides:
        table.add_row(side, *summary(curves[side], given.target))
    Console().print(table)
    if given.json:
        found = {side: [asdict(curve) for curve in of] for side, of in curves.items()}
        report = {"recipe": given.recipe, "settings": settings.to_dict(), "target": given.target}
        given.json.write_text(json.dumps(report | {"curves": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
