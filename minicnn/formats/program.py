"""What leaves: the graph of inference with its tensors by name.

Each format has a table of emitters by operation (`minicnn.program.operations.OPERATIONS`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minicnn.errors import DataError, NetworkError
from minicnn.inference import Model
from minicnn.network.layer import Shape
from minicnn.network.network import Network
from minicnn.program.fold import fold
from minicnn.program.graph import Graph, Node, lower


@dataclass(frozen=True)
class Exported:
    """One operation as the formats write it: ``layer`` is the name of the one that it stands for,
    ``tensors`` are that layer's by kind ("weight", "bias", ...)."""

    node: Node
    layer: str
    tensors: Mapping[str, np.ndarray]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape

    @property
    def kernel(self) -> list[int]:
        """Its window, [height, width], as are the stride and the dilation."""
        return self._pair("kernel")

    @property
    def stride(self) -> list[int]:
        """From one window to the next."""
        return self._pair("stride")

    @property
    def dilation(self) -> list[int]:
        """From one tap of a window to the next."""
        return self._pair("dilation")

    @property
    def groups(self) -> int:
        """Of channels."""
        return int(self.node.fields["groups"])

    @property
    def number(self) -> float:
        """Its one number: ε of a normalization, α of an activation."""
        return self.node.fields["f0"]

    @property
    def is_image(self) -> bool:
        """Whether it reads an image, and not a row."""
        return len(self.input_shapes[0]) == 3

    @property
    def pads(self) -> list[int]:
        """(top, left, bottom, right) such that just its outputs come of whole windows."""
        first = [int(self.node.fields[f"padding_{side}"]) for side in ("top", "left")]
        sizes = zip(self.output_shape, self.kernel, self.stride, self.dilation, strict=False)
        read = [(count - 1) * by + apart * (taps - 1) + 1 for count, taps, by, apart in sizes]
        rest = zip(read, first, self.input_shapes[0], strict=False)
        return first + [max(0, end - before - size) for end, before, size in rest]

    @property
    def counted(self) -> list[int]:
        """Of an average pooling: how far around the image (top, left, bottom, right) zeros
        count."""
        pads = self.pads
        if not self.node.fields["a0"]:
            return [0, 0, 0, 0]
        return [*pads[:2], *(map(min, pads[:2], pads[2:]) if self.node.fields["a1"] else pads[2:])]

    def _pair(self, what: str) -> list[int]:
        return [int(self.node.fields[f"{what}_{side}"]) for side in ("height", "width")]


@dataclass(frozen=True)
class Program:
    """The inference of a model as nodes in order, their values' names, and the tensors by name."""

    network: Network
    graph: Graph
    tensors: Mapping[str, np.ndarray]

    def value(self, number: int) -> str:
        """The name of a value: ``input``, the layer's that writes it, or one of its own."""
        names = ("input", *self.network.layer_names)
        if number < len(names):
            return names[number]
        (op,) = (op for op in self.operations if op.node.output == number)
        return f"{op.layer}.{number}"

    @cached_property
    def operations(self) -> list[Exported]:
        """All operations in their order."""
        shapes = self.graph.shapes
        return [
            Exported(
                node,
                layer := self.network.layer_names[node.layers[-1]],
                {
                    name.removeprefix(f"{layer}."): tensor
                    for name, tensor in self.tensors.items()
                    if name.startswith(f"{layer}.")
                },
                tuple(shapes[value] for value in node.inputs),
                shapes[node.output],
            )
            for node in self.graph.nodes
        ]

    def emit(
        self, emitters: Mapping[str, Callable[..., Any]], target: str, *context: Any
    ) -> list[Any]:
        """What the emitters make of the operations, called with ``context`` and each of them.

        Raises `NetworkError`, which names the layer, for an operation that has no emitter.
        """
        for op in self.operations:
            if op.node.operation not in emitters:
                raise NetworkError(
                    f"layer {op.layer!r}: {target} has nothing for the operation "
                    f"{op.node.operation!r}"
                )
        return [emitters[op.node.operation](*context, op) for op in self.operations]


def program_of(model: Model, softmax: bool = False, training: bool = False) -> Program:
    """The program of ``model``; ``training`` keeps batch normalization, else it is folded into the
    weights before it where that can be.

    Raises `DataError` where ``softmax`` wants probabilities of a model that has none.
    """
    if softmax and model.task == "regression":
        raise DataError("the model predicts values, which have no probabilities")
    network, params = model.network, model.params
    if not training:
        network, params = fold(network, params)
    return Program(network, lower(network, frozen=True), network.unflatten(params))


def scaling_of(model: Model) -> list[np.ndarray]:
    """Factor and offset, float32 [C] or [1] each, from images as they are stored to the network's
    input; the factor alone where the offset is 0."""
    numbers = (model.scale,) if model.normalization is None else (model.scale, model.offset)
    return [np.atleast_1d(np.asarray(number, np.float32)) for number in numbers]
