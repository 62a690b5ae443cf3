"""How a network and the work of a step are laid out for the device: plain tables, made once on the host.

    plan   int64 [layers, FIELDS], read in kernels as ``plan[layer, KIND]``
    rates  float32 [layers]: the slope of a leaky ReLU, 1 / (1 − rate) of dropout, 1 / (R·S) of average pooling
    tasks  int64 [tasks, 5], (layer, tile, split, splits, place): the products that make up all filter gradients; each
           writes its sum over one part of the positions to ``parts[place:]``
    sums   int64 [tensors, 5], (offset in the gradient, count, first place in ``parts``, distance of two splits, splits)

The sum of a gradient's splits, in their order, is the gradient: no number depends on which block ran when.
"""

import itertools
from typing import NamedTuple

import numpy as np

from minicnn import plan as p
from minicnn.errors import SettingError
from minicnn.kernels.cuda.tile import MOST_SPLIT, THREADS, shape_of, splits_of, tiles_of

FIELDS = (
    "kind", "chunk", "input_height", "input_width", "input_channels", "input_size", "output_height", "output_width",
    "output_channels", "output_size", "kernel_height", "kernel_width", "stride_height", "stride_width", "padding_top",
    "padding_left", "dilation_height", "dilation_width", "weight", "bias", "input", "output", "d_input", "d_output",
    "rectified", "layer", "threshold", "scratch",
)  # fmt: skip
(
    KIND, CHUNK, INPUT_HEIGHT, INPUT_WIDTH, INPUT_CHANNELS, INPUT_SIZE, OUTPUT_HEIGHT, OUTPUT_WIDTH,
    OUTPUT_CHANNELS, OUTPUT_SIZE, KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_HEIGHT, STRIDE_WIDTH, PADDING_TOP,
    PADDING_LEFT, DILATION_HEIGHT, DILATION_WIDTH, WEIGHT, BIAS, INPUT, OUTPUT, D_INPUT, D_OUTPUT,
    RECTIFIED, LAYER, THRESHOLD, SCRATCH,
) = range(len(FIELDS))  # fmt: skip
_LEAST_SPLIT, _MOST_SPLITS, _ENOUGH_BLOCKS = 256, 128, 1024  # positions a split at least; splits; blocks of a launch
_SIDES = ("input", "output")
_PRODUCTS = (p.CONV2D, p.DENSE)


class Layout(NamedTuple):
    """What the kernels are given, still in host memory, and the sizes of their buffers in numbers."""

    plan: np.ndarray  # int64 [layers, FIELDS]
    rates: np.ndarray  # float32 [layers]
    work_size: int
    tasks: np.ndarray  # int64 [tasks, 5]
    sums: np.ndarray  # int64 [tensors, 5]
    parts_size: int


def lay_out(table: np.ndarray, work_size: int, training: bool) -> Layout:
    """The layout of a plan made by ``make_plan(network, chunk, training, 1)``: chunk is the largest batch of one launch."""
    most = int(table["chunk"][0]) * int(max((table[f"{side}_height"] * table[f"{side}_width"]).max() for side in _SIDES))
    if max(most, int(table["input_size"].max()), int(table["output_size"].max())) >= 2**31:
        raise SettingError("on CUDA a batch has fewer than 2147483648 pixels in any layer, and an image as many numbers")
    table = table.copy()
    if training:
        work_size = _keep_gradients(table)
    _rectify_products(table)
    dense = table["kind"] == p.DENSE
    for side in _SIDES:  # a dense layer is a 1×1 convolution of images of one pixel
        table[f"{side}_channels"][dense] = table[f"{side}_size"][dense]
        table[f"{side}_height"][dense] = table[f"{side}_width"][dense] = 1
    table["kernel_height"][dense] = table["kernel_width"][dense] = 1
    plan = np.zeros((len(table), len(FIELDS)), np.int64)
    for index, name in enumerate(FIELDS[:THRESHOLD]):
        plan[:, index] = table[name]
    rates = table["slope_or_rate"].copy()
    dropout, average = table["kind"] == p.DROPOUT, table["kind"] == p.AVG_POOL2D
    plan[dropout, THRESHOLD] = (rates[dropout] * 2.0**32).astype(np.int64)
    rates[dropout] = 1 / (1 - rates[dropout])
    rates[average] = 1 / (table["kernel_height"] * table["kernel_width"])[average]
    products = [record for record in plan if record[KIND] in _PRODUCTS]
    if any(_depth(record, False) * int(record[OUTPUT_CHANNELS]) >= 2**31 for record in products):
        raise SettingError("on CUDA a layer has fewer than 2147483648 weights")
    if any(splits_of(1, max(_depth(record, False), _depth(record, True))) > 1 for record in products):
        plan[:, SCRATCH] = work_size
        work_size += MOST_SPLIT  # whatever is split, and for any number of samples
    tasks, sums, parts_size = _share_out_filters(plan) if training else ([], [], 0)
    return Layout(plan, rates.astype(np.float32), work_size, np.array(tasks, np.int64).reshape(-1, 5),
                  np.array(sums, np.int64).reshape(-1, 5), parts_size)  # fmt: skip


def _keep_gradients(table: np.ndarray) -> int:
    """Give every gradient a buffer of its own, since those of all filters are computed last; return the work's size."""
    chunk = int(table[0]["chunk"])
    place = int(table["d_output"].min())  # the first number after the activations
    free = place + p.round_up(chunk * int(table[-1]["output_size"]))
    for record in table[::-1]:
        in_place = record["d_input"] == record["d_output"]
        record["d_output"] = place
        if record["d_input"] >= 0:
            if not in_place:
                place, free = free, free + p.round_up(chunk * int(record["input_size"]))
            record["d_input"] = place
    return free


def _rectify_products(table: np.ndarray) -> None:
    """A ReLU in place after a convolution or a dense layer is done as that one stores: both are marked ``rectified``."""
    for before, record in itertools.pairwise(table):
        if before["kind"] in _PRODUCTS and record["kind"] == p.RELU and record["input"] == record["output"]:
            before["rectified"] = record["rectified"] = 1


def _share_out_filters(plan: np.ndarray) -> tuple[list, list, int]:
    """(tasks, sums, size of ``parts``): deep reductions are split, so that there are enough blocks to fill a card."""
    tasks: list = []
    sums: list = []
    free = 0
    for layer, record in enumerate(plan):
        if record[WEIGHT] < 0:
            continue
        taps, K = int(record[KERNEL_HEIGHT] * record[KERNEL_WIDTH] * record[INPUT_CHANNELS]), int(record[OUTPUT_CHANNELS])
        rows = taps + int(record[BIAS] >= 0)  # the bias is a tap that always reads 1
        tiles = tiles_of(rows, K, shape_of(rows, K))
        positions = int(record[CHUNK] * record[OUTPUT_HEIGHT] * record[OUTPUT_WIDTH])
        splits = max(1, min(-(-positions // _LEAST_SPLIT), _MOST_SPLITS, -(-_ENOUGH_BLOCKS // tiles)))
        distance = p.round_up(rows * K)  # every split begins where 128 bits can be loaded
        sums.append((record[WEIGHT], taps * K, free, distance, splits))
        if rows > taps:
            sums.append((record[BIAS], K, free + taps * K, distance, splits))
        tasks += [(layer, tile, split, splits, free + split * distance) for split in range(splits)
                  for tile in range(tiles)]  # fmt: skip
        free += splits * distance
    return tasks, sums, free


def _depth(record: np.ndarray, backward: bool) -> int:
    """The length of the reduction of a convolution or a dense layer."""
    return int(record[KERNEL_HEIGHT] * record[KERNEL_WIDTH] * record[OUTPUT_CHANNELS if backward else INPUT_CHANNELS])


def _tiles(record: np.ndarray, n: int, backward: bool) -> int:
    """The tiles of the product of a convolution or a dense layer; dx is a product for each remainder by the stride."""
    down, right = (int(number) for number in record[STRIDE_HEIGHT : STRIDE_WIDTH + 1]) if backward else (1, 1)
    first = INPUT_HEIGHT if backward else OUTPUT_HEIGHT
    height, width, columns = (int(number) for number in record[first : first + 3])
    rows = n * -(-height // down) * -(-width // right)
    return tiles_of(rows, columns, shape_of(rows, columns)) * down * right


def splits(plan: np.ndarray, layer: int, n: int, backward: bool) -> int:
    """How many blocks share each reduction in a launch for one layer; if more than one, `passes.add_splits` comes after."""
    record = plan[layer]
    return splits_of(_tiles(record, n, backward), _depth(record, backward)) if record[KIND] in _PRODUCTS else 1


def blocks(plan: np.ndarray, layer: int, n: int, backward: bool) -> int:
    """How many blocks have work in a launch for one layer and ``n`` samples."""
    record = plan[layer]
    if record[KIND] in _PRODUCTS:
        return _tiles(record, n, backward) * splits(plan, layer, n, backward)
    return n * -(-int(record[INPUT_SIZE if backward else OUTPUT_SIZE]) // THREADS)
