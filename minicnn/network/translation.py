"""From a network to its plan: the table that the kernels walk (`minicnn.plan`)."""

import itertools
from typing import NamedTuple

import numpy as np

from minicnn import plan as p
from minicnn.network import layers
from minicnn.network.network import Network

_KINDS = {
    layers.Conv2d: p.CONV2D,
    layers.Dense: p.DENSE,
    layers.MaxPool2d: p.MAX_POOL2D,
    layers.AvgPool2d: p.AVG_POOL2D,
    layers.GlobalAvgPool2d: p.AVG_POOL2D,
    layers.ReLU: p.RELU,
    layers.LeakyReLU: p.LEAKY_RELU,
    layers.Sigmoid: p.SIGMOID,
    layers.Tanh: p.TANH,
    layers.SiLU: p.SILU,
    layers.GELU: p.GELU,
    layers.Dropout: p.DROPOUT,
}
_ELEMENTWISE = {p.RELU, p.LEAKY_RELU, p.SIGMOID, p.TANH, p.SILU, p.GELU, p.DROPOUT}
_BACKWARD_READS_INPUT = {p.CONV2D, p.DENSE, p.MAX_POOL2D, p.SILU, p.GELU}
_BACKWARD_READS_OUTPUT = {p.MAX_POOL2D, p.RELU, p.LEAKY_RELU, p.SIGMOID, p.TANH}


class Plan(NamedTuple):
    """A network laid out: the table, and how many numbers the workspace of one thread holds."""

    table: np.ndarray  # [layers] of plan.LAYER
    work_size: int


def make_plan(network: Network, chunk: int, training: bool, lanes: int) -> Plan:
    """Lay ``network`` out for chunks of at most ``chunk`` samples and vectors of ``lanes`` numbers.

    For training every activation that the backward pass reads has a buffer of its own, and the gradients take turns in
    two. For inference the activations take turns in two as well, and dropout is left out.
    """
    records = []
    rectified = False
    for index, layer in enumerate(network.layers):
        following = network.layers[index + 1] if index + 1 < len(network.layers) else None
        if isinstance(layer, layers.ReLU) and isinstance(following, layers.MaxPool2d):
            rectified = True  # the pooling does it: ReLU keeps the order, so max(ReLU(x)) = ReLU(max(x))
        elif type(layer) in _KINDS and (training or not isinstance(layer, layers.Dropout)):
            records.append(_record(network, index, chunk))
            records[-1]["rectified"], rectified = rectified, False
    if not records:  # nothing but Flatten: the logits are the input; an activation with slope 1 changes nothing
        identity = Network(network.input_shape, [layers.LeakyReLU(1.0), layers.Flatten()])
        records = [_record(identity, 0, chunk)]
    table = np.array(records, dtype=p.LAYER)
    free = _lay_planes(table, lanes, chunk, 0)
    free = _join_columns(table, lanes, free)
    free = _place_activations(table, chunk, training, free)
    if training:
        free = _place_gradients(table, chunk, free)
    return Plan(table, free)


def _record(network: Network, index: int, chunk: int) -> np.ndarray:
    layer = network.layers[index]
    record = np.zeros((), p.LAYER)
    input_shape, output_shape = _image(network.shapes[index]), _image(network.shapes[index + 1])
    record["kind"] = _KINDS[type(layer)]
    record["chunk"] = chunk
    record["layer"] = index
    for side, shape in (("input", input_shape), ("output", output_shape)):
        record[f"{side}_height"], record[f"{side}_width"], record[f"{side}_channels"] = shape
        record[f"{side}_size"] = int(np.prod(shape))
    record["weight"] = record["bias"] = record["d_input"] = record["d_output"] = -1
    for spec in network.parameters:
        if spec.layer == index:
            record[spec.name.rpartition(".")[2]] = spec.offset
    for field in ("stride_height", "stride_width", "dilation_height", "dilation_width", "joined"):
        record[field] = 1
    if isinstance(layer, layers.GlobalAvgPool2d):
        record["kernel_height"], record["kernel_width"] = input_shape[:2]
    elif isinstance(layer, layers.Conv2d | layers.MaxPool2d | layers.AvgPool2d):
        record["kernel_height"], record["kernel_width"] = layer.kernel_size
        record["stride_height"], record["stride_width"] = layer.stride
        top, _, left, _ = layer.resolved_padding(input_shape)
        record["padding_top"], record["padding_left"] = top, left
        if isinstance(layer, layers.Conv2d):
            record["dilation_height"], record["dilation_width"] = layer.dilation
    elif isinstance(layer, layers.LeakyReLU):
        record["slope_or_rate"] = layer.negative_slope
    elif isinstance(layer, layers.Dropout):
        record["slope_or_rate"] = layer.rate
    return record


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A vector of F numbers is an image of one pixel with F channels."""
    return shape if len(shape) == 3 else (1, 1, shape[0])


def _lay_planes(table: np.ndarray, lanes: int, chunk: int, free: int) -> int:
    """Let grey images pass a convolution with few filters and its pooling in planes; return where the free space begins."""
    for conv, pool in itertools.pairwise(table):
        few = conv["kind"] == p.CONV2D and conv["input_channels"] == 1 and conv["output_channels"] < lanes
        fits = pool["kind"] == p.MAX_POOL2D and all(_fits_planes(conv, pool, side) for side in ("height", "width"))
        if not (few and fits):
            continue
        conv["pitch"] = pool["pitch"] = conv["input_width"]
        conv["output_size"] = pool["input_size"] = conv["output_channels"] * conv["output_height"] * conv["pitch"]
        pool["bias"], pool["maxima"] = conv["bias"], free
        free += p.round_up((chunk + 1) * int(pool["output_size"]))
        conv["sums"] = free
        filters = int(conv["kernel_height"] * (conv["kernel_width"] + p.DOTS) * (conv["output_channels"] + p.DOTS))
        free += p.round_up(filters * lanes)
    return free


def _fits_planes(conv: np.void, pool: np.void, side: str) -> bool:
    """Whether along ``side`` every pixel is read at every tap, and belongs to one window of two."""
    valid = conv[f"output_{side}"] == conv[f"input_{side}"] - conv[f"kernel_{side}"] + 1
    usual = conv[f"stride_{side}"] == conv[f"dilation_{side}"] == 1
    halves = pool[f"kernel_{side}"] == pool[f"stride_{side}"] == 2 and pool[f"input_{side}"] == 2 * pool[f"output_{side}"]
    return bool(valid and usual and halves)


def _join_columns(table: np.ndarray, lanes: int, free: int) -> int:
    """Let convolutions with few filters compute several output columns as one; return where the free space begins.

    J neighbouring columns with K filters are one column with J·K filters, S + (J−1)·stride wide and zero where a column
    does not read. That wastes work on zeros, and saves more where K fills a fraction of a vector: LeNet-5's first layer
    does 3 steps instead of 5.
    """
    for record in table:
        if record["kind"] != p.CONV2D or record["pitch"]:
            continue
        S, K, stride = (int(record[field]) for field in ("kernel_width", "output_channels", "stride_width"))
        choices = [j for j in range(1, 2 * lanes // K + 1) if record["output_width"] % j == 0] or [1]
        vectors_a_column = {j: (S + (j - 1) * stride) * -(-j * K // lanes) / j for j in (1, *choices)}
        best = min(choices, key=vectors_a_column.__getitem__)
        if record["dilation_width"] == 1 and vectors_a_column[best] < 0.8 * vectors_a_column[1]:
            record["joined"], record["joined_filters"] = best, free
            taps = int(record["kernel_height"] * record["input_channels"]) * (S + (best - 1) * stride)
            free += 2 * p.round_up(taps * best * K) + p.round_up(best * K)
    return free


def _place_activations(table: np.ndarray, chunk: int, training: bool, free: int) -> int:
    """Give every activation its buffer; return where the free space begins."""
    sizes = [int(table[0]["input_size"]), *(int(size) for size in table["output_size"])]
    if not training:
        sides = [free, free + p.round_up(chunk * max(sizes))]
        free = 2 * sides[1] - free
        table[0]["input"] = sides[0]
    else:
        table[0]["input"] = free
        free += p.round_up(chunk * sizes[0])
    for index, record in enumerate(table):
        if index:
            record["input"] = table[index - 1]["output"]
        before = table[index - 1]["kind"] if index else None
        in_place = record["kind"] in _ELEMENTWISE and not (
            training and (record["kind"] in _BACKWARD_READS_INPUT or before in _BACKWARD_READS_OUTPUT)
        )
        if in_place:
            record["output"] = record["input"]
        elif training:
            record["output"] = free
            free += p.round_up(chunk * sizes[index + 1])
        else:
            record["output"] = sides[int(record["input"] == sides[0])]
    return free


def _place_gradients(table: np.ndarray, chunk: int, free: int) -> int:
    """Give every gradient one of two buffers; nothing is computed for what lies before the first weights."""
    largest = chunk * int(max(table["output_size"].max(), table["input_size"].max()))
    sides = [free, free + p.round_up(largest)]
    with_weights = np.flatnonzero(table["weight"] >= 0)
    first = int(with_weights[0]) if len(with_weights) else len(table)
    side = 0
    for index in range(len(table) - 1, -1, -1):
        record = table[index]
        record["d_output"] = sides[side]
        if index > first:
            side ^= int(record["kind"] not in _ELEMENTWISE)
            record["d_input"] = sides[side]
    return 2 * sides[1] - free
