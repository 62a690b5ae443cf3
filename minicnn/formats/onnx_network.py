"""A network as it grows while its operators are read from ONNX.

A value of the graph is a value of the network with its axes in ONNX's order. ONNX's images have
channels first and minicnn's last: a row that was such an image has its numbers in another order,
until a dense layer reads it, whose weights' rows are brought into minicnn's.
"""

import re
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minicnn.errors import NetworkError, SettingError
from minicnn.formats.onnx_read import OnnxFile, Operator
from minicnn.network import layers as of
from minicnn.network.layer import Layer, Shape
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d

IMAGE_AXES = ("CHW", "HWC")
ROW_OF_ONES = "C11"  # a row that ONNX has as [N, C, 1, 1]


class Value(NamedTuple):
    """A value of the network, and how ONNX has it."""

    number: int  # 0 is the image, i + 1 the output of layer i
    axes: str  # after the batch: CHW, HWC, C, or C11
    shape: Shape  # minicnn's: (H, W, C) or (features,)
    image: Shape | None = None  # of a row: the image (H, W, C) of whose order C, H, W it has

    @property
    def dims(self) -> Shape:
        """ONNX's sizes after the batch."""
        if self.axes in IMAGE_AXES:
            return tuple(self.shape["HWC".index(axis)] for axis in self.axes)
        return (*self.shape, *[1] * (len(self.axes) - 1))


class Reader:
    """The layers as they grow, and the values of the graph by name."""

    def __init__(self, file: OnnxFile, scaled_inside: bool):
        self.file = file
        self.scaled_inside = scaled_inside  # a file of ours with its scaling as nodes
        self.layers: list[Layer] = []
        self.tensors: list[dict[str, np.ndarray]] = []
        self.names = {"input"}
        self.counts: Counter[str] = Counter()
        self.written: dict[int, str] = {}  # the output of ONNX that a value was made for
        self.whole: set[int] = set()  # values that pool whole images
        self.probabilities = "softmax"
        sizes = file.input.type.tensor_type.shape.dim
        dims = [size.dim_value for size in sizes[1:]]
        if len(dims) not in (1, 3) or min(dims, default=0) < 1:
            shown = [size.dim_value or size.dim_param for size in sizes]
            raise NetworkError(
                f"the input {file.input.name!r} is {shown}; [N, C, H, W], [N, H, W, C] or [N, features] "
                "with numbers but for N would fit"
            )
        self.batch = sizes[0].dim_value
        if len(dims) == 1:
            self.shape: Shape = (1, 1, *dims)
            start = self.add(of.Flatten(), Value(0, "HWC", self.shape))
        else:
            axes = self._input_axes()
            self.shape = tuple(dims[axes.index(axis)] for axis in "HWC")
            start = Value(0, axes, self.shape)
        self.values = {file.input.name: start}

    def _input_axes(self) -> str:
        """HWC where the first thing that happens to the image is that its channels come first."""
        same = {self.file.input.name}
        for node in self.file.nodes:
            if same & set(node.inputs):
                if node.type == "Transpose":
                    perm = next((list(one.ints) for one in node.proto.attribute), [])
                    return "HWC" if perm == [0, 3, 1, 2] else "CHW"
                if node.type in ("Cast", "Mul", "Add", "Sub", "Div", "Identity"):
                    same |= set(node.outputs)
        return "CHW"

    def knows(self, name: str) -> bool:
        """Whether there is a value or a constant of that name."""
        return name in self.values or name in self.file.constants

    def add(
        self, layer: Layer, *inputs: Value, node: Operator | None = None, **tensors: np.ndarray
    ) -> Value:
        """Add a layer that reads ``inputs``; its output has the axes of the first if it is of that
        rank."""
        shape = layer.output_shape(*(value.shape for value in inputs))
        first, number = inputs[0], len(self.layers) + 1
        wanted = node.name if node else ""
        name = re.sub(r"^[\d_]+|_+$", "", re.sub(r"\W+", "_", wanted))
        self.counts[layer.label()] += 1
        name = name or f"{layer.label()}{self.counts[layer.label()]}"
        while name in self.names:
            name = f"{name}_{number}"
        self.names.add(name)
        before = [self.name_of(value.number) for value in inputs]
        alone = [value.number for value in inputs] == [number - 1]
        self.layers.append(replace(layer, name=name, inputs=() if alone else tuple(before)))
        self.tensors.append(tensors)
        if node:
            self.written[number] = node.outputs[0]
        axes = first.axes if len(shape) == len(first.shape) else "C"
        return Value(number, axes, shape, first.image if shape == first.shape else None)

    def name_of(self, number: int) -> str:
        """The name of a value in the network."""
        return (self.layers[number - 1].name or "") if number else "input"

    def value(self, node: Operator, index: int = 0) -> Value:
        """The value that the node reads there, which must not be a constant."""
        name = node.inputs[index]
        if name not in self.values:
            raise NetworkError(f"its input {name!r} is a constant; a value would fit")
        return self.values[name]

    def image(self, node: Operator) -> Value:
        """The image, channels first, that the node reads."""
        value = self.value(node)
        if value.axes != "CHW":
            raise NetworkError(f"reads {['N', *value.dims]}; an image [N, C, H, W] would fit")
        return value

    def row(self, value: Value) -> Value:
        """``value`` as a row."""
        if value.axes not in IMAGE_AXES:
            return value._replace(axes="C")
        height, width, channels = value.shape
        last = value.number == len(self.layers)
        if value.number in self.whole and last and self.alone(value):
            layer = self.layers[-1]
            kind = of.GlobalAvgPool2d if isinstance(layer, of.AvgPool2d) else of.GlobalMaxPool2d
            self.layers[-1] = kind(name=layer.name, inputs=layer.inputs)
            return Value(value.number, "C", (channels,))
        moved = value.axes == "CHW" and height * width > 1 and channels > 1
        return self.add(of.Flatten(), value)._replace(
            axes="C", image=value.shape if moved else None
        )

    def alone(self, value: Value) -> bool:
        """Whether one node alone reads what the value was made for."""
        return self.file.readers[self.written.get(value.number, "")] == 1

    def constant(self, node: Operator, index: int) -> np.ndarray:
        """The constant that the node reads there."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name not in self.file.constants:
            raise NetworkError(f"its input {name!r} is no constant, which alone would fit")
        return self.file.constants[name]

    def numbers(self, node: Operator, index: int, rank: int | None = None) -> np.ndarray:
        """A constant of float32, of ``rank`` dimensions."""
        array = self.constant(node, index)
        if rank is not None and array.ndim != rank:
            raise NetworkError(
                f"{node.inputs[index]!r} has the shape {array.shape}; {rank} dimensions would fit"
            )
        return array.astype(np.float64) if array.size <= 4096 else array

    def by_channel(self, node: Operator, index: int, value: Value) -> np.ndarray:
        """A constant that is one number or one per channel of ``value``, as [C]."""
        array = self.numbers(node, index)
        channels = value.shape[-1]
        shape = (1,) * (len(value.axes) + 1 - array.ndim) + array.shape
        fitting = tuple(channels if axis == "C" else 1 for axis in f"N{value.axes}")
        if shape not in (fitting, (1,) * len(fitting)) or (value.image and array.size > 1):
            raise NetworkError(
                f"{node.inputs[index]!r} has the shape {array.shape}; one number or one per channel, "
                f"{list(fitting)}, would fit"
            )
        return np.broadcast_to(array.reshape(-1), (channels,))

    def number(self, node: Operator, index: int, name: str, default: float) -> float:
        """One number that an attribute or, from some opset on, an input says."""
        given = node.take(name, default)
        if node.has_input(index):
            given = self.constant(node, index).reshape(())
        return float(given)

    def pool_all(self, layer: Layer, value: Value, node: Operator) -> Value:
        """Add a pooling whose window is the whole image, as `row` knows then."""
        made = self.add(layer, value, node=node)
        self.whole.add(made.number)
        return made

    def axes_of(self, node: Operator, index: int, value: Value) -> list[int]:
        """The axes that an attribute or, from some opset on, an input says, counted from 0."""
        given = node.take("axes")
        if given is None and node.has_input(index):
            given = self.constant(node, index).tolist()
        rank = len(value.axes) + 1
        return sorted(axis % rank for axis in given or ())

    def affine(self, node: Operator, value: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
        """x · scale + shift by channel: in the layer before where it is read here alone, else as a
        1×1 convolution of each channel by itself."""
        before = self.layers[value.number - 1] if value.number else None
        own = node.inputs[0 if node.inputs[0] in self.values else 1]
        if (
            isinstance(before, of.Conv2d | of.Dense | BatchNorm2d)
            and self.written.get(value.number) == own
            and self.alone(value)
        ):
            tensors = self.tensors[value.number - 1]
            tensors["weight"] = tensors["weight"] * scale
            if np.any(shift) or "bias" in tensors:
                tensors["bias"] = tensors.get("bias", 0.0) * scale + shift
                if not isinstance(before, BatchNorm2d):
                    self.layers[value.number - 1] = replace(before, bias=True)
            self.written[value.number] = node.outputs[0]
            return value
        if value.axes not in IMAGE_AXES:
            raise NetworkError("by a constant, on a row: only after Gemm or MatMul would it fit")
        return self._depthwise(value, scale, shift, node)

    def _depthwise(
        self, value: Value, scale: np.ndarray, shift: np.ndarray, node: Operator | None
    ) -> Value:
        channels = value.shape[-1]
        layer = of.Conv2d(channels, 1, groups=channels)
        return self.add(layer, value, node=node, weight=scale.reshape(1, 1, 1, -1), bias=shift)

    def normalize(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Begin with (image − mean) / std by channel."""
        name = self.file.input.name
        channels = self.shape[-1]
        offset, deviation = (np.asarray(one, np.float64).reshape(-1) for one in (mean, std))
        if {offset.size, deviation.size} - {1, channels} or not np.all(deviation > 0):
            raise SettingError(
                f"mean and std must be one number or {channels}, and std above 0, not {mean!r} and {std!r}"
            )
        if self.layers:
            raise SettingError("mean and std are for images, and the input is a row")
        scale = np.broadcast_to(1 / deviation, (channels,))
        shift = np.broadcast_to(-offset / deviation, (channels,))
        self.values[name] = self._depthwise(self.values[name], scale, shift, None)

    def network(self) -> Network:
        """The network that was read."""
        output = self.file.output
        if output not in self.values:
            raise NetworkError(f"the output {output!r} is a constant, or no node writes it")
        value = self.values[output]
        if value.axes in IMAGE_AXES and value.shape[:2] == (1, 1):
            value = self.row(value)
        if value.axes in IMAGE_AXES or value.image:
            raise NetworkError(
                f"the output {output!r} is {['N', *value.dims]} in the order of an image; a row of "
                "logits would fit"
            )
        if value.number == 0:
            raise NetworkError("there is no layer")
        if value.number != len(self.layers):
            raise NetworkError(f"the output {output!r} is not what the last layer gives")
        return Network(self.shape, self.layers, self.file.name or "network")
