"""How long a training step takes on a card at least, kernel by kernel, computed from the plan: no card is needed.

    python benchmarks/cuda_model.py --bandwidth 1555 --peak 19.5 --launch 3 --multiprocessors 108    (an A100)

A launch takes ``--launch`` µs plus the longer of its bytes at ``--bandwidth`` GB/s and its operations at ``--peak`` Tflop/s.
Every number is read from memory once and written once. Tiles are computed whole, and reductions in turns: "useful" is the
share of all multiplications that the product needs.
A launch with fewer blocks than the card has multiprocessors reaches only that share of the peak. What a
kernel really takes is longer; what dominates here cannot be tuned away there.
"""

import argparse
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from minicnn.network.translation import make_plan
from minicnn.plan import AVG_POOL2D, CONV2D, DENSE, DROPOUT, MAX_POOL2D, RELU

from minicnn.backends.card import blocks_for, walks
from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.tile import DEPTH, RESULTS, THREADS, shape_of, tiles_of
from minicnn.network.network import Network
from minicnn.network.presets import preset

_SLOTS = 2  # of Adam
_NAMES = {CONV2D: "conv2d", DENSE: "dense", MAX_POOL2D: "max pool", AVG_POOL2D: "average pool", DROPOUT: "dropout"}


class Launch(NamedTuple):
    """One launch: what it reads and writes, what it computes, on how many blocks."""

    kernel: str
    bytes: float
    operations: float  # that the result needs
    blocks: int
    useful: float = 1.0  # the share of all operations that those are

    def microseconds(self, card: argparse.Namespace) -> float:
        """The least time on ``card``."""
        busy = min(1.0, self.blocks / card.multiprocessors)
        computing = self.operations / self.useful / (card.peak * 1e12 * busy)
        return card.launch + 1e6 * max(self.bytes / (card.bandwidth * 1e9), computing)


def _multiplied(rows: int, columns: int, depth: float) -> int:
    """The multiplications in the tiles of a product with reductions of the length ``depth``."""
    shape = shape_of(rows, columns)
    results = RESULTS * RESULTS * THREADS >> (shape >> 3)  # of a tile
    return tiles_of(rows, columns, shape) * results * math.ceil(depth / DEPTH) * DEPTH


def _layer(plan: np.ndarray, index: int, n: int, backward: bool, together: int) -> Launch | None:
    """One layer in one direction, ``together`` samples in a product; None where there is nothing to do."""
    record = plan[index]
    kind, inputs, outputs = record[at.KIND], n * record[at.INPUT_SIZE], n * record[at.OUTPUT_SIZE]
    if (backward and record[at.D_INPUT] < 0) or (not backward and kind == RELU and record[at.RECTIFIED]):
        return None
    window, useful = record[at.KERNEL_HEIGHT] * record[at.KERNEL_WIDTH], 1.0
    if kind in (CONV2D, DENSE):
        numbers = inputs + outputs + window * record[at.INPUT_CHANNELS] * record[at.OUTPUT_CHANNELS]
        operations = 2 * outputs * window * record[at.INPUT_CHANNELS]
        first, end = (at.INPUT_HEIGHT, at.INPUT_SIZE) if backward else (at.OUTPUT_HEIGHT, at.OUTPUT_SIZE)
        height, width, channels = (int(number) for number in record[first:end])
        depth, products = int(window * record[at.OUTPUT_CHANNELS if backward else at.INPUT_CHANNELS]), 1
        if backward:  # a product for each remainder by the stride, each with its share of the taps
            down, right = int(record[at.STRIDE_HEIGHT]), int(record[at.STRIDE_WIDTH])
            height, width, depth, products = -(-height // down), -(-width // right), depth / (down * right), down * right
        useful = operations / (2 * n // together * products * _multiplied(together * height * width, channels, depth))
    elif kind in (MAX_POOL2D, AVG_POOL2D):
        twice = 2 if backward and kind == MAX_POOL2D else 1  # x and y as well as dx and dy
        numbers, operations = twice * (inputs + outputs), outputs * window
    else:
        numbers, operations = (3 if backward else 2) * outputs, outputs
    direction = "dx" if backward else "forward"
    return Launch(f"{_NAMES.get(kind, 'activation')} {index} {direction}", 4.0 * numbers, float(operations),
                  at.blocks(plan, index, n, backward), useful)  # fmt: skip


def _pass(plan: np.ndarray, n: int, backward: bool, walked: bool) -> Iterator[Launch]:
    """All layers in one direction, in one launch or each in its own."""
    order = range(len(plan) - 1, -1, -1) if backward else range(len(plan))
    launches = []
    for index in order:
        if launch := _layer(plan, index, n, backward, 1 if walked else n):
            launches.append(launch)
            splits, size = at.splits(plan, index, n, backward), plan[index, at.INPUT_SIZE if backward else at.OUTPUT_SIZE]
            if splits > 1 and not walked:  # blocks share the reductions, and one launch more adds up what they leave
                count = n * int(size)
                launches.append(Launch(f"add_splits {index}", 4.0 * count * (splits + 1), count * splits, blocks_for(count)))
    if walked:
        name = f"{'backward' if backward else 'forward'}: {len(launches)} layers"
        operations, done = sum(one.operations for one in launches), sum(one.operations / one.useful for one in launches)
        yield Launch(name, sum(one.bytes for one in launches), operations, n, operations / done)
    else:
        yield from launches


def step(network: Network, n: int, walked: bool) -> list[Launch]:
    """The launches of one training step with Adam on a batch of ``n`` images of one byte a pixel."""
    made = make_plan(network, n, True, 1)
    layout = at.lay_out(made.table, made.work_size, True)
    plan = layout.plan
    pixels, logits, weights = n * int(plan[0, at.INPUT_SIZE]), n * network.outputs, network.flat_size
    products = plan[np.isin(plan[:, at.KIND], (CONV2D, DENSE))]
    taps = products[:, at.KERNEL_HEIGHT] * products[:, at.KERNEL_WIDTH] * products[:, at.INPUT_CHANNELS]
    read = n * int((products[:, at.INPUT_SIZE] + products[:, at.OUTPUT_SIZE]).sum())
    multiplied = 2.0 * n * float((products[:, at.OUTPUT_SIZE] * taps).sum())
    splits = {int(layer): int(splits) for layer, _, _, splits, _ in layout.tasks}
    done = 0.0
    for one, rows, parts in zip(products, taps + 1, splits.values(), strict=True):
        positions = n * int(one[at.OUTPUT_HEIGHT] * one[at.OUTPUT_WIDTH])
        done += 2.0 * parts * _multiplied(int(rows), int(one[at.OUTPUT_CHANNELS]), positions / parts)
    return [
        Launch("gather", 5.0 * pixels, pixels, n),
        *_pass(plan, n, False, walked),
        Launch("loss", 8.0 * logits, 8.0 * logits, -(-n // THREADS)),
        *_pass(plan, n, True, walked),
        Launch("filter_gradients", 4.0 * (read + layout.parts_size), multiplied, len(layout.tasks), multiplied / done),
        Launch("add_parts", 4.0 * (layout.parts_size + weights), layout.parts_size, blocks_for(weights)),
        Launch("update", 4.0 * weights * (3 + 2 * _SLOTS), 12.0 * weights, blocks_for(weights)),
    ]


def _show(network: Network, n: int, card: argparse.Namespace) -> None:
    times = {walked: sum(one.microseconds(card) for one in step(network, n, walked)) for walked in (True, False)}
    walked = walks(network, n)
    launches = step(network, n, walked)
    way = "walked" if walked else "by layer"
    print(f"\n{network.name}, batch {n}: {way}, {len(launches)} launches, at least {times[walked]:.0f} µs a step, "
          f"{card.launch * len(launches):.0f} of them to launch ({times[not walked]:.0f} µs the other way)")  # fmt: skip
    print(f"    {'kernel':24}{'KB':>10}{'Mflop':>10}{'flop/byte':>11}{'useful':>8}{'blocks':>8}{'least µs':>10}  bound by")
    for one in launches:
        least = one.microseconds(card)
        moving = 1e6 * one.bytes / (card.bandwidth * 1e9)
        bound = "launch" if least < 2 * card.launch else "memory" if least - card.launch <= moving else "arithmetic"
        if bound == "arithmetic" and one.blocks < card.multiprocessors:
            bound = "too few blocks"
        print(f"    {one.kernel:24}{one.bytes / 1e3:10.0f}{one.operations / 1e6:10.2f}{one.operations / one.bytes:11.1f}"
              f"{one.useful:8.0%}{one.blocks:8}{least:10.1f}  {bound}")  # fmt: skip


def main() -> None:
    """Print the model of LeNet-5 and vgg-small at batch 64 and 1,024."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, required=True, help="of the card's memory, GB/s")
    parser.add_argument("--peak", type=float, required=True, help="float32 without tensor cores, Tflop/s")
    parser.add_argument("--launch", type=float, required=True, help="one launch, µs")
    parser.add_argument("--multiprocessors", type=int, default=1, help="of the card; with 1 any launch reaches the peak")
    card = parser.parse_args()
    for name in ("lenet5", "vgg-small"):
        for n in (64, 1024):
            _show(preset(name, (28, 28, 1), 10), n, card)


if __name__ == "__main__":
    main()
