"""A model as ONNX: opset 17, or the one that brought an operator that is needed (18: Mish, 20:
Gelu).

Images are NCHW inside. Weights come from HWIO to OIHW, and a dense layer after Flatten, which in
ONNX has channels first, has its rows in that order.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from minicnn import __version__
from minicnn.errors import MissingExtraError, SettingError
from minicnn.formats.program import Exported, Program, program_of, scaling_of
from minicnn.inference import Model

_OPSET = 17
_SINCE = {"Mish": 18, "Gelu": 20}  # of what opset 17 has not
_IR = 9


def to_onnx(
    model: Model,
    layout: Literal["nchw", "nhwc"] = "nchw",
    preprocess: bool = False,
    softmax: bool = False,
    training: bool = False,
) -> Any:
    """The model as an `onnx.ModelProto`, whose input has any number of images.

    The input is float32 as the network takes it, [N, C, H, W] or [N, H, W, C] by ``layout``; with
    ``preprocess`` images of the model's ``image_dtype`` go in. The output, named by the last layer,
    are the logits, with ``softmax`` the probabilities. Batch normalization is folded into the
    weights before it unless ``training``. Layers keep their names; classes and scaling are metadata
    (``minicnn``, as JSON). Raises `MissingExtraError` without the package onnx, `NetworkError` for
    a layer that ONNX has no operators for, `SettingError` or `DataError` for what does not fit.
    """
    if layout not in ("nchw", "nhwc"):
        raise SettingError(f"layout must be nchw or nhwc, not {layout!r}")
    helper = onnx_package().helper
    types = onnx_package().TensorProto
    program = program_of(model, softmax, training)
    height, width, channels = program.network.input_shape
    sizes = [channels, height, width] if layout == "nchw" else [height, width, channels]
    kind = model.image_dtype if preprocess else "float32"
    builder = _Builder(helper, program)
    source = "input"
    if preprocess:
        if kind != "float32":
            source = builder.add("Cast", "input.float32", source, to=types.FLOAT)
        for operator, name, number in zip(
            ("Mul", "Add"), ("scale", "offset"), scaling_of(model), strict=False
        ):
            of_channels = number[:, None, None] if layout == "nchw" else number
            factor = builder.constant(f"input.{name}", of_channels)
            source = builder.add(operator, f"input.{operator}", source, factor)
    if layout == "nhwc":
        source = builder.add("Transpose", "input.nchw", source, perm=[0, 3, 1, 2])
    builder.values[0] = source
    program.emit(EMITTERS, "ONNX", builder)
    result = builder.values[program.graph.output]
    if softmax:
        operator = {"softmax": "Softmax", "sigmoid": "Sigmoid"}[model.probabilities]
        axis = {"axis": 1} if operator == "Softmax" else {}
        result = builder.add(operator, f"{result}.probabilities", result, **axis)
    dtype = getattr(types, kind.replace("float32", "float").upper())
    graph = helper.make_graph(
        builder.nodes,
        program.network.name or "network",
        [helper.make_tensor_value_info("input", dtype, ["N", *sizes])],
        [helper.make_tensor_value_info(result, types.FLOAT, ["N", program.network.outputs])],
        builder.initializers,
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", builder.opset)],
        ir_version=_IR,
        producer_name="minicnn",
        producer_version=__version__,
    )
    helper.set_model_props(made, {"minicnn": json.dumps(_metadata(model, preprocess, softmax))})
    return made


def onnx_package() -> Any:
    """The package onnx; raises `MissingExtraError` where it is not installed."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise MissingExtraError("ONNX", "the package onnx", "onnx") from None
    return onnx


def _metadata(model: Model, preprocess: bool, softmax: bool) -> dict[str, Any]:
    return {
        "classes": model.classes,
        "labels": model.labels,
        "maximum": model.maximum,
        "image_dtype": model.image_dtype,
        "seen": model.seen,
        "normalization": model.normalization,
        "task": model.task,
        "probabilities": model.probabilities,
        "preprocess": preprocess,
        "softmax": softmax,
    }


class _Builder:
    """The nodes and initializers as they grow, and the names of the graph's values."""

    def __init__(self, helper: Any, program: Program):
        self.helper, self.program = helper, program
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.values: dict[int, str] = {}
        self.opset = _OPSET

    def add(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Add a node that is named as its output."""
        node = self.helper.make_node(operator, inputs, [output], output, **attributes)
        self.nodes.append(node)
        self.opset = max(self.opset, _SINCE.get(operator, 0))
        return output

    def constant(self, name: str, array: Any) -> str:
        """Add a tensor."""
        made = onnx_package().numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.initializers.append(made)
        return name

    def reads(self, op: Exported) -> list[str]:
        """The names of what ``op`` reads."""
        return [self.values[value] for value in op.node.inputs]

    def tensors(self, op: Exported, **changed: Any) -> list[str]:
        """Add the tensors of the layer, with those that are ``changed`` in their place."""
        arrays = {**op.tensors, **changed}
        return [self.constant(f"{op.layer}.{kind}", array) for kind, array in arrays.items()]

    def write(self, op: Exported, operator: str, *inputs: str, **attributes: Any) -> None:
        """Add the node that writes the output of ``op``."""
        name = self.program.value(op.node.output)
        self.values[op.node.output] = self.add(operator, name, *inputs, **attributes)


Emitter = Callable[[_Builder, Exported], None]


def _elementwise(operator: str, **attributes: Any) -> Emitter:
    """An operator with these attributes."""
    return lambda to, op: to.write(op, operator, *to.reads(op), **attributes)


def _with_number(operator: str) -> Emitter:
    """An operator whose ``alpha`` is the number of the operation."""
    return lambda to, op: to.write(op, operator, *to.reads(op), alpha=op.number)


def _window(op: Exported) -> dict[str, list[int]]:
    return {"kernel_shape": op.kernel, "strides": op.stride}


def _conv2d(to: _Builder, op: Exported) -> None:
    tensors = to.tensors(op, weight=op.tensors["weight"].transpose(3, 2, 0, 1))
    how = {"dilations": op.dilation, "pads": op.pads, "group": op.groups}
    to.write(op, "Conv", *to.reads(op), *tensors, **_window(op), **how)


def _dense(to: _Builder, op: Exported) -> None:
    weight = op.tensors["weight"]
    for before in to.program.operations:
        if before.node.output == op.node.inputs[0] and _channels_first(to.program, before):
            image = weight.reshape(*before.input_shapes[0], -1)
            weight = image.transpose(2, 0, 1, 3).reshape(weight.shape)
    to.write(op, "Gemm", *to.reads(op), *to.tensors(op, weight=weight))


def _channels_first(program: Program, op: Exported) -> bool:
    """Whether the output of ``op`` is a row in ONNX's order: that of an image flattened, which
    dense layers read alone."""
    row = op.node.output
    readers = {one.operation for one in program.graph.nodes if row in one.inputs}
    is_flattened = op.node.operation == "flatten" and op.is_image
    return is_flattened and readers == {"dense"} and program.graph.output != row


def _flatten(to: _Builder, op: Exported) -> None:
    inputs = to.reads(op)
    if op.is_image and not _channels_first(to.program, op):
        inputs = [to.add("Transpose", f"{op.layer}.nhwc", *inputs, perm=[0, 2, 3, 1])]
    to.write(op, "Flatten", *inputs, axis=1)


def _pad(to: _Builder, op: Exported, pads: Sequence[int], value: float) -> str:
    """The operation's input with a border of ``value``."""
    top, left, bottom, right = pads
    sizes = to.constant(f"{op.layer}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
    border = to.constant(f"{op.layer}.border", np.float32(value))
    return to.add("Pad", f"{op.layer}.padded", *to.reads(op), sizes, border)


def _max_pool2d(to: _Builder, op: Exported) -> None:
    pads, inputs = op.pads, to.reads(op)
    if any(size >= op.kernel[i % 2] for i, size in enumerate(pads)):  # which runtimes refuse
        inputs, pads = [_pad(to, op, pads, -np.inf)], [0] * 4
    to.write(op, "MaxPool", *inputs, **_window(op), dilations=op.dilation, pads=pads)


def _avg_pool2d(to: _Builder, op: Exported) -> None:
    """Where windows reach beyond the padding (`ceil_mode`), which counts, the padding is a node of
    its own, and what is beyond is padding that does not count."""
    pads, inputs, counted = op.pads, to.reads(op), int(op.node.fields["a0"])
    top, left, bottom, right = pads
    if counted and op.node.fields["a1"] and (bottom > top or right > left):
        inputs = [_pad(to, op, [top, left, top, left], 0.0)]
        pads, counted = [0, 0, max(0, bottom - top), max(0, right - left)], 0
    to.write(op, "AveragePool", *inputs, **_window(op), pads=pads, count_include_pad=counted)


def _global_pool(operator: str) -> Emitter:
    def emit(to: _Builder, op: Exported) -> None:
        pooled = to.add(operator, f"{op.layer}.pooled", *to.reads(op))
        to.write(op, "Flatten", pooled, axis=1)
        to.nodes[-2].name, to.nodes[-1].name = op.layer, f"{op.layer}.row"

    return emit


def _multiply(to: _Builder, op: Exported) -> None:
    first, second = to.reads(op)
    if [len(shape) for shape in op.input_shapes] == [3, 1]:
        axes = to.constant(f"{op.layer}.axes", np.array([2, 3]))
        second = to.add("Unsqueeze", f"{op.layer}.gate", second, axes)
    to.write(op, "Mul", first, second)


def _by_channel(op: Exported) -> dict[str, np.ndarray]:
    """The tensors [C] of the operation, [C, 1, 1] where it reads an image."""
    shape = (-1, 1, 1) if op.is_image else (-1,)
    return {kind: tensor.reshape(shape) for kind, tensor in op.tensors.items()}


def _prelu(to: _Builder, op: Exported) -> None:
    to.write(op, "PRelu", *to.reads(op), *to.tensors(op, **_by_channel(op)))


def _relu6(to: _Builder, op: Exported) -> None:
    limits = to.tensors(op, low=np.float32(0), high=np.float32(6))
    to.write(op, "Clip", *to.reads(op), *limits)


def _silu(to: _Builder, op: Exported) -> None:
    (x,) = to.reads(op)
    to.write(op, "Mul", x, to.add("Sigmoid", f"{op.layer}.sigmoid", x))


def _scale_shift(to: _Builder, op: Exported) -> None:
    to.write(op, "BatchNormalization", *to.reads(op), *to.tensors(op), epsilon=op.number)


def _group_norm(to: _Builder, op: Exported) -> None:
    """Each group as one channel of instance normalization, then scale and shift."""
    layer, (*sides, channels) = op.layer, op.output_shape
    together = to.constant(f"{layer}.groups", np.array([0, op.groups, -1]))
    apart = to.constant(f"{layer}.shape", np.array([0, channels, *sides]))
    ones = to.constant(f"{layer}.ones", np.ones(op.groups, np.float32))
    zeros = to.constant(f"{layer}.zeros", np.zeros(op.groups, np.float32))
    x = to.add("Reshape", f"{layer}.grouped", *to.reads(op), together)
    x = to.add("InstanceNormalization", f"{layer}.normal", x, ones, zeros, epsilon=op.number)
    x = to.add("Reshape", f"{layer}.ungrouped", x, apart)
    weight, bias = to.tensors(op, **_by_channel(op))
    to.write(op, "Add", to.add("Mul", f"{layer}.scaled", x, weight), bias)


def _layer_norm(to: _Builder, op: Exported) -> None:
    order = (2, 0, 1) if op.is_image else (0,)
    moved = {kind: tensor.transpose(order) for kind, tensor in op.tensors.items()}
    tensors = to.tensors(op, **moved)
    to.write(op, "LayerNormalization", *to.reads(op), *tensors, axis=1, epsilon=op.number)


EMITTERS: dict[str, Emitter] = {
    **dict.fromkeys(("conv2d", "grouped_conv2d", "depthwise_conv2d"), _conv2d),
    "dense": _dense,
    "max_pool2d": _max_pool2d,
    "global_max_pool2d": _global_pool("GlobalMaxPool"),
    "avg_pool2d": _avg_pool2d,
    "global_avg_pool2d": _global_pool("GlobalAveragePool"),
    "flatten": _flatten,
    "add": _elementwise("Add"),
    "concat": _elementwise("Concat", axis=1),
    "multiply": _multiply,
    "scale_shift": _scale_shift,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "relu": _elementwise("Relu"),
    "relu6": _relu6,
    "leaky_relu": _with_number("LeakyRelu"),
    "prelu": _prelu,
    "elu": _with_number("Elu"),
    "sigmoid": _elementwise("Sigmoid"),
    "hard_sigmoid": _elementwise("HardSigmoid", alpha=1 / 6, beta=0.5),
    "tanh": _elementwise("Tanh"),
    "silu": _silu,
    "hard_swish": _elementwise("HardSwish"),
    "mish": _elementwise("Mish"),
    "softplus": _elementwise("Softplus"),
    "gelu": _elementwise("Gelu"),
    "gelu_tanh": _elementwise("Gelu", approximate="tanh"),
    "softmax": _elementwise("Softmax", axis=1),
}
