"""What each operator of ONNX becomes.

A value of the graph is a value of the network with its axes in ONNX's order. ONNX's images have
channels first and minicnn's last: a row that was such an image has its numbers in another order,
until a dense layer reads it, whose weights' rows are brought into minicnn's.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minicnn.errors import NetworkError, SettingError
from minicnn.formats.onnx_read import OnnxFile, Operator
from minicnn.network import activations as act
from minicnn.network import layers as of
from minicnn.network.layers import Layer, Shape
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm

_IMAGE_AXES = ("CHW", "HWC")
_ROW_OF_ONES = "C11"  # a row that ONNX has as [N, C, 1, 1]
WORDS = {"LRN": " (batch normalization in its place, and training again, would fit)"}


class Value(NamedTuple):
    """A value of the network, and how ONNX has it."""

    number: int  # 0 is the image, i + 1 the output of layer i
    axes: str  # after the batch: CHW, HWC, C, or C11
    shape: Shape  # minicnn's: (H, W, C) or (features,)
    image: Shape | None = None  # of a row: the image (H, W, C) of whose order C, H, W it has

    @property
    def dims(self) -> Shape:
        """ONNX's sizes after the batch."""
        if self.axes in _IMAGE_AXES:
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
        if value.axes not in _IMAGE_AXES:
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
        """A constant that is one number or one a channel of ``value``, as [C]."""
        array = self.numbers(node, index)
        channels = value.shape[-1]
        shape = (1,) * (len(value.axes) + 1 - array.ndim) + array.shape
        fitting = tuple(channels if axis == "C" else 1 for axis in f"N{value.axes}")
        if shape not in (fitting, (1,) * len(fitting)) or (value.image and array.size > 1):
            raise NetworkError(
                f"{node.inputs[index]!r} has the shape {array.shape}; one number or one a channel, "
                f"{list(fitting)}, would fit"
            )
        return np.broadcast_to(array.reshape(-1), (channels,))

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
        if value.axes not in _IMAGE_AXES:
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
        if value.axes in _IMAGE_AXES and value.shape[:2] == (1, 1):
            value = self.row(value)
        if value.axes in _IMAGE_AXES or value.image:
            raise NetworkError(
                f"the output {output!r} is {['N', *value.dims]} in the order of an image; a row of "
                "logits would fit"
            )
        if value.number == 0:
            raise NetworkError("there is no layer")
        if value.number != len(self.layers):
            raise NetworkError(f"the output {output!r} is not what the last layer gives")
        return Network(self.shape, self.layers, self.file.name or "network")


def _padding(node: Operator, x: Value, layer: Any) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) that the node says."""
    how = node.take("auto_pad", "NOTSET")
    pads = node.ints("pads", (0, 0, 0, 0), 4)
    if how in ("SAME_UPPER", "SAME_LOWER"):
        top, bottom, left, right = layer(padding="same").resolved_padding(x.shape)
        return (top, left, bottom, right) if how == "SAME_UPPER" else (bottom, right, top, left)
    if how not in ("NOTSET", "VALID"):
        raise NetworkError(f"auto_pad is {how!r}")
    return (0, 0, 0, 0) if how == "VALID" else (pads[0], pads[1], pads[2], pads[3])


def _window(node: Operator, kernel: Sequence[int]) -> dict[str, Any]:
    return {
        "kernel_size": tuple(kernel),
        "stride": tuple(node.ints("strides", (1, 1), 2)),
    }


def _conv(reader: Reader, node: Operator) -> Value:
    x, weight = reader.image(node), reader.numbers(node, 1, 4)
    kernel = node.ints("kernel_shape", weight.shape[2:], 2)
    if tuple(kernel) != weight.shape[2:]:
        raise NetworkError(f"kernel_shape is {kernel}, and the weights are {weight.shape}")
    said = _window(node, kernel)
    said |= {"dilation": tuple(node.ints("dilations", (1, 1), 2)), "groups": node.take("group", 1)}
    tensors = {"weight": weight.transpose(2, 3, 1, 0)}
    if node.has_input(2):
        tensors["bias"] = reader.numbers(node, 2, 1)

    def layer(padding: Any) -> of.Conv2d:
        bias = "bias" in tensors
        return of.Conv2d(weight.shape[0], padding=padding, bias=bias, **said)

    top, left, bottom, right = _padding(node, x, layer)
    sides = (top, bottom, left, right)
    if (top, left) == (bottom, right):
        made = layer((top, left))
    else:
        made = layer("same")
        if made.resolved_padding(x.shape) != sides:
            made = layer(sides)
    for kind, shape in made.parameter_shapes(x.shape).items():
        if tensors[kind].shape != shape:
            raise NetworkError(f"its {kind} has the shape {tensors[kind].shape}, not {shape}")
    return reader.add(made, x, node=node, **tensors)


def _pool(reader: Reader, node: Operator) -> Value:
    """The pooling whose windows, of those that the layers have, are the node's."""
    x = reader.image(node)
    said = _window(node, node.ints("kernel_shape", (), 2))
    dilation, ceil = tuple(node.ints("dilations", (1, 1), 2)), bool(node.take("ceil_mode", 0))
    counted, average = bool(node.take("count_include_pad", 0)), node.type == "AveragePool"
    node.take("storage_order")  # of the indices, which nobody reads
    if average and dilation != (1, 1):
        raise NetworkError("dilations are not 1; only MaxPool has them here")

    def layer(padding: Any, ceil_mode: bool = False) -> Any:
        if average:
            counts = counted or (pads == (0, 0, 0, 0) and not ceil_mode)
            return of.AvgPool2d(
                padding=padding, ceil_mode=ceil_mode, count_include_pad=counts, **said
            )
        return of.MaxPool2d(
            padding=padding, dilation=(dilation[0], dilation[1]), ceil_mode=ceil_mode, **said
        )

    pads: tuple[int, ...] = ()
    pads = _padding(node, x, layer)
    expected = [_outputs(side, pads, layer(0), x.shape[side], ceil) for side in range(2)]
    even = pads[:2] == pads[2:]
    for padding, ceil_mode in ((pads[:2], False), (pads[:2], True), ("same", False)):
        if average and counted and not (even if ceil else not ceil_mode):
            continue  # windows have other divisors
        try:
            made = layer(padding, ceil_mode)
            shape = made.output_shape(x.shape)
        except (NetworkError, SettingError):
            continue
        top, _, left, _ = made.resolved_padding(x.shape)
        if (top, left) == pads[:2] and list(shape[:2]) == expected:
            return reader.add(made, x, node=node)
    raise NetworkError(
        f"pads {list(pads)} of a kernel {list(said['kernel_size'])}: as much before as after, at most "
        "half of the kernel, or what SAME_UPPER gives would fit"
    )


def _outputs(side: int, pads: Sequence[int], layer: Any, size: int, ceil: bool) -> int:
    """Outputs along one side; with ``ceil`` one that begins in the padding after the image does not
    count."""
    stride, room = layer.stride[side], size + pads[side] + pads[side + 2] - layer.extent[side]
    outputs: int = (-(-room // stride) if ceil else room // stride) + 1
    return outputs - (ceil and (outputs - 1) * stride >= size + pads[side])


def _global_pool(kind: Callable[..., Layer]) -> Callable[[Reader, Operator], Value]:
    def take(reader: Reader, node: Operator) -> Value:
        x = reader.image(node)
        made = reader.add(kind(x.shape[:2]), x, node=node)
        reader.whole.add(made.number)
        return made

    return take


def _reduce_mean(reader: Reader, node: Operator) -> Value:
    x = reader.value(node)
    axes, keep = reader.axes_of(node, 1, x), node.take("keepdims", 1)
    node.take("noop_with_empty_axes")
    if x.axes not in _IMAGE_AXES or "".join(x.axes[axis - 1] for axis in axes if axis) != "HW":
        raise NetworkError("over other axes than height and width, which alone would fit")
    if not keep:
        return reader.add(of.GlobalAvgPool2d(), x, node=node)
    made = reader.add(of.AvgPool2d((x.shape[0], x.shape[1])), x, node=node)
    reader.whole.add(made.number)
    return made


def _gemm(reader: Reader, node: Operator) -> Value:
    """Gemm, and MatMul, which is one without bias."""
    x, weight = reader.value(node), reader.numbers(node, 1, 2)
    alpha, beta = node.take("alpha", 1.0), node.take("beta", 1.0)
    if x.axes != "C" or node.take("transA", 0):
        raise NetworkError(f"reads {['N', *x.dims]}; a row [N, features], as it is, would fit")
    weight = weight.T if node.take("transB", 0) else weight
    if weight.shape[0] != x.shape[0]:
        raise NetworkError(f"its weights are for {weight.shape[0]} features, not {x.shape[0]}")
    if x.image is not None:
        height, width, channels = x.image
        weight = weight.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
        weight = weight.reshape(x.shape[0], -1)
    tensors = {"weight": weight if alpha == 1 else weight * alpha}
    units = weight.shape[1]
    if node.has_input(2) and beta:
        bias = reader.numbers(node, 2)
        if bias.shape not in ((), (1,), (units,), (1, 1), (1, units)):
            raise NetworkError(f"its bias has the shape {bias.shape}; {(units,)} would fit")
        tensors["bias"] = np.broadcast_to(bias.reshape(-1) * beta, (units,))
    return reader.add(of.Dense(units, "bias" in tensors), x, node=node, **tensors)


def _arithmetic(reader: Reader, node: Operator) -> Value:
    """Add, Sub, Mul and Div: of two values, or by a constant."""
    constants = [index for index in (0, 1) if node.inputs[index] in reader.file.constants]
    if constants:
        index = constants[0]
        x = reader.value(node, 1 - index)
        if reader.scaled_inside and node.outputs[0].startswith("input."):
            return x
        given = reader.by_channel(node, index, x).astype(np.float64)
        ones, zeros = np.ones_like(given), np.zeros_like(given)
        if node.type == "Div" and index == 0:
            raise NetworkError("of a constant by a value; only by a constant would it fit")
        with np.errstate(divide="ignore"):
            scale, shift = {
                "Add": (ones, given),
                "Sub": (ones, -given) if index else (-ones, given),
                "Mul": (given, zeros),
                "Div": (1 / given, zeros),
            }[node.type]
        return reader.affine(node, x, scale, shift)
    x, other = reader.value(node, 0), reader.value(node, 1)
    if node.type not in ("Add", "Mul"):
        raise NetworkError("of two values; Add or Mul would fit")
    if node.type == "Mul":
        gates = [value.axes == _ROW_OF_ONES or value.shape[:2] == (1, 1) for value in (x, other)]
        if gates == [True, False]:
            x, other = other, x
        gate = other.axes == _ROW_OF_ONES and x.axes == "CHW"
        if gate and x.shape[-1:] == other.shape:
            return reader.add(of.Multiply(), x, other, node=node)
    return _joined(reader, node, of.Add() if node.type == "Add" else of.Multiply(), x, other)


def _joined(reader: Reader, node: Operator, layer: Layer, *values: Value) -> Value:
    if len({(value.axes, value.image) for value in values}) > 1:
        shapes = " and ".join(str(["N", *value.dims]) for value in values)
        raise NetworkError(f"of {shapes}; values of one order of axes would fit")
    return values[0] if len(values) == 1 else reader.add(layer, *values, node=node)


def _sum(reader: Reader, node: Operator) -> Value:
    values = [reader.value(node, index) for index in range(len(node.inputs))]
    return _joined(reader, node, of.Add(), *values)


def _concat(reader: Reader, node: Operator) -> Value:
    values = [reader.value(node, index) for index in range(len(node.inputs))]
    axis = node.take("axis", 1) % (len(values[0].axes) + 1)
    if axis != values[0].axes.index("C") + 1 or any(value.image for value in values):
        raise NetworkError(f"along the axis {axis}; that of the channels would fit")
    return _joined(reader, node, of.Concat(), *values)


def _flatten(reader: Reader, node: Operator) -> Value:
    x = reader.value(node)
    if node.take("axis", 1) % (len(x.axes) + 1) != 1:
        raise NetworkError("from another axis than 1, which alone would fit")
    return reader.row(x)


def _reshape(reader: Reader, node: Operator) -> Value:
    """To a row, to [N, C, 1, 1], or to what it is."""
    x, shape = reader.value(node), [int(size) for size in reader.constant(node, 1).reshape(-1)]
    dims = [0, *x.dims]
    if node.take("allowzero", 0) and 0 in shape:
        raise NetworkError("with allowzero; a shape without 0 would fit")
    wanted = [dims[i] if size == 0 and i < len(dims) else size for i, size in enumerate(shape)]
    batch, rest = wanted[:1], wanted[1:]
    if rest.count(-1) == 1 and -1 not in batch:
        known = math.prod(size for size in rest if size != -1)
        rest[rest.index(-1)] = math.prod(x.shape) // max(1, known)
    if batch in ([0], [-1], [reader.batch]) and math.prod(rest) == math.prod(x.shape):
        if len(rest) == 1:
            return reader.row(x)
        if tuple(rest) == x.dims:
            return x
        if x.axes in ("C", _ROW_OF_ONES) and rest[1:] == [1, 1] and not x.image:
            return x._replace(axes=_ROW_OF_ONES)
    raise NetworkError(f"of {['N', *x.dims]} to {shape}; a row, [0, -1], would fit")


def _squeeze(reader: Reader, node: Operator) -> Value:
    x = reader.value(node)
    axes = reader.axes_of(node, 1, x)
    ones = len(x.axes) == 3 and all(x.dims[axis - 1] == 1 for axis in axes)
    if not ones or [x.axes[axis - 1] for axis in axes if axis] not in (["H", "W"], ["1", "1"]):
        raise NetworkError("of other axes than a height and a width of 1, which would fit")
    return reader.row(x)


def _unsqueeze(reader: Reader, node: Operator) -> Value:
    x = reader.value(node)
    axes = node.take("axes") or reader.constant(node, 1).tolist()
    if x.axes != "C" or x.image or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise NetworkError("of a row to [N, C, 1, 1] would fit")
    return x._replace(axes=_ROW_OF_ONES)


def _transpose(reader: Reader, node: Operator) -> Value:
    x, perm = reader.value(node), node.take("perm")
    for start, moved, order in (("CHW", "HWC", [0, 2, 3, 1]), ("HWC", "CHW", [0, 3, 1, 2])):
        if x.axes == start and perm == order:
            return x._replace(axes=moved)
    raise NetworkError(f"of {x.axes} by {perm}; between [N, C, H, W] and [N, H, W, C] would fit")


def _shape(reader: Reader, node: Operator) -> Value:
    """The sizes are a constant, in which 0 stands for the batch: Reshape keeps that."""
    x = reader.value(node)
    reader.file.constants[node.outputs[0]] = np.array([0, *x.dims])
    return x


def _same(reader: Reader, node: Operator) -> Value:
    return reader.value(node)


def _cast(reader: Reader, node: Operator) -> Value:
    if (kind := node.take("to")) not in (1, 10, 11, 16):
        raise NetworkError(f"to the type {kind}; a floating one would fit")
    node.take("saturate")
    return reader.value(node)


def _softmax(reader: Reader, node: Operator) -> Value:
    x = reader.value(node)
    axis = node.take("axis", -1 if reader.file.opset >= 13 else 1) % (len(x.axes) + 1)
    ones = x.axes == _ROW_OF_ONES or x.shape[:2] == (1, 1)
    if node.outputs[0] != reader.file.output or axis != 1 or not (x.axes == "C" or ones):
        raise NetworkError("inside the network, or not of a row; at the end of it would fit")
    return reader.row(x)


def _sigmoid(reader: Reader, node: Operator) -> Value:
    x = reader.value(node)
    if node.outputs[0] == reader.file.output and x.axes == "C" and x.number:
        reader.probabilities = "sigmoid"
        return x
    return reader.add(act.Sigmoid(), x, node=node)


def _dropout(reader: Reader, node: Operator) -> Value:
    ratio = node.take("ratio", 0.5)
    if node.has_input(1):
        ratio = float(reader.constant(node, 1).reshape(()))
    if node.has_input(2) and reader.constant(node, 2).any():
        raise NetworkError("in training mode; that of inference would fit")
    node.take("seed")
    return reader.add(of.Dropout(float(ratio)), reader.value(node), node=node)


def _normalized(reader: Reader, node: Operator) -> tuple[Value, float]:
    x, eps = reader.value(node), float(node.take("epsilon", 1e-5))
    if x.axes not in ("CHW", "C") or x.image:
        raise NetworkError(f"reads {['N', *x.dims]}; [N, C, H, W] or [N, C] would fit")
    return x, eps


def _batch_norm(reader: Reader, node: Operator) -> Value:
    x, eps = _normalized(reader, node)
    kinds = ("weight", "bias", "running_mean", "running_var")
    tensors = {kind: reader.numbers(node, i, 1) for i, kind in enumerate(kinds, 1)}
    if node.take("training_mode", 0) or node.take("spatial", 1) != 1:
        raise NetworkError("in training mode, or not by channel; that of inference would fit")
    momentum = 1 - float(node.take("momentum", 0.9))
    return reader.add(BatchNorm2d(eps, min(1.0, max(0.0, momentum))), x, node=node, **tensors)


def _instance_norm(reader: Reader, node: Operator) -> Value:
    x, eps = _normalized(reader, node)
    tensors = {kind: reader.numbers(node, i, 1) for i, kind in enumerate(("weight", "bias"), 1)}
    return reader.add(GroupNorm(x.shape[-1], eps), reader.image(node), node=node, **tensors)


def _layer_norm(reader: Reader, node: Operator) -> Value:
    x, eps = _normalized(reader, node)
    if node.take("axis", -1) % (len(x.axes) + 1) != 1 or not node.has_input(2):
        raise NetworkError("over a part of a sample, or without bias; a whole one would fit")
    node.take("stash_type")
    order = (1, 2, 0) if x.axes == "CHW" else (0,)
    weight, bias = (reader.numbers(node, i, len(order)).transpose(order) for i in (1, 2))
    return reader.add(LayerNorm(eps), x, node=node, weight=weight, bias=bias)


def _prelu(reader: Reader, node: Operator) -> Value:
    x = reader.value(node)
    if x.image:
        raise NetworkError("reads a row in the order of an image; a dense layer before would fit")
    return reader.add(act.PReLU(), x, node=node, weight=reader.by_channel(node, 1, x))


def _clip(reader: Reader, node: Operator) -> Value:
    low, high = node.take("min", -math.inf), node.take("max", math.inf)
    if node.has_input(1):
        low = float(reader.constant(node, 1).reshape(()))
    if node.has_input(2):
        high = float(reader.constant(node, 2).reshape(()))
    if low != 0 or high not in (6, math.inf):
        raise NetworkError(f"from {low:g} to {high:g}; 0 to 6 or 0 to infinity would fit")
    return reader.add(act.ReLU6() if high == 6 else act.ReLU(), reader.value(node), node=node)


def _hard_sigmoid(reader: Reader, node: Operator) -> Value:
    alpha, beta = node.take("alpha", 0.2), node.take("beta", 0.5)
    if abs(alpha - 1 / 6) > 1e-6 or abs(beta - 0.5) > 1e-6:
        raise NetworkError(f"alpha {alpha:g} and beta {beta:g}; 1/6 and 1/2 would fit")
    return reader.add(act.HardSigmoid(), reader.value(node), node=node)


def _activation(
    kind: type[Layer], **attributes: tuple[str, Any]
) -> Callable[[Reader, Operator], Value]:
    """A layer, whose fields are attributes (name, default)."""

    def take(reader: Reader, node: Operator) -> Value:
        fields = {field: node.take(*named) for field, named in attributes.items()}
        return reader.add(kind(**fields), reader.value(node), node=node)

    return take


OPERATORS: dict[str, Callable[[Reader, Operator], Value]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Sum": _sum,
    "Concat": _concat,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool(of.AvgPool2d),
    "GlobalMaxPool": _global_pool(of.MaxPool2d),
    "ReduceMean": _reduce_mean,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Shape": _shape,
    "Identity": _same,
    "Cast": _cast,
    "Dropout": _dropout,
    "Softmax": _softmax,
    "Sigmoid": _sigmoid,
    "PRelu": _prelu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Relu": _activation(act.ReLU),
    "LeakyRelu": _activation(act.LeakyReLU, negative_slope=("alpha", 0.01)),
    "Elu": _activation(act.ELU, alpha=("alpha", 1.0)),
    "Gelu": _activation(act.GELU, approximate=("approximate", "none")),
    "Tanh": _activation(act.Tanh),
    "Softplus": _activation(act.Softplus),
    "Mish": _activation(act.Mish),
    "HardSwish": _activation(act.HardSwish),
}
