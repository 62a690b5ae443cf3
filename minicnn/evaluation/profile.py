"""Where the time of a network goes, layer by layer: measured, on one thread."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.errors import SettingError
from minicnn.network.network import Network

DIRECTIONS = "forward", "backward", "transpose"
_PRODUCT = 960, 256, 32  # rows, inner length and columns of a product whose B stays in the cache


@dataclass(frozen=True)
class Timing:
    """The time that one operation takes in one pass, ``microseconds`` an image.

    ``layers`` are those that it stands for. ``gflops`` counts two for a multiply-add of a
    convolution or dense layer, as many as the direct sum has (None: it has none), and
    ``tile_share`` compares that with the register tile alone in cache: an operation with fewer
    multiplications may be above 1. ``gigabytes`` a second are those of the activations, gradients
    and weights that it must read and write.
    """

    layers: str
    operation: str
    direction: str  # forward, backward, or transpose: weights brought into the order of backward
    microseconds: float
    share: float  # of the time of an image
    gflops: float | None = None
    tile_share: float | None = None
    gigabytes: float | None = None


@dataclass(frozen=True)
class Profile:
    """Where the time of an image goes, ``microseconds`` on one thread, the median of what was
    measured over ``images``; ``tile_gflops`` is the speed of the register tile."""

    network: str
    rows: tuple[Timing, ...]
    images: int
    microseconds: float
    tile_gflops: float


def profile(
    network: Network,
    engine: Any,
    work: Callable[[], int],
    others: Mapping[str, float],
    seconds: float,
) -> Profile:
    """Repeat ``work`` for ``seconds`` with the plan of ``engine``, a `TrainStep` or an `Inference`
    of one thread on the CPU.

    ``work`` computes some images and returns their number. ``others`` are the seconds per image of
    work outside the operations, by name.
    """
    from minicnn.kernels.cpu.profile import ticks, timed

    if not isinstance(seconds, int | float) or not seconds > 0:
        raise SettingError(f"seconds must be above 0, not {seconds}")
    engine.plan, counted = timed(engine.plan, engine.params.dtype)
    work()  # compiles
    rounds: list[np.ndarray] = []
    images, begun, first = 0, time.perf_counter(), ticks()
    while not rounds or time.perf_counter() - begun < seconds:
        counted[:], before = 0, ticks()
        count = work()
        images += count
        rest = ticks() - before - counted.sum()
        rounds.append(np.append(counted, rest) / count)
    rate = (time.perf_counter() - begun) / (ticks() - first)
    *spent, left = np.median(rounds, axis=0) * rate  # other programs disturb some rounds
    total = left + sum(spent)
    tile, rows = _tile_gflops(engine.params.dtype), []
    table, each = engine.plan.table, np.reshape(spent, counted.shape)
    for record, node, times in zip(table, engine.plan.nodes, each, strict=True):
        layers = [network.layer_names[i] for i in node.layers]
        flops = 2 * sum(network.layers[i].multiply_adds(*network.inputs_of(i)) for i in node.layers)
        weights = sum(spec.size for spec in network.parameters if spec.layer in node.layers)
        for direction, its in zip(DIRECTIONS, times, strict=True):
            if its == 0:
                continue
            flop, numbers = _amounts(record, node.row.reads, weights, direction)
            gflops = flop * flops / its / 1e9 or None
            again = bool(record["again"])
            rows.append(
                Timing(
                    "+".join(layers),
                    node.operation + ", again" * again,
                    "backward" if again else direction,
                    1e6 * its,
                    its / total,
                    gflops,
                    gflops and gflops / tile,
                    numbers * engine.params.itemsize / its / 1e9 or None,
                )
            )
    for name, its in others.items():
        rows.append(Timing(name, "", "", 1e6 * its, its / total))
        left -= its
    rows.append(Timing("the rest", "", "", 1e6 * left, left / total))
    rows.sort(key=lambda row: (*DIRECTIONS, "").index(row.direction))
    return Profile(network.name, tuple(rows), images, 1e6 * total, tile)


def _amounts(
    record: np.void, reads: frozenset[str], weights: int, direction: str
) -> tuple[int, float]:
    """Of a pass and an image: how often the flops of a forward pass, and the numbers that must be
    read and written."""
    sizes = {"x": record["input_size"], "x2": record["second_size"], "y": record["output_size"]}
    if direction == "forward":
        return 1, sum(sizes.values()) + weights / record["chunk"]
    if direction == "transpose":  # once a step
        return 0, 0
    numbers = sizes["y"] + sum(sizes[name] for name in reads) + 2 * weights / record["chunk"]
    numbers += sum(sizes[name] for name in ("x", "x2") if record[f"d{name}"] >= 0)
    return 1 + int(record["dx"] >= 0), numbers


def _tile_gflops(dtype: np.dtype) -> float:
    """What the register tile reaches on one thread with its numbers in the cache."""
    from minicnn.kernels.cpu.tensor import matmul
    from minicnn.kernels.cpu.tile import multiply_address
    from minicnn.memory import aligned_zeros

    rows, inner, columns = _PRODUCT
    a, b, out = (
        aligned_zeros(size, dtype) for size in ((rows, inner), (inner, columns), (rows, columns))
    )
    best = np.inf
    for _ in range(30):
        begun = time.perf_counter()
        matmul(multiply_address(dtype), a, b, out, False, False)
        best = min(best, time.perf_counter() - begun)
    return 2 * rows * inner * columns / best / 1e9
