"""What each operator of ONNX becomes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.errors import NetworkError
from minicnn.formats.onnx_network import ROW_OF_ONES, Reader, Value
from minicnn.formats.onnx_read import Operator
from minicnn.formats.onnx_windows import convolution, global_pool, pool, reduce_mean
from minicnn.network import activations as act
from minicnn.network import layers as of
from minicnn.network.layer import Layer
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm

WORDS = {"LRN": " (batch normalization in its place, and training again, would fit)"}


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
        gates = [value.axes == ROW_OF_ONES or value.shape[:2] == (1, 1) for value in (x, other)]
        if gates == [True, False]:
            x, other = other, x
        gate = other.axes == ROW_OF_ONES and x.axes == "CHW"
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
        if x.axes in ("C", ROW_OF_ONES) and rest[1:] == [1, 1] and not x.image:
            return x._replace(axes=ROW_OF_ONES)
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
    return x._replace(axes=ROW_OF_ONES)


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
    ones = x.axes == ROW_OF_ONES or x.shape[:2] == (1, 1)
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
    ratio = reader.number(node, 1, "ratio", 0.5)
    if node.has_input(2) and reader.constant(node, 2).any():
        raise NetworkError("in training mode; that of inference would fit")
    node.take("seed")
    return reader.add(of.Dropout(ratio), reader.value(node), node=node)


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
    low = reader.number(node, 1, "min", -math.inf)
    high = reader.number(node, 2, "max", math.inf)
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
    "Conv": convolution,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": global_pool(of.AvgPool2d),
    "GlobalMaxPool": global_pool(of.MaxPool2d),
    "ReduceMean": reduce_mean,
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
