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
from minicnn.errors import DataError, MissingExtraError, SettingError
from minicnn.formats.program import Program, pads_of, pair, program_of, scaling_of
from minicnn.inference import Model
from minicnn.program.graph import Node

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
    if softmax and model.task == "regression":
        raise DataError("the model predicts values, which have no probabilities")
    helper = onnx_package().helper
    types = onnx_package().TensorProto
    program = program_of(model, training)
    height, width, channels = program.network.input_shape
    sizes = [channels, height, width] if layout == "nchw" else [height, width, channels]
    kind = model.image_dtype if preprocess else "float32"
    builder = _Builder(helper)
    source = "input"
    if preprocess:
        if kind != "float32":
            source = builder.add("Cast", "input.float32", [source], to=types.FLOAT)
        for operator, name, number in zip(
            ("Mul", "Add"), ("scale", "offset"), scaling_of(model), strict=False
        ):
            of_channels = number[:, None, None] if layout == "nchw" else number
            factor = builder.constant(f"input.{name}", of_channels)
            source = builder.add(operator, f"input.{operator}", [source, factor])
    if layout == "nhwc":
        source = builder.add("Transpose", "input.nchw", [source], perm=[0, 3, 1, 2])
    builder.values[0] = source
    program.emit(EMITTERS, "ONNX", builder)
    result = builder.values[program.graph.output]
    if softmax:
        operator = {"softmax": "Softmax", "sigmoid": "Sigmoid"}[model.probabilities]
        axis = {"axis": 1} if operator == "Softmax" else {}
        result = builder.add(operator, f"{result}.probabilities", [result], **axis)
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

    def __init__(self, helper: Any):
        self.helper = helper
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.values: dict[int, str] = {}
        self.opset = _OPSET

    def add(self, operator: str, output: str, inputs: Sequence[str], **attributes: Any) -> str:
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

    def reads(self, node: Node) -> list[str]:
        """The names of what ``node`` reads."""
        return [self.values[value] for value in node.inputs]

    def tensors(self, program: Program, node: Node, **arrays: Any) -> list[str]:
        """Add those of ``arrays`` that are not None, as tensors of the node's layer."""
        layer = program.layer(node)
        return [
            self.constant(f"{layer}.{kind}", array)
            for kind, array in arrays.items()
            if array is not None
        ]

    def write(
        self, program: Program, node: Node, operator: str, inputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add the node that writes the output of ``node``."""
        name = program.value(node.output)
        self.values[node.output] = self.add(operator, name, inputs, **attributes)


def _elementwise(operator: str, **fields: str | float) -> Callable[..., None]:
    """An operator whose attributes are ``fields``: numbers, or fields of the node's by name."""

    def emit(to: _Builder, program: Program, node: Node) -> None:
        given = {
            name: node.fields[value] if isinstance(value, str) and value in node.fields else value
            for name, value in fields.items()
        }
        to.write(program, node, operator, to.reads(node), **given)

    return emit


def _conv2d(to: _Builder, program: Program, node: Node) -> None:
    weight = program.tensor(node, "weight")
    assert weight is not None
    tensors = to.tensors(
        program, node, weight=weight.transpose(3, 2, 0, 1), bias=program.tensor(node, "bias")
    )
    to.write(
        program,
        node,
        "Conv",
        [*to.reads(node), *tensors],
        kernel_shape=pair(node, "kernel"),
        strides=pair(node, "stride"),
        dilations=pair(node, "dilation"),
        pads=pads_of(program, node),
        group=int(node.fields["groups"]),
    )


def _dense(to: _Builder, program: Program, node: Node) -> None:
    weight = program.tensor(node, "weight")
    assert weight is not None
    before = next((one for one in program.graph.nodes if one.output == node.inputs[0]), None)
    if before is not None and before.operation == "flatten" and _channels_first(program, before):
        shape = program.graph.shapes[before.inputs[0]]
        weight = weight.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
    tensors = to.tensors(program, node, weight=weight, bias=program.tensor(node, "bias"))
    to.write(program, node, "Gemm", [*to.reads(node), *tensors])


def _channels_first(program: Program, flatten: Node) -> bool:
    """Whether the row of ``flatten`` is in ONNX's order: an image's, and dense layers read it
    alone."""
    readers = [one.operation for one in program.graph.nodes if flatten.output in one.inputs]
    image = len(program.graph.shapes[flatten.inputs[0]]) == 3
    return image and set(readers) == {"dense"} and program.graph.output != flatten.output


def _flatten(to: _Builder, program: Program, node: Node) -> None:
    inputs = to.reads(node)
    image = len(program.graph.shapes[node.inputs[0]]) == 3
    if image and not _channels_first(program, node):
        name = f"{program.layer(node)}.nhwc"
        inputs = [to.add("Transpose", name, inputs, perm=[0, 2, 3, 1])]
    to.write(program, node, "Flatten", inputs, axis=1)


def _pads_inside(pads: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether runtimes take these pads of a pooling: less than the kernel."""
    return all(size < kernel[i % 2] for i, size in enumerate(pads))


def _pad(
    to: _Builder, program: Program, node: Node, pads: Sequence[int], value: float
) -> list[str]:
    """The node's input with a border of ``value``."""
    layer = program.layer(node)
    top, left, bottom, right = pads
    sizes = np.array([0, 0, top, left, 0, 0, bottom, right])
    inputs = [
        *to.reads(node),
        to.constant(f"{layer}.pads", sizes),
        to.constant(f"{layer}.border", np.float32(value)),
    ]
    return [to.add("Pad", f"{layer}.padded", inputs)]


def _max_pool2d(to: _Builder, program: Program, node: Node) -> None:
    pads, kernel, inputs = pads_of(program, node), pair(node, "kernel"), to.reads(node)
    if not _pads_inside(pads, kernel):
        inputs, pads = _pad(to, program, node, pads, -np.inf), [0] * 4
    to.write(
        program,
        node,
        "MaxPool",
        inputs,
        kernel_shape=kernel,
        strides=pair(node, "stride"),
        dilations=pair(node, "dilation"),
        pads=pads,
    )


def _avg_pool2d(to: _Builder, program: Program, node: Node) -> None:
    """Where windows reach beyond the padding (`ceil_mode`), which counts, the padding is a node of
    its own, and what is beyond is padding that does not count."""
    pads, inputs, counted = pads_of(program, node), to.reads(node), int(node.fields["a0"])
    top, left, bottom, right = pads
    if counted and node.fields["a1"] and (bottom > top or right > left):
        inputs = _pad(to, program, node, [top, left, top, left], 0.0)
        pads, counted = [0, 0, max(0, bottom - top), max(0, right - left)], 0
    to.write(
        program,
        node,
        "AveragePool",
        inputs,
        kernel_shape=pair(node, "kernel"),
        strides=pair(node, "stride"),
        pads=pads,
        count_include_pad=counted,
    )


def _global_pool(operator: str) -> Callable[..., None]:
    def emit(to: _Builder, program: Program, node: Node) -> None:
        layer = program.layer(node)
        pooled = to.add(operator, f"{layer}.pooled", to.reads(node))
        to.write(program, node, "Flatten", [pooled], axis=1)
        to.nodes[-2].name, to.nodes[-1].name = layer, f"{layer}.row"

    return emit


def _multiply(to: _Builder, program: Program, node: Node) -> None:
    first, second = to.reads(node)
    ranks = [len(program.graph.shapes[value]) for value in node.inputs]
    if ranks == [3, 1]:
        axes = to.constant(f"{program.layer(node)}.axes", np.array([2, 3]))
        second = to.add("Unsqueeze", f"{program.layer(node)}.gate", [second, axes])
    to.write(program, node, "Mul", [first, second])


def _by_channel(program: Program, node: Node, kind: str) -> np.ndarray:
    """A tensor [C] of the node's layer, [C, 1, 1] where it reads an image."""
    tensor = program.tensor(node, kind)
    assert tensor is not None
    return tensor.reshape(-1, 1, 1) if len(program.graph.shapes[node.inputs[0]]) == 3 else tensor


def _prelu(to: _Builder, program: Program, node: Node) -> None:
    tensors = to.tensors(program, node, weight=_by_channel(program, node, "weight"))
    to.write(program, node, "PRelu", [*to.reads(node), *tensors])


def _relu6(to: _Builder, program: Program, node: Node) -> None:
    limits = to.tensors(program, node, low=np.float32(0), high=np.float32(6))
    to.write(program, node, "Clip", [*to.reads(node), *limits])


def _silu(to: _Builder, program: Program, node: Node) -> None:
    (x,) = to.reads(node)
    gate = to.add("Sigmoid", f"{program.layer(node)}.sigmoid", [x])
    to.write(program, node, "Mul", [x, gate])


def _scale_shift(to: _Builder, program: Program, node: Node) -> None:
    kinds = ("weight", "bias", "running_mean", "running_var")
    tensors = to.tensors(program, node, **{kind: program.tensor(node, kind) for kind in kinds})
    inputs = [*to.reads(node), *tensors]
    to.write(program, node, "BatchNormalization", inputs, epsilon=node.fields["f0"])


def _group_norm(to: _Builder, program: Program, node: Node) -> None:
    """Each group as one channel of instance normalization, then scale and shift."""
    layer, groups = program.layer(node), int(node.fields["groups"])
    height_width_channels = program.graph.shapes[node.output]
    together = to.constant(f"{layer}.groups", np.array([0, groups, -1]))
    apart = to.constant(
        f"{layer}.shape", np.array([0, height_width_channels[-1], *height_width_channels[:-1]])
    )
    ones = to.constant(f"{layer}.ones", np.ones(groups, np.float32))
    zeros = to.constant(f"{layer}.zeros", np.zeros(groups, np.float32))
    x = to.add("Reshape", f"{layer}.grouped", [*to.reads(node), together])
    x = to.add(
        "InstanceNormalization",
        f"{layer}.normal",
        [x, ones, zeros],
        epsilon=node.fields["f0"],
    )
    x = to.add("Reshape", f"{layer}.ungrouped", [x, apart])
    weight, bias = to.tensors(
        program, node, **{kind: _by_channel(program, node, kind) for kind in ("weight", "bias")}
    )
    x = to.add("Mul", f"{layer}.scaled", [x, weight])
    to.write(program, node, "Add", [x, bias])


def _layer_norm(to: _Builder, program: Program, node: Node) -> None:
    kinds = ("weight", "bias")
    found = {kind: program.tensor(node, kind) for kind in kinds}
    order = (2, 0, 1) if len(program.graph.shapes[node.output]) == 3 else (0,)
    moved = {kind: array.transpose(order) for kind, array in found.items() if array is not None}
    inputs = [*to.reads(node), *to.tensors(program, node, **moved)]
    to.write(program, node, "LayerNormalization", inputs, axis=1, epsilon=node.fields["f0"])


EMITTERS: dict[str, Callable[..., None]] = {
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
    "leaky_relu": _elementwise("LeakyRelu", alpha="f0"),
    "prelu": _prelu,
    "elu": _elementwise("Elu", alpha="f0"),
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
