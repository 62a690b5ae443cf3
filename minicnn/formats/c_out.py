"""A model as one C99 file without dependencies but the C library's mathematics."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minicnn.errors import DataError
from minicnn.formats.numpy_out import counted_pads
from minicnn.formats.program import Program, pads_of, pair, program_of, scaling_of
from minicnn.inference import Model
from minicnn.program.graph import Node
from minicnn.storage import write_atomically

_TYPES = {"uint8": "unsigned char", "uint16": "unsigned short", "float32": "float"}
_FILE = """\
/* {title}: predict() writes {outputs} {what} of one image [{height}, {width}, {channels}]{kind}.
   Classes: {classes}.
   C99 with -lm; no allocation, and for one thread at a time. */

#include <math.h>

void predict(const {type} *image, float *output);

{functions}

{weights}

{buffers}

void predict(const {type} *image, float *output)
{{
{lines}
}}
"""


def write_c(model: Model, path: Path, preprocess: bool = False, softmax: bool = False) -> int:
    """Write the model to ``path``, whole or not at all; return its size in bytes.

    ``predict(image, output)`` takes one image as the network takes it, with ``preprocess`` as it is
    stored. Raises `NetworkError` for a layer without an emitter, `MinicnnError` where the file
    cannot be written.
    """
    content = source(model, preprocess, softmax).encode()
    write_atomically(path, content)
    return len(content)


def source(model: Model, preprocess: bool = False, softmax: bool = False) -> str:
    """The C file."""
    if softmax and model.task == "regression":
        raise DataError("the model predicts values, which have no probabilities")
    program = program_of(model)
    sizes = {value: math.prod(shape) for value, shape in program.graph.shapes.items()}
    places, buffers = _buffers(program, sizes)
    lines = []
    if preprocess:
        lines.append(f"for (int i = 0; i < {sizes[0]}; i++)")
        value = "(float)image[i]"
        for name, sign, numbers in zip(("factor", "offset"), "*+", scaling_of(model), strict=False):
            text = ", ".join(map(_number, numbers.tolist()))
            buffers.append(f"static const float {name}[{len(numbers)}] = {{{text}}};")
            value += f" {sign} {name}[i % {len(numbers)}]"
        lines.append(f"    scaled[i] = {value};")
        places[0] = "scaled"
        buffers.append(f"static float scaled[{sizes[0]}];")
    lines += program.emit(EMITTERS, "C", places, sizes)
    result, count = places[program.graph.output], program.network.outputs
    if softmax and model.probabilities == "softmax":
        lines.append(f"softmax({result}, output, {count});")
    elif softmax:
        lines.append(_each("sigmoid", result, "output", count))
    else:
        lines.append(f"copy({result}, output, {count});")
    height, width, channels = program.network.input_shape
    return _FILE.format(
        title=_plain(program.network.name),
        outputs=count,
        what="probabilities" if softmax else "logits",
        height=height,
        width=width,
        channels=channels,
        kind=f" from 0 to {model.maximum:g}" if preprocess else "",
        classes=_plain(", ".join(model.classes)),
        type=_TYPES[model.image_dtype] if preprocess else "float",
        functions=_functions("\n".join(lines)),
        weights="\n".join(_arrays(program)),
        buffers="\n".join(buffers),
        lines="\n".join(f"    {line}" for line in lines),
    )


def _plain(text: str) -> str:
    """``text`` with nothing that means something in a comment."""
    return re.sub(r"[^ \w.,()-]", "_", text)


def _number(value: float) -> str:
    return f"{value:.8e}f"  # nine digits: the same float32


def _functions(text: str) -> str:
    """The functions of ``c_layers.c`` that ``text`` calls, and those call, in their order."""
    blocks = Path(__file__).with_name("c_layers.c").read_text(encoding="utf-8").split("\n\n")[1:]
    names = [re.findall(r"^static \w+ (\w+)\(", block, re.MULTILINE)[0] for block in blocks]
    wanted: set[str] = set()
    for name, block in zip(reversed(names), reversed(blocks), strict=True):
        if re.search(rf"\b{name}\(", text):
            wanted.add(name)
            text += block
    return "\n\n".join(
        block.strip() for name, block in zip(names, blocks, strict=True) if name in wanted
    )


def _buffers(program: Program, sizes: dict[int, int]) -> tuple[dict[int, str], list[str]]:
    """Where each value lies, and the declarations: a place is free after the last reader."""
    last = {value: i for i, node in enumerate(program.graph.nodes) for value in node.inputs}
    last[program.graph.output] = len(program.graph.nodes)
    places, free, room = {0: "image"}, list[str](), dict[str, int]()
    for i, node in enumerate(program.graph.nodes):
        place = free.pop() if free else f"buffer{len(room)}"
        places[node.output] = place
        room[place] = max(room.get(place, 0), sizes[node.output])
        free += [places[value] for value in {*node.inputs} if last[value] == i and value]
    return places, [f"static float {place}[{size}];" for place, size in room.items()]


def _array(program: Program, node: Node, kind: str) -> str:
    """The C name of a tensor."""
    return f"{re.sub(r'[^0-9A-Za-z]', '_', program.layer(node))}_{node.layers[-1]}_{kind}"


def _arrays(program: Program) -> list[str]:
    """The tensors of all nodes; a convolution or dense layer without bias has zeros."""
    lines = []
    for node in program.graph.nodes:
        kinds = ("weight", "bias", "running_mean", "running_var")
        found = {kind: program.tensor(node, kind) for kind in kinds}
        weight = found["weight"]
        if weight is not None and found["bias"] is None and node.operation != "prelu":
            found["bias"] = np.zeros(weight.shape[-1], np.float32)
        for kind, array in found.items():
            if array is not None:
                numbers = ", ".join(map(_number, array.ravel().tolist()))
                name = f"{_array(program, node, kind)}[{array.size}]"
                lines.append(f"static const float {name} = {{{numbers}}};")
    return lines


Emitter = Callable[[dict[int, str], dict[int, int], Program, Node], str]


def _call(
    function: str, *kinds: str, numbers: Callable[[Program, Node], list[object]] | None = None
) -> Emitter:
    """``function`` of what the node reads and writes, its tensors ``kinds``, and ``numbers``."""

    def emit(places: dict[int, str], sizes: dict[int, int], program: Program, node: Node) -> str:
        values: list[object] = [places[value] for value in (*node.inputs, node.output)]
        values += [_array(program, node, kind) for kind in kinds]
        values += numbers(program, node) if numbers else [sizes[node.output]]
        return f"{function}({', '.join(map(str, values))});"

    return emit


def _activation(function: str) -> Emitter:
    def emit(places: dict[int, str], sizes: dict[int, int], program: Program, node: Node) -> str:
        f0 = [_number(node.fields["f0"])] if "f0" in node.fields else []
        return _each(function, places[node.inputs[0]], places[node.output], sizes[node.output], *f0)

    return emit


def _each(function: str, x: str, y: str, count: int, *more: str) -> str:
    value = f"{function}({', '.join([f'{x}[i]', *more])})"
    return f"for (int i = 0; i < {count}; i++)\n        {y}[i] = {value};"


def _sides(program: Program, node: Node) -> list[object]:
    """H, W, C, P, Q of a window operation."""
    shapes = program.graph.shapes
    outputs = shapes[node.output]
    return [*shapes[node.inputs[0]], *(outputs[:2] if len(outputs) == 3 else (1, 1))]


def _conv(program: Program, node: Node) -> list[object]:
    filters = program.graph.shapes[node.output][2]
    first = [*_sides(program, node), filters, *pair(node, "kernel"), *pair(node, "stride")]
    groups = int(node.fields["groups"])
    return [*first, *pads_of(program, node)[:2], *pair(node, "dilation"), groups]


def _pool(program: Program, node: Node) -> list[object]:
    kernel, stride = pair(node, "kernel"), pair(node, "stride")
    return [*_sides(program, node), *kernel, *stride, *pads_of(program, node)[:2]]


def _whole(program: Program, node: Node) -> list[object]:
    height, width, _ = program.graph.shapes[node.inputs[0]]
    return [*_sides(program, node), height, width, 1, 1, 0, 0]


def _count(program: Program, node: Node) -> int:
    return math.prod(program.graph.shapes[node.inputs[0]])


def _channels(program: Program, node: Node) -> int:
    return program.graph.shapes[node.inputs[0]][-1]


def _dense(program: Program, node: Node) -> list[object]:
    return [_count(program, node), program.graph.shapes[node.output][0]]


def _concat(program: Program, node: Node) -> list[object]:
    first, second = (program.graph.shapes[value][-1] for value in node.inputs)
    return [_count(program, node) // first, first, second]


def _multiply(program: Program, node: Node) -> list[object]:
    return [_count(program, node), math.prod(program.graph.shapes[node.inputs[1]])]


def _by_channel(program: Program, node: Node) -> list[object]:
    return [_count(program, node), _channels(program, node)]


def _scale_shift(program: Program, node: Node) -> list[object]:
    return [*_by_channel(program, node), _number(node.fields["f0"])]


def _group_norm(program: Program, node: Node) -> list[object]:
    count, channels = _count(program, node), _channels(program, node)
    return [count, channels, int(node.fields["groups"]), channels, _number(node.fields["f0"])]


def _layer_norm(program: Program, node: Node) -> list[object]:
    count = _count(program, node)
    return [count, count, 1, count, _number(node.fields["f0"])]


_ELEMENTWISE = (
    *("relu", "relu6", "leaky_relu", "elu", "sigmoid", "hard_sigmoid"),
    *("silu", "hard_swish", "mish", "softplus", "gelu", "gelu_tanh"),
)
EMITTERS: dict[str, Emitter] = {
    **dict.fromkeys(
        ("conv2d", "grouped_conv2d", "depthwise_conv2d"),
        _call("conv2d", "weight", "bias", numbers=_conv),
    ),
    "dense": _call("dense", "weight", "bias", numbers=_dense),
    "max_pool2d": _call(
        "max_pool2d",
        numbers=lambda program, node: [*_pool(program, node), *pair(node, "dilation")],
    ),
    "global_max_pool2d": _call(
        "max_pool2d", numbers=lambda program, node: [*_whole(program, node), 1, 1]
    ),
    "avg_pool2d": _call(
        "avg_pool2d",
        numbers=lambda program, node: [*_pool(program, node), *counted_pads(program, node)],
    ),
    "global_avg_pool2d": _call(
        "avg_pool2d", numbers=lambda program, node: [*_whole(program, node), 0, 0, 0, 0]
    ),
    "flatten": _call("copy"),
    "add": _call("add"),
    "concat": _call("concat", numbers=_concat),
    "multiply": _call("multiply", numbers=_multiply),
    "scale_shift": _call(
        "scale_shift", "weight", "bias", "running_mean", "running_var", numbers=_scale_shift
    ),
    "group_norm": _call("group_norm", "weight", "bias", numbers=_group_norm),
    "layer_norm": _call("group_norm", "weight", "bias", numbers=_layer_norm),
    **{name: _activation(name) for name in _ELEMENTWISE},
    "tanh": _activation("hyperbolic"),
    "prelu": _call("prelu", "weight", numbers=_by_channel),
    "softmax": _call("softmax"),
}
