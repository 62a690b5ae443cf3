"""How a program and the work of a step are laid out for the device: plain tables, made once on the
host.

    plan    `TABLE` [operations]: the planner's records (`minicnn.program.plan`) with a few fields more; f0 and f1
            are float32
    sums    int64 [tensors, 5]: (offset in the gradient, count, first place in ``work``, distance of two splits, splits)

The gradient of an operation's parameters is computed in ``splits`` parts, each over one part of the
positions. The sum of the parts, in their order, is the gradient: no number depends on which block
ran when.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from minicnn.errors import SettingError
from minicnn.kernels.cuda.tile import MOST_SPLIT, shape_of, splits_of, tiles_of
from minicnn.memory import round_up
from minicnn.program.plan import RECORD

_OWN = (
    "parts",  # the first part of the gradient of the parameters, in ``work``
    "splits",  # how many there are
    "distance",  # from one to the next
    "sums",  # what blocks that share a reduction leave, in ``work``
    "threshold",  # f0 · 2³²: of dropout, since 32 random bits are compared with it
)
_INTEGERS = [name for name in RECORD.names[:-1] if name not in ("f0", "f1")]
# Aligned, so that a field is read in one access; of `np.record`, so that its fields are attributes
# in the simulator and on the host as well.
TABLE = np.dtype(
    (
        np.record,
        np.dtype(
            [
                *((name, np.int64) for name in (*_INTEGERS, *_OWN)),
                ("f0", np.float32),
                ("f1", np.float32),
            ],
            align=True,
        ),
    )
)
# Positions per split at least; splits; blocks of a launch.
_LEAST_SPLIT, _MOST_SPLITS, _ENOUGH_BLOCKS = 256, 128, 1024


class Layout(NamedTuple):
    """What the kernels are given, still in host memory, and the size of the workspace in
    numbers."""

    table: np.ndarray  # [operations] of `TABLE`
    work_size: int
    sums: np.ndarray  # int64 [tensors, 5]


def lay_out(
    records: np.ndarray, work_size: int, sizes: Mapping[int, int], training: bool
) -> Layout:
    """The layout of a plan made by ``make_plan(network, chunk, training, 1)``: chunk is the largest
    batch of one launch.

    ``sizes`` are those of the trained parameters by their offsets.
    """
    table = np.zeros(len(records), TABLE)
    for name in RECORD.names[:-1]:
        table[name] = records[name]
    for side in ("height", "width"):  # a dense layer is a 1×1 convolution of images of one pixel
        table[f"kernel_{side}"] = np.maximum(table[f"kernel_{side}"], 1)
    table["threshold"] = np.clip(records["f0"], 0, 1) * 2.0**32
    _check(table)
    table["sums"] = work_size
    if any(
        splits_of(1, max(_depth(record, side) for side in ("input", "output"))) > 1
        for record in table
    ):
        work_size += MOST_SPLIT  # whatever is split, and for any number of samples
    sums: list[tuple[int, int, int, int, int]] = []
    placed: dict[int, tuple[int, int, int]] = {}
    for record in table if training else ():
        offsets = [int(record[name]) for name in ("weight", "bias") if int(record[name]) in sizes]
        if not offsets:
            continue
        if offsets[0] not in placed:  # two operations may share the parameters of one layer
            distance, splits = (
                round_up(sum(sizes[offset] for offset in offsets)),
                _splits(record, sizes[offsets[0]]),
            )
            placed[offsets[0]] = work_size, splits, distance
            place = work_size
            for offset in offsets:
                sums.append((offset, sizes[offset], place, distance, splits))
                place += sizes[offset]
            work_size += splits * distance
        record["parts"], record["splits"], record["distance"] = placed[offsets[0]]
    return Layout(table, work_size, np.array(sums, np.int64).reshape(-1, 5))


def _check(table: np.ndarray) -> None:
    """Raise `SettingError` for places that 32 bits do not hold."""
    sides = ("input", "output")
    pixels = int(table["chunk"][0]) * int(
        max((table[f"{side}_height"] * table[f"{side}_width"]).max() for side in sides)
    )
    if max(pixels, *(int(table[f"{side}_size"].max()) for side in sides)) >= 2**31:
        raise SettingError(
            "on CUDA a batch has fewer than 2147483648 pixels in any layer, and an image as many numbers"
        )
    trained = table[table["weight"] >= 0]
    if any(_depth(record, "input") * int(record["output_channels"]) >= 2**31 for record in trained):
        raise SettingError("on CUDA a layer has fewer than 2147483648 weights")


def _depth(record: np.void, side: str) -> int:
    """The length of the reduction of a convolution or a dense layer over the numbers of its input,
    or of its output."""
    return int(record["kernel_height"] * record["kernel_width"] * record[f"{side}_channels"])


def _splits(record: np.void, size: int) -> int:
    """In how many parts the gradient of ``size`` weights is computed: enough blocks to fill a
    GPU."""
    columns = int(record["output_channels"])
    rows = -(-size // columns) + 1
    tiles = tiles_of(rows, columns, shape_of(rows, columns))
    positions = int(record["chunk"] * record["output_height"] * record["output_width"])
    return max(1, min(-(-positions // _LEAST_SPLIT), _MOST_SPLITS, -(-_ENOUGH_BLOCKS // tiles)))
