"""What a recipe reaches, beside PyTorch with the same network, first weights, batches, augmented
images and schedule.

    python benchmarks/accuracy.py RECIPE [--seeds 3] [--data PATH] [--epochs N] [--target 0.91]
                                         [--threads N] [--alone] [--json FILE]

Both train in turns, in one process. PyTorch gets the very images that minicnn's gather makes, before
its clock starts, and computes contiguous or channels last, whichever makes its first batches faster,
with the fused AdamW. Training time is that of the steps; compiling, validating and testing are apart.
After each epoch the test images are classified with the weights of that moment: accuracy is that
after the last epoch, time to the target that of the training up to the first epoch that reaches it
(none: not in every run). CPU seconds are those of all threads, and mean more on a shared machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import environment  # noqa: F401  # before Numba
import numpy as np
from rich.console import Console
from rich.table import Table

import minicnn
from minicnn.backends.cpu import Inference, show
from minicnn.data import Dataset
from minicnn.training.events import BatchDone, Compiled, EpochDone
from minicnn.training.run import Run

TIMED = 10  # batches by which PyTorch's layout is chosen


@dataclass
class Curve:
    """One training, a figure an epoch: seconds of steps so far and test accuracy."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

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

    def note(self, curve: Curve, accuracy: float) -> None:
        """Put an epoch into the curve."""
        curve.seconds.append(float(self.total[0]))
        curve.cpu_seconds.append(float(self.total[1]))
        curve.accuracy.append(accuracy)


def trainer_of(settings: minicnn.Settings, dataset: Dataset) -> minicnn.Trainer:
    """The recipe's trainer."""
    network = minicnn.preset(settings.model, dataset.image_shape, len(dataset.classes))
    return minicnn.Trainer(network, settings)


def with_minicnn(settings: minicnn.Settings, dataset: Dataset) -> Curve:
    """Train as `minicnn train` does."""
    trainer, clock, curve, test = trainer_of(settings, dataset), Clock(), Curve(), dataset.test
    plan = Run(trainer, dataset, None, None)
    for event in trainer.run(dataset):
        if isinstance(event, BatchDone) and event.batch == plan.inputs.batches:
            clock.stop()
        if isinstance(event, EpochDone):
            inference = Inference(trainer.network, trainer.progress.last, settings.threads)
            found = inference.logits(test.images, plan.inputs.scale).argmax(axis=1)
            clock.note(curve, float((found == test.labels).mean()))
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
    from peers.torch_graph import to_torch

    trainer = trainer_of(settings, dataset)
    run, clock, curve, test = Run(trainer, dataset, None, None), Clock(), Curve(), dataset.test
    hyper = run.optimizer.hyperparameters
    if (
        settings.optimizer != "adamw"
        or run.inputs.augment.mixes
        or settings.loss != "cross_entropy"
    ):
        raise SystemExit("PyTorch's side knows adamw and cross_entropy without mixing images alone")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    smoothing = settings.loss_kwargs.get("label_smoothing", 0.0)

    def prepared(layout: torch.memory_format) -> tuple[torch.nn.Module, Callable[..., None]]:
        model = to_torch(trainer.network, run.progress.params).train().to(memory_format=layout)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            betas=(hyper["beta1"], hyper["beta2"]),
            eps=hyper["epsilon"],
            weight_decay=hyper["weight_decay"],
            fused=True,
        )

        def step(images: np.ndarray, labels: np.ndarray, rate: float) -> None:
            x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            y = torch.from_numpy(labels)
            clock.start()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y, label_smoothing=smoothing).backward()
            optimizer.step()
            clock.stop()

        return model, step

    def trial(layout: torch.memory_format) -> float:
        _, step = prepared(layout)
        times = []
        for _, batch in zip(range(TIMED), batches_of(run, 1), strict=False):
            before = clock.total[1]
            step(*batch)
            times.append(clock.total[1] - before)
        return statistics.median(times)

    model, step = prepared(min((torch.contiguous_format, torch.channels_last), key=trial))
    clock.total[:] = 0
    for epoch in range(1, settings.epochs + 1):
        for batch in batches_of(run, epoch):
            step(*batch)
        model.eval()
        right = 0
        everything = np.zeros(1, np.int64)
        views = minicnn.Augment().draw(0, 1, test.images, everything, dataset.maximum, None)
        with torch.inference_mode():
            for chosen in np.array_split(np.arange(len(test)), -(-len(test) // 1000)):
                images = show(test.images, chosen, run.inputs.scale, views)
                logits = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
                right += int((logits.argmax(1).numpy() == test.labels[chosen]).sum())
        model.train()
        clock.note(curve, right / len(test))
    return curve


def summary(curves: list[Curve], target: float | None) -> list[str]:
    """The cells of a row."""
    last = [100 * curve.accuracy[-1] for curve in curves]
    reached = [curve.to(target) for curve in curves] if target else [None]
    to_target = None if None in reached else statistics.mean(filter(None, reached))
    return [
        f"{statistics.mean(last):.2f} ({min(last):.2f}–{max(last):.2f})",
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
                f"seed {seed}  {side}: {100 * curve.accuracy[-1]:.2f}% after {curve.seconds[-1]:.1f} s, "
                f"{curve.cpu_seconds[-1]:.1f} CPU s",
                flush=True,
            )
    table = Table(title=f"{given.recipe}, {given.seeds} seeds, {settings.epochs} epochs")
    for column in ("", "test accuracy, %", "training, s", "CPU s", "to the target, s"):
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
