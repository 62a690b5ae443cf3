"""Loss landscapes of LeNet-5 beside PyTorch, in one run: `python benchmarks/landscape.py`.

101×101 points on 1,000 images, along five pairs of directions. PyTorch sets the weights that change
and runs the forward pass in inference mode; its settings (contiguous or channels last, batches of
64, 250 or 1,000 images, one setting of the weights after the other or eight at once by vmap, with
`--compile` also torch.compile) are tried out first, and the fastest takes part. In the column
"sharing" somebody has written PyTorch code that computes once what comes before the first layer
that changes. minicnn computes the whole grid; PyTorch 102 points of it, evenly spread, and the
ratio is by the point. With `--full` PyTorch computes all points of the first pair. The losses are
compared at all points that both have.

Leave the machine alone meanwhile. Exit status 1 if losses differ by more than a relative 1e-5.
"""

import environment  # isort: skip  # noqa: F401  # sets variables that the others' imports read
import argparse
import itertools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from networks import NETWORKS
from peers.layout import channels_first, to_nchw
from peers.torch_graph import to_torch
from rich.console import Console
from rich.table import Table
from timing import Contestant, Effort, measure, spread
from torch.func import functional_call, vmap
from torch.nn import functional

import minicnn
from minicnn.backends.cpu import resolve_threads
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.directions import Direction
from minicnn.insight.surface import loss_surface, two_directions

POINTS, IMAGES, TOLERANCE = 101, 1000, 1e-5
NETWORK = NETWORKS["LeNet-5"]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
PAIRS = {
    "the two weights with the largest gradients": (),
    "two weights of the first layer": ("conv1.weight[0,0,0,3]", "conv1.weight[4,2,0,5]"),
    "a weight of the first and one of a dense layer": (
        "conv1.weight[0,0,0,3]",
        "dense1.weight[100,7]",
    ),
    "two weights of the second convolution": ("conv2.weight[0,0,0,3]", "conv2.weight[2,2,5,9]"),
    "two random directions": ("random", "random"),
}


class Torch:
    """The loss at points, in PyTorch: one setting."""

    def __init__(
        self,
        batch_loss: BatchLoss,
        directions: list[Direction],
        layout: str,
        batch: int,
        together: int = 1,
        compiled: bool = False,
        share: bool = False,
    ):
        self.name = (
            f"{layout}, {batch} images"
            + f", {together} by vmap" * (together > 1)
            + ", compiled" * compiled
        )
        whole = to_torch(NETWORK, batch_loss.params).to(memory_format=LAYOUTS[layout]).eval()
        self.names = list(dict(whole.named_parameters()))
        tensors = [self._tensors(batch_loss.params)] + [
            self._tensors(one.vector) for one in directions
        ]
        changes = [name for name in self.names if any(parts[name].any() for parts in tensors[1:])]
        self.changes = [(name, *(parts[name] for parts in tensors)) for name in changes]
        self.together, self.whole, self.origins = (
            together,
            whole,
            [one.origin for one in directions],
        )
        pixels = (batch_loss.images * 255).round().astype(np.uint8)
        x = torch.from_numpy(to_nchw(pixels)).contiguous(memory_format=LAYOUTS[layout])
        first = int(min(name.split(".")[0] for name in changes)) if share else 0
        with torch.inference_mode():
            x = whole[:first](x)
        self.model = torch.compile(whole[first:]) if compiled else whole[first:]
        self.parts = list(
            zip(x.split(batch), torch.from_numpy(batch_loss.labels).split(batch), strict=True)
        )

    def _tensors(self, params: np.ndarray) -> dict[str, torch.Tensor]:
        layers = enumerate(channels_first(NETWORK, params))
        return {
            f"{index}.{name}": torch.from_numpy(tensor)
            for index, (_, own) in layers
            for name, tensor in own.items()
        }

    @torch.inference_mode()
    def __call__(self, points: list[tuple[float, float]]) -> np.ndarray:
        """The mean loss at each (x, y)."""
        losses = []
        for start in range(0, len(points), self.together):
            some = points[start : start + self.together]
            losses += self._at([(x - self.origins[0], y - self.origins[1]) for x, y in some])
        return np.array(losses)

    def _at(self, moves: list[tuple[float, float]]) -> list[float]:
        if self.together == 1:
            ((a, b),) = moves
            for name, base, first, second in self.changes:
                self.whole.get_parameter(name).copy_(base).add_(first, alpha=a).add_(
                    second, alpha=b
                )
            total = sum(
                functional.cross_entropy(self.model(x), y, reduction="sum") for x, y in self.parts
            )
            return [float(total) / IMAGES]
        fixed = dict(self.whole.named_parameters())
        moving = {
            name: torch.stack([base + a * first + b * second for a, b in moves])
            for name, base, first, second in self.changes
        }
        logits = [
            vmap(lambda own, x=x: functional_call(self.whole, {**fixed, **own}, (x,)))(moving)
            for x, _ in self.parts
        ]
        summed = [
            functional.cross_entropy(
                one.transpose(1, 2), y.expand(len(moves), -1), reduction="none"
            ).sum(1)
            for one, (_, y) in zip(logits, self.parts, strict=True)
        ]
        return (sum(summed) / IMAGES).tolist()


def fastest(settings: list[Torch], points: list[tuple[float, float]]) -> Torch:
    """The setting that takes the least time for a few points, the best of three turns."""
    seconds = dict.fromkeys(settings, np.inf)
    for setting in settings:
        setting(points)
    for _, setting in itertools.product(range(3), settings):
        start = time.perf_counter()
        setting(points)
        seconds[setting] = min(seconds[setting], time.perf_counter() - start)
    return min(seconds, key=seconds.__getitem__)


def compare(
    batch_loss: BatchLoss, directions: list[Direction], options: argparse.Namespace, full: bool
) -> tuple[list[str], float]:
    """(a row of the table, largest relative difference of the losses)."""
    made = [
        Torch(batch_loss, directions, layout, batch, together)
        for layout in LAYOUTS
        for batch in (64, 250, 1000)
        for together in (1, 8)
    ]
    if options.compile:
        made += [
            Torch(batch_loss, directions, "channels last", batch, compiled=True)
            for batch in (64, 1000)
        ]
    found: list = []

    def ours() -> None:
        found[:] = [loss_surface(batch_loss, directions, POINTS)]

    ours()
    surface = found[0]
    grid = [(float(x), float(y)) for y in surface.y_values for x in surface.x_values]
    sample = grid[:: POINTS - 1] if not full else grid
    best = fastest(made, grid[:: 1 + len(grid) // 8])
    made = [
        Torch(batch_loss, directions, layout, batch, share=True)
        for layout in LAYOUTS
        for batch in (250, 1000)
    ]
    sharing = fastest(made, grid[:: 1 + len(grid) // 8])
    if full:
        seconds = {}
        for name, call in {"minicnn": ours, "PyTorch": lambda: found.append(best(sample))}.items():
            start = time.perf_counter()
            call()
            seconds[name] = np.array([(time.perf_counter() - start) / len(grid)])
        theirs = found[1]
        seconds["sharing"] = measure(
            [_contestant("sharing", sharing, sample[::POINTS])], Effort(1, 0.0)
        )["sharing"]
    else:
        theirs = best(sample)
        contestants = [
            Contestant("minicnn", ours, len(grid)),
            _contestant("PyTorch", best, sample),
            _contestant("sharing", sharing, sample),
        ]
        seconds = measure(contestants, Effort(options.repetitions, 0.0))
    same = dict(zip(grid, surface.losses.ravel(), strict=True))
    expected = np.array([same[point] for point in sample])
    ratios = spread(seconds["PyTorch"] / seconds["minicnn"])
    row = [
        f"{np.median(seconds['minicnn']) * len(grid):.1f}",
        f"{np.median(seconds['PyTorch']) * len(grid):.0f}",
        f"{ratios.median:.2f} ({ratios.low:.2f}–{ratios.high:.2f})",
        f"{spread(seconds['sharing'] / seconds['minicnn']).median:.2f}",
        best.name,
    ]
    return row, float(np.max(np.abs(theirs - expected) / expected))


def _contestant(name: str, setting: Callable, points: list[tuple[float, float]]) -> Contestant:
    return Contestant(name, lambda: setting(points), len(points))


def main() -> int:
    """Measure, print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="of both (default: all cores)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--full", action="store_true", help="PyTorch computes all points of the first pair"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile takes part")
    parser.add_argument("--only", type=int, help="the pair with this number, from 1")
    options = parser.parse_args()
    threads = resolve_threads(options.threads)
    torch.set_num_threads(threads)
    data = minicnn.load_dataset("fashion-mnist-12k")
    trainer = minicnn.Trainer(NETWORK, epochs=1, threads=threads)
    trainer.fit(data)
    batch_loss = BatchLoss.of(trainer.model, data.test.images[:IMAGES], data.test.labels[:IMAGES])
    table = Table(
        "directions",
        "minicnn (s)",
        "PyTorch (s)",
        "times faster",
        "than sharing",
        "PyTorch's best setting",
    )
    worst = 0.0
    for number, (title, texts) in enumerate(PAIRS.items(), 1):
        if options.only in (None, number):
            row, difference = compare(
                batch_loss, two_directions(batch_loss, texts), options, options.full and number == 1
            )
            table.add_row(title, *row)
            worst = max(worst, difference)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(
        f"{POINTS}×{POINTS} points, {IMAGES} images, {threads} threads; losses differ by {worst:.1e} at most"
    )
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
