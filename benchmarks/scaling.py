"""What training over MPI costs here, and what it would give on more machines than there are here.

    mpiexec -n 2 python benchmarks/scaling.py [--repetitions 7] [--steps 30]

Measured, between two ranks of one thread on this machine: a step of each against one rank of two
threads, in turns; what of a step is spent where ranks meet, waiting included; a reduction by the size of
the gradient. Then the model, with R ranks of one thread, b images each, P numbers of gradient, B batch
normalizations, a message's latency α and a network's bytes a second β:

    step      = t₀ + b · t + reduction + statistics
    ordered   = 2 (R − 1) α + 2 · 4 P (R − 1) / R / β          (pairwise exchange, ring)
    fast      = 2 log₂ R α + 2 · 4 P (R − 1) / R / β           (Rabenseifner's halving and doubling)
    meetings  = (2 B + 1) log₂ R α                             (statistics forward and backward, losses)

t₀ and t come from steps of two sizes of batch on one thread. Where other work runs beside it, the fastest
of many short turns says most. Source of the costs: Thakur, Rabenseifner,
Gropp: Optimization of collective communication operations in MPICH, 2005. Nothing overlaps, and all ranks
are equally fast: where ranks wait for the slowest of many, a real cluster is slower.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minicnn import Loss, Network, Optimizer, preset
from minicnn.backends import Batch
from minicnn.backends.cpu import Training
from minicnn.plugins import find
from minicnn.training.distributed import Ranks, connect

MODELS = {"lenet5": (28, 28, 1), "vgg-small": (28, 28, 1), "resnet8": (32, 32, 3)}
LARGE = {"lenet5": (28, 28, 1), "resnet8": (32, 32, 3), "fast": (32, 32, 3)}
NETWORKS = {  # latency in seconds, bytes a second
    "10 Gbit/s Ethernet, TCP": (30e-6, 1.1e9),
    "100 Gbit/s, RDMA": (2e-6, 11e9),
}
BATCH, IMAGES = 64, 1024
RANKS = [2**k for k in range(11)]


def steps_of(network: Network, batch: int, threads: int, ranks: Ranks | None) -> Callable[[], None]:
    """A call that makes the next training step on noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, math.prod(network.input_shape)), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES)
    rules = find("optimizer", "adam"), find("loss", "cross_entropy")
    training = Training(network, network.initialize(rng), batch, *rules, threads, ranks=ranks)
    optimizer, loss = Optimizer(rules[0], network), Loss(rules[1], network.outputs)
    data, count = loss.data(images, labels, 1 / 255), 0

    def step() -> None:
        nonlocal count
        order = np.arange(count * batch, (count + 1) * batch) % IMAGES
        count += 1
        training.step(data, Batch(order, float(batch), count, optimizer.scalars()), optimizer.slots)

    step()
    return step


def seconds_of(step: Callable[[], None], count: int) -> float:
    for _ in range(max(1, count // 5)):
        step()
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


@dataclass
class Meetings:
    """The seconds that this rank spends where ranks meet, from when it is installed."""

    ranks: Ranks
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.ranks.add_up = self._timed(self.ranks.add_up)  # type: ignore[method-assign]
        self.ranks.gather_rows = self._timed(self.ranks.gather_rows)  # type: ignore[method-assign]

    def _timed(self, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            start = time.perf_counter()
            function(*arguments)
            self.seconds += time.perf_counter() - start

        return call


def compare(ranks: Ranks, repetitions: int, steps: int) -> Iterator[str]:
    """Lines of the table of two ranks of one thread against one rank of two."""
    meetings = Meetings(ranks)
    for name, shape in MODELS.items():
        network = preset(name, shape, 10)
        together = steps_of(network, BATCH, 1, ranks)
        alone = steps_of(network, BATCH, 2, None)
        times = []
        for _ in range(repetitions):
            of_threads = seconds_of(alone, steps) if ranks.rank == 0 else 0.0
            ranks.wait()
            meetings.seconds = 0.0
            of_ranks = seconds_of(together, steps)
            times.append((of_threads, of_ranks, meetings.seconds / (steps + max(1, steps // 5))))
            ranks.wait()
        if ranks.rank == 0:
            found = np.array(times)
            ratios = found[:, 1] / found[:, 0]
            threads, of_ranks, met = found.min(axis=0) * 1e3
            yield (
                f"| {name} | {threads:.2f} | {of_ranks:.2f} | {of_ranks / threads:.2f} | "
                f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) | "
                f"{met:.2f} ({met / of_ranks:.0%}) |"
            )


def reductions(ranks: Ranks, repetitions: int) -> Iterator[str]:
    """Lines of the table of a reduction by size."""
    for size in (1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22):
        grads, found = np.ones((1, size), np.float32), []
        for reduction in ("ordered", "fast"):
            ranks.reduction = reduction
            times = []
            for _ in range(5 * repetitions):
                ranks.check_same({})
                start = time.perf_counter()
                ranks.add_up(grads, [0, 1, 2])
                times.append(time.perf_counter() - start)
            found.append(float(np.percentile(times, 10)) * 1e6)
        yield f"| {size:,} | {found[0]:.0f} | {found[1]:.0f} | {8 * size / found[0] / 1e3:.2f} |"
    ranks.reduction = "ordered"


@dataclass(frozen=True)
class Measured:
    """What the model takes from here: seconds of a step apart from images, and of an image."""

    fixed: float
    image: float
    numbers: int
    normalizations: int


def measure(name: str, shape: tuple[int, int, int], repetitions: int) -> Measured:
    """The parts of a step of one thread."""
    network = preset(name, shape, 10)
    small, large = (steps_of(network, batch, 1, None) for batch in (8, 64))
    times = np.array([(seconds_of(small, 8), seconds_of(large, 3)) for _ in range(repetitions)])
    few, many = times.min(axis=0)
    image = (many - few) / (64 - 8)
    layers = sum(type(layer).__name__ == "BatchNorm2d" for layer in network.layers)
    return Measured(max(0.0, few - 8 * image), image, network.trainable_size, layers)


def step_seconds(
    of: Measured, ranks: int, images: float, network: tuple[float, float], reduction: str
) -> float:
    """The model of a step of ``ranks`` ranks with ``images`` images each."""
    latency, bandwidth = network
    if ranks == 1:
        return of.fixed + images * of.image
    messages = 2 * (ranks - 1) if reduction == "ordered" else 2 * math.log2(ranks)
    moved = 2 * 4 * of.numbers * (ranks - 1) / ranks / bandwidth
    meetings = (2 * of.normalizations + 1) * math.log2(ranks) * latency
    return of.fixed + images * of.image + messages * latency + moved + meetings


def tables(repetitions: int) -> Iterator[str]:
    """Throughput against ranks, with the batch of a rank fixed and with the whole batch fixed."""
    for name, shape in LARGE.items():
        of = measure(name, shape, repetitions)
        yield (
            f"\n{name}: {of.numbers:,} numbers, {of.normalizations} batch normalizations; a step of one "
            f"thread takes {of.fixed * 1e3:.2f} ms and {of.image * 1e6:.0f} µs an image"
        )
        for network, speed in NETWORKS.items():
            yield f"\n{network}; images a second (share of R times one rank)\n"
            yield "| ranks | 64 images a rank, ordered | fast | 1,024 images in all, ordered | fast |"
            yield "|---|---|---|---|---|"
            one = BATCH / step_seconds(of, 1, BATCH, speed, "fast")
            rates = {ranks: _rates(of, ranks, speed) for ranks in RANKS}
            for ranks, row in rates.items():
                cells = [f"{rate:,.0f} ({rate / ranks / one:.0%})" for rate in row]
                yield f"| {ranks:,} | {' | '.join(cells)} |"
            paying = [
                max(ranks for ranks in RANKS[1:] if rates[ranks][k] >= 1.5 * rates[ranks // 2][k])
                for k in range(4)
            ]
            yield f"\ntwice the ranks gave 1.5 times as much up to {', '.join(map(str, paying))} ranks"


def _rates(of: Measured, ranks: int, speed: tuple[float, float]) -> list[float]:
    """Images a second: 64 images a rank and 1,024 in all, each in order and fast."""
    return [
        ranks * images / step_seconds(of, ranks, images, speed, reduction)
        for images in (BATCH, IMAGES / ranks)
        for reduction in ("ordered", "fast")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    ranks = connect()
    if ranks.size != 2:
        raise SystemExit("start it with mpiexec -n 2")

    def show(lines: Iterator[str], *titles: str) -> None:
        for line in (*titles, *lines):
            if ranks.rank == 0:
                print(line, flush=True)

    show(
        compare(ranks, arguments.repetitions, arguments.steps),
        f"Milliseconds a step, batch {BATCH}: one rank of two threads, two ranks of one\n",
        "| network | threads, fastest | ranks, fastest | ratio | median of the ratios | where ranks meet |",
        "|---|---|---|---|---|---|",
    )
    show(
        reductions(ranks, arguments.repetitions),
        "\nMicroseconds of a reduction between two ranks\n",
        "| numbers | ordered | fast | GB/s, ordered |",
        "|---|---|---|---|",
    )
    if ranks.rank == 0:
        show(tables(arguments.repetitions))
    ranks.wait()


if __name__ == "__main__":
    main()
