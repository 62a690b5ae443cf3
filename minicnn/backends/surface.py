"""The loss along lines through the space of weights, on the CPU: plans and buffers for
`kernels.cpu.surface`."""

from collections.abc import Sequence

import numpy as np

from minicnn.backends.cpu import lay_out, thread_count
from minicnn.kernels.cpu import surface
from minicnn.kernels.cpu.rules import compile_loss
from minicnn.memory import aligned_copy, aligned_zeros
from minicnn.network.network import Network
from minicnn.program.graph import Node, cuts
from minicnn.rules import LayerRule, LossRule

# What a thread works on should stay in its cache; the more images in a chunk, the longer the
# products.
_CHUNK_BYTES = 1024 * 1024
_SMALLEST_CHUNK, _LARGEST_CHUNK = 8, 64
_LINEAR = ("conv2d", "grouped_conv2d", "depthwise_conv2d", "dense")  # in their weights


def first_layer(network: Network, direction: np.ndarray) -> int:
    """Index of the first layer with weights that ``direction`` [flat_size] changes; the last of
    them if it changes none."""
    layers = [spec.layer for spec in network.parameters]
    tensors = zip(layers, network.unflatten(direction).values(), strict=True)
    return min((layer for layer, tensor in tensors if tensor.any()), default=layers[-1])


class LossRows:
    """The summed loss of labelled images at params + c · ``direction``, for one row of numbers c
    after another.

    ``images`` [N, H, W, C] are scaled, of the dtype of ``direction`` [flat_size]. All layers before
    the first one that it changes run once a row: of two directions this should be the one that
    begins later (`first_layer`).
    """

    def __init__(
        self,
        network: Network,
        direction: np.ndarray,
        images: np.ndarray,
        labels: np.ndarray,
        rule: LossRule,
        targets: np.ndarray,
        class_weights: np.ndarray,
        hyperparameters: np.ndarray,
        threads: int | None = None,
    ):
        dtype, number = direction.dtype, first_layer(network, direction)
        one = lay_out(network, 1, False, dtype, plain=True)
        k, nodes = next(i for i, node in enumerate(one.nodes) if number in node.layers), one.nodes
        self._linear = nodes[k].operation in _LINEAR
        # What is read again for every number must still be there: all of it, unless the rest reads
        # the output of k alone.
        keep = not self._linear or k not in cuts(nodes)
        channels = _changing_channels(network, direction, number)
        g = _next_product(nodes, k)
        after = [
            spec
            for spec in network.parameters
            if spec.layer > number or (spec.layer == number and not self._linear)
        ]
        tail = [spec for spec in after if direction[spec.offset : spec.offset + spec.size].any()]
        shares = (
            self._linear
            and g is not None
            and not tail
            and 2 * len(channels) <= one.table[k]["output_channels"]
        )
        if not shares:
            channels = np.arange(one.table[k]["output_channels"])
        floats = lay_out(network, 1, False, dtype, plain=True, keep=keep).work_size
        floats += 3 * int(one.table["output_size"].max())
        chunk = min(
            len(images),
            _LARGEST_CHUNK,
            max(_SMALLEST_CHUNK, _CHUNK_BYTES // (dtype.itemsize * floats)),
        )
        plan = lay_out(network, chunk, False, dtype, plain=True, keep=keep)
        table, end = plan.table, g + 1 if shares and g is not None else k + 1
        packed = _packed(table[k + 1 : end], int(table[k]["output_channels"]), len(channels))
        self._plans = table[:k], table[k : k + 1], table[k + 1 : end], packed, table[end:]
        self._channels, self._shares = channels, shares
        self._chunks = -(-len(images) // chunk)
        self._threads = min(thread_count(threads), self._chunks)
        self._direction = direction
        self._tail = (tail[0].offset, tail[-1].offset + tail[-1].size) if tail else (0, 0)
        self._data = (
            np.ascontiguousarray(images.reshape(len(images), -1)),
            labels,
            targets,
            class_weights,
        )
        self._loss, self._hyperparameters = compile_loss(rule, dtype), hyperparameters
        sizes = (
            plan.work_size,
            *[chunk * int(table["output_size"].max())] * 3,
            network.flat_size,
            network.outputs,
        )
        self._buffers = [aligned_zeros((self._threads, size), dtype) for size in sizes]

    def __call__(self, params: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
        """The summed loss, float64 [len(coordinates)], at ``params`` [flat_size] + each coordinate
        · ``direction``."""
        fixed, packed = params, params[:0]
        if self._shares:
            fixed = aligned_copy(params)
            weights = self._weights_by_channel(fixed)
            packed = np.ascontiguousarray(weights[:, self._channels]).reshape(-1)
            weights[:, self._channels] = 0
        totals = np.zeros((self._chunks, len(coordinates)))
        surface.loss_row(
            self._threads,
            *self._plans,
            params,
            fixed,
            packed,
            self._direction,
            self._tail,
            self._channels,
            np.asarray(coordinates, np.float64),
            self._linear,
            *self._data,
            self._loss.address,
            self._hyperparameters,
            *self._buffers,
            totals,
        )
        return totals.sum(axis=0)

    def _weights_by_channel(self, params: np.ndarray) -> np.ndarray:
        """The weights of layer g as a view [places, channels of layer k, outputs]."""
        _, (k,), following, packed, _ = self._plans
        g, channels = following[-1], int(k["output_channels"])
        places = _inputs(packed[-1]) // len(self._channels)
        outputs, begin = int(g["output_channels"]), int(g["weight"])
        return params[begin : begin + places * channels * outputs].reshape(
            places, channels, outputs
        )


def _next_product(nodes: Sequence[Node], k: int) -> int | None:
    """The next convolution or dense layer after node ``k``, where all between are of one channel at
    a time, in a row."""
    for i in range(k + 1, len(nodes)):
        alone = nodes[i].inputs == (nodes[i - 1].output,) and i - 1 in cuts(nodes)
        if not alone:
            return None
        row = nodes[i].row
        if nodes[i].operation in ("conv2d", "dense"):
            return i
        if (
            nodes[i].trained
            or row.module in ("softmax", "group_norm")
            or isinstance(row.rule, LayerRule)
        ):
            return None
    return None


def _changing_channels(network: Network, direction: np.ndarray, layer: int) -> np.ndarray:
    """The output channels of a layer in which the direction changes its weights or its bias."""
    tensors = network.unflatten(direction)
    own = [tensors[spec.name] for spec in network.parameters if spec.layer == layer]
    return np.flatnonzero(
        sum(np.abs(tensor).reshape(-1, tensor.shape[-1]).sum(axis=0) for tensor in own)
    )


def _inputs(record: np.ndarray) -> int:
    """How many inputs one output of a convolution or of a dense layer sums up."""
    taps = int(record["kernel_height"] * record["kernel_width"] * record["input_channels"])
    return taps or int(record["input_size"])


def _packed(following: np.ndarray, channels: int, changing: int) -> np.ndarray:
    """The layers from k to g with ``changing`` channels of ``channels``; g has no bias, and its
    weights begin at 0."""
    packed: np.ndarray = following.copy()
    for record in packed:
        last = record["weight"] >= 0
        for side in ("input",) if last else ("input", "output"):
            record[f"{side}_size"] = record[f"{side}_size"] // channels * changing
            record[f"{side}_channels"] = record[f"{side}_channels"] // channels * changing
        if last:
            record["weight"], record["bias"] = 0, -1
    return packed
