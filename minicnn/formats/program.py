"""What leaves: the graph of inference with its tensors by name, and which operations never do.

Each format has a table of emitters by operation (`minicnn.program.operations.OPERATIONS`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.errors import NetworkError
from minicnn.inference import Model
from minicnn.network.network import Network
from minicnn.program.fold import fold
from minicnn.program.graph import Graph, Node, lower

NEVER = {  # the operations that the graph of inference has none of, and why
    **dict.fromkeys(("batch_statistics", "batch_norm"), "inference has scale_shift in its place"),
    **dict.fromkeys(("dropout", "dropout2d", "drop_path"), "inference leaves it out"),
    "winograd_conv2d": "it is a conv2d, computed another way",
    "conv_pool_grey": "it is made of conv2d, relu and max_pool2d, which leave one by one",
}

Emitters = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Program:
    """The inference of a model as nodes in order, their values' names, and the tensors by name."""

    network: Network
    graph: Graph
    tensors: Mapping[str, np.ndarray]

    def value(self, number: int) -> str:
        """The name of a value: ``input``, the layer's that writes it, or one of its own."""
        if number == 0:
            return "input"
        names = self.network.layer_names
        if number <= len(names):
            return names[number - 1]
        (node,) = (node for node in self.graph.nodes if node.output == number)
        return f"{self.layer(node)}.{number}"

    def layer(self, node: Node) -> str:
        """The name of the layer that ``node`` stands for."""
        return self.network.layer_names[node.layers[-1]]

    def tensor(self, node: Node, kind: str) -> np.ndarray | None:
        """The ``kind`` ("weight", "bias", ...) of the node's layer; None where it has none."""
        return self.tensors.get(f"{self.layer(node)}.{kind}")

    def emit(self, emitters: Emitters, target: str, *context: Any) -> list[Any]:
        """What the emitters make of the nodes, called with ``context``, this program and the node.

        Raises `NetworkError`, which names the layer, for an operation that has no emitter.
        """
        for node in self.graph.nodes:
            if node.operation not in emitters:
                raise NetworkError(
                    f"layer {self.layer(node)!r}: {target} has nothing for the operation "
                    f"{node.operation!r}"
                )
        return [emitters[node.operation](*context, self, node) for node in self.graph.nodes]


def program_of(model: Model, training: bool = False) -> Program:
    """The program of ``model``; ``training`` keeps batch normalization, else it is folded into the
    weights before it where that can be."""
    network, params = model.network, model.params
    if not training:
        network, params = fold(network, params)
    return Program(network, lower(network, frozen=True), network.unflatten(params))


def pads_of(program: Program, node: Node) -> list[int]:
    """(top, left, bottom, right) such that just the node's outputs come of whole windows."""
    before, after = [], []
    for side, name in enumerate(("height", "width")):
        taps, stride, dilation = (
            int(node.fields[f"{what}_{name}"]) for what in ("kernel", "stride", "dilation")
        )
        first = int(node.fields["padding_top" if side == 0 else "padding_left"])
        outputs = program.graph.shapes[node.output][side]
        read = (outputs - 1) * stride + dilation * (taps - 1) + 1
        before.append(first)
        after.append(max(0, read - first - program.graph.shapes[node.inputs[0]][side]))
    return before + after


def pair(node: Node, what: str) -> list[int]:
    """The field ``what`` ("kernel", "stride", "dilation") as [height, width]."""
    return [int(node.fields[f"{what}_{side}"]) for side in ("height", "width")]


def scaling_of(model: Model) -> list[np.ndarray]:
    """Factor and offset, float32 [C] or [1] each, from images as they are stored to the network's
    input; the factor alone where the offset is 0."""
    numbers = (model.scale,) if model.normalization is None else (model.scale, model.offset)
    return [np.atleast_1d(np.asarray(number, np.float32)) for number in numbers]
