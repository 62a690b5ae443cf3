"""What training over MPI costs here, and what it would give on more machines than there are here.

    mpiexec -n 2 python benchmarks/scaling.py [--repetitions 7] [--steps 200]

Measured, between two ranks of one thread on this machine: a step of each kind of reduction against one
rank of two threads, in turns; what of a step is spent where ranks meet, waiting included; a reduction by
the size of the gradient; and a step of one thread, while both ranks make such steps, each alone. Then the
model, with R ranks of one thread, b images each, P numbers of gradient, B batch normalizations, a
message's latency α and a network's bytes a second β:

    step      = t₀ + b · t + reduction + statistics
    ordered   = 2 (R − 1) α + 2 · 4 P (R − 1) / R / β          (pairwise exchange, ring)
    fast      = 2 log₂ R α + 2 · 4 P (R − 1) / R / β           (Rabenseifner's halving and doubling)
    meetings  = (2 B + 1) log₂ R α                             (statistics forward and backward, losses)

t₀ and t come from steps of two sizes of batch on one thread. With α and β of the reductions measured here
it is held against the two ranks. Where other work runs beside it, the fastest
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
from minicnn.backends import StepInputs, StepOptions
from minicnn.backends.cpu import TrainStep
from minicnn.plugins import find
from minicnn.training.distributed import Ranks, connect

MODELS = {"lenet5": (28, 28, 1), "vgg-small": (28, 28, 1), "resnet8": (32, 32, 3)}
LARGE = {"lenet5": (28, 28, 1), "resnet8": (32, 32, 3), "fast": (32, 32, 3)}
NETWORKS = {  # latency in seconds, bytes a second
    "10 Gbit/s Ethernet, TCP": (30e-6, 1.1e9),
    "100 Gbit/s, RDMA": (2e-6, 11e9),
}
BATCH, IMAGES = 64, 1024
TURN = 0.25  # seconds of steps, or three
REDUCTIONS = ("ordered", "fast", "overlapped")
RANKS = [2**k for k in range(11)]


def steps_of(network: Network, batch: int, threads: int, ranks: Ranks | None) -> Callable[[], None]:
    """A call that makes the next training step on noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, math.prod(network.input_shape)), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES)
    rules = find("optimizer", "adam"), find("loss", "cross_entropy")
    training = TrainStep(
        network, network.initialize(rng), batch, *rules, threads, StepOptions(ranks=ranks)
    )
    optimizer, loss = Optimizer(rules[0], network), Loss(rules[1], network.outputs)
    data, count = loss.data(images, labels, 1 / 255), 0

    def step() -> None:
        nonlocal count
        order = np.arange(count * batch, (count + 1) * batch) % IMAGES
        count += 1
        training.step(
            data, StepInputs(order, float(batch), count, optimizer.scalars()), optimizer.slots
        )

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


@dataclass(frozen=True)
class Measured:
    """What the model takes from here: seconds of a step apart from images, and of an image."""

    fixed: float
    image: float
    numbers: int
    normalizations: int


def measure(
    name: str, shape: tuple[int, int, int], ranks: Ranks, repetitions: int, most: int
) -> Measured:
    """The parts of a step of one thread, while the other ranks make the same step."""
    network = preset(name, shape, 10)
    steps = [steps_of(network, batch, 1, None) for batch in (8, BATCH)]
    counts = [in_a_turn(step, ranks, most) for step in steps]
    times = []
    for _ in range(repetitions):
        for step, count in zip(steps, counts, strict=True):
            ranks.wait()
            times.append(seconds_of(step, count))
    few, many = np.array(times).reshape(repetitions, 2).min(axis=0)
    image = (many - few) / (BATCH - 8)
    layers = sum(type(layer).__name__ == "BatchNorm2d" for layer in network.layers)
    return Measured(max(0.0, few - 8 * image), image, network.trainable_size, layers)


def in_a_turn(step: Callable[[], None], ranks: Ranks, most: int) -> int:
    """How many steps fill a turn, the same on all ranks."""
    seconds = seconds_of(step, 1)
    return ranks.first(lambda: min(most, max(3, int(TURN / seconds))))


def compare(ranks: Ranks, repetitions: int, most: int) -> Iterator[tuple[str, float, str]]:
    """(network, seconds of a step of two ranks in order, line of the table) of two ranks of one thread
    against one rank of two."""
    meetings = Meetings(ranks)
    for name, shape in MODELS.items():
        network, together = preset(name, shape, 10), []
        for ranks.reduction in REDUCTIONS:
            together.append(steps_of(network, BATCH, 1, ranks))
        alone = steps_of(network, BATCH, 2, None)
        count, times = in_a_turn(together[0], ranks, most), []
        for _ in range(repetitions):
            row = [seconds_of(alone, count) if ranks.rank == 0 else 0.0]
            for ranks.reduction, step in zip(REDUCTIONS, together, strict=True):
                ranks.wait()
                meetings.seconds = 0.0
                row.append(seconds_of(step, count))
                if ranks.reduction == "ordered":
                    met = meetings.seconds / (count + max(1, count // 5))
            times.append([*row, met])
            ranks.wait()
        found = np.array(times)
        threads, *kinds, met = found.min(axis=0) * 1e3
        ratios = [found[:, k] / found[:, 0] if ranks.rank == 0 else found[:, k] for k in (1, 2, 3)]
        cells = [
            f"{kind:.2f}, {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
            for kind, ratio in zip(kinds, ratios, strict=True)
        ]
        yield (
            name,
            kinds[0] / 1e3,
            f"| {name} | {threads:.2f} | {' | '.join(cells)} | {met:.2f} ({met / kinds[0]:.0%}) |",
        )
    ranks.reduction = "ordered"


def reductions(ranks: Ranks, repetitions: int) -> tuple[list[str], tuple[float, float]]:
    """Lines of the table of a reduction by size, and the latency and the bytes a second that follow
    from the smallest and the largest one in order."""
    sizes, lines, ordered = [1 << k for k in range(12, 23, 2)], [], []
    for size in sizes:
        grads, found = np.ones((1, size), np.float32), []
        for ranks.reduction in REDUCTIONS[:2]:
            times = []
            for _ in range(5 * repetitions):
                ranks.check_same({})
                start = time.perf_counter()
                ranks.add_up(grads, [0, 1, 2])
                times.append(time.perf_counter() - start)
            found.append(float(np.percentile(times, 10)) * 1e6)
        ordered.append(found[0] / 1e6)
        lines.append(
            f"| {size:,} | {found[0]:.0f} | {found[1]:.0f} | {8 * size / found[0] / 1e3:.2f} |"
        )
    ranks.reduction = "ordered"
    bandwidth = 4 * (sizes[-1] - sizes[0]) / (ordered[-1] - ordered[0])
    return lines, (max(0.0, ordered[0] - 4 * sizes[0] / bandwidth) / 2, bandwidth)


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


def tables(of: dict[str, Measured]) -> Iterator[str]:
    """Throughput against ranks, with the batch of a rank fixed and with the whole batch fixed."""
    for network, speed in NETWORKS.items():
        for k, batch in enumerate((f"{BATCH} images a rank", f"{IMAGES:,} images in all")):
            yield f"\n{network}, {batch}: images a second (share of R times one rank)\n"
            yield f"| ranks | {' | '.join(f'{name}, ordered | {name}, fast' for name in of)} |"
            yield "|---" * (1 + 2 * len(of)) + "|"
            one = {
                name: BATCH / step_seconds(parts, 1, BATCH, speed, "fast")
                for name, parts in of.items()
            }
            rates = {
                ranks: [(name, rate) for name in of for rate in _rates(of[name], ranks, speed)[k]]
                for ranks in RANKS
            }
            for ranks, row in rates.items():
                cells = [f"{rate:,.0f} ({rate / ranks / one[name]:.0%})" for name, rate in row]
                yield f"| {ranks:,} | {' | '.join(cells)} |"
            paying = [
                max(
                    (n for n in RANKS[1:] if rates[n][i][1] >= 1.5 * rates[n // 2][i][1]), default=1
                )
                for i in range(2 * len(of))
            ]
            yield f"| twice as many pay up to | {' | '.join(f'{n:,}' for n in paying)} |"


def _rates(of: Measured, ranks: int, speed: tuple[float, float]) -> list[list[float]]:
    """Images a second: 64 images a rank and 1,024 in all, each in order and fast."""
    return [
        [
            ranks * images / step_seconds(of, ranks, images, speed, reduction)
            for reduction in REDUCTIONS[:2]
        ]
        for images in (BATCH, IMAGES / ranks)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="the most in a turn")
    arguments = parser.parse_args()
    repetitions, most = arguments.repetitions, arguments.steps
    ranks = connect()
    if ranks.size != 2:
        raise SystemExit("start it with mpiexec -n 2")

    def show(*lines: str) -> None:
        if ranks.rank == 0:
            print("\n".join(lines), flush=True)

    show(
        f"Milliseconds a step, batch {BATCH}: one rank of two threads; two ranks of one, the fastest turn, and the",
        "median (range) of its ratio to the threads in the same turn; where ranks meet, in order\n",
        f"| network | threads | {' | '.join(REDUCTIONS)} | where ranks meet |",
        "|---|---|---|---|---|---|",
    )
    steps = {}
    for name, seconds, line in compare(ranks, repetitions, most):
        steps[name] = seconds
        show(line)
    lines, here = reductions(ranks, repetitions)
    show(
        f"\nMicroseconds of a reduction between two ranks: {here[0] * 1e6:.0f} µs a message, "
        f"{here[1] / 1e9:.1f} GB/s\n",
        "| numbers | ordered | fast | GB/s, ordered |",
        "|---|---|---|---|",
        *lines,
        "\nOne thread beside another; the model of two ranks against the measurement\n",
        "| network | numbers | batch normalizations | ms a step | µs an image | model, ms | measured | model / measured |",
        "|---|---|---|---|---|---|---|---|",
    )
    of = {}
    for name, shape in {**MODELS, **LARGE}.items():
        parts = of[name] = measure(name, shape, ranks, repetitions, most)
        row = [f"{parts.numbers:,}", parts.normalizations, f"{parts.fixed * 1e3:.2f}"]
        row.append(f"{parts.image * 1e6:.1f}")
        if name in steps:
            model = step_seconds(parts, 2, BATCH / 2, here, "ordered")
            row += [f"{model * 1e3:.2f}", f"{steps[name] * 1e3:.2f}", f"{model / steps[name]:.2f}"]
        else:
            row += ["", "", ""]
        show(f"| {name} | {' | '.join(map(str, row))} |")
    show(*tables({name: of[name] for name in LARGE}))
    ranks.wait()


if __name__ == "__main__":
    main()
