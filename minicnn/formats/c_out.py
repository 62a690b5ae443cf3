"""A model as one C99 file without dependencies but the C library's mathematics."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.formats.program import Exported, Program, program_of, scaling_of
from minicnn.inference import Model
from minicnn.storage import as_path, write_atomically

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


def write_c(model: Model, path: str | Path, preprocess: bool = False, softmax: bool = False) -> int:
    """Write the model to ``path``, whole or not at all; return its size in bytes.

    ``predict(image, output)`` takes one image as the network takes it, with ``preprocess`` as it is
    stored. Raises `NetworkError` for a layer without an emitter, `MinicnnError` where the file
    cannot be written.
    """
    path = as_path("path", path)
    content = source(model, preprocess, softmax).encode()
    write_atomically(path, content)
    return len(content)


def source(model: Model, preprocess: bool = False, softmax: bool = False) -> str:
    """The C file."""
    program = program_of(model, softmax)
    numbers_in = math.prod(program.network.input_shape)
    places, buffers = _buffers(program)
    lines = []
    if preprocess:
        lines.append(f"for (int i = 0; i < {numbers_in}; i++)")
        value = "(float)image[i]"
        for name, sign, numbers in zip(("factor", "offset"), "*+", scaling_of(model), strict=False):
            text = ", ".join(map(_number, numbers.tolist()))
            buffers.append(f"static const float {name}[{len(numbers)}] = {{{text}}};")
            value += f" {sign} {name}[i % {len(numbers)}]"
        lines.append(f"    scaled[i] = {value};")
        places[0] = "scaled"
        buffers.append(f"static float scaled[{numbers_in}];")
    lines += program.emit(EMITTERS, "C", places)
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
    """``text`` made safe for a C comment."""
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


def _buffers(program: Program) -> tuple[dict[int, str], list[str]]:
    """Where each value lies, and the declarations: a place is free after the last reader."""
    last = {value: i for i, node in enumerate(program.graph.nodes) for value in node.inputs}
    last[program.graph.output] = len(program.graph.nodes)
    places, free, room = {0: "image"}, list[str](), dict[str, int]()
    for i, op in enumerate(program.operations):
        place = free.pop() if free else f"buffer{len(room)}"
        places[op.node.output] = place
        room[place] = max(room.get(place, 0), math.prod(op.output_shape))
        free += [places[value] for value in {*op.node.inputs} if last[value] == i and value]
    return places, [f"static float {place}[{size}];" for place, size in room.items()]


def _array(op: Exported, kind: str) -> str:
    """The C name of a tensor."""
    return f"{re.sub(r'[^0-9A-Za-z]', '_', op.layer)}_{op.node.layers[-1]}_{kind}"


def _arrays(program: Program) -> list[str]:
    """The tensors of all operations; a convolution or dense layer without bias has zeros."""
    lines = []
    for op in program.operations:
        found = dict(op.tensors)
        if "weight" in found and op.node.operation != "prelu":
            found.setdefault("bias", np.zeros(found["weight"].shape[-1], np.float32))
        for kind, array in found.items():
            numbers = ", ".join(map(_number, array.ravel().tolist()))
            lines.append(f"static const float {_array(op, kind)}[{array.size}] = {{{numbers}}};")
    return lines


Emitter = Callable[[dict[int, str], Exported], str]


def _call(function: str, numbers: Callable[[Exported], list[Any]], *kinds: str) -> Emitter:
    """``function`` of what the operation reads and writes, its tensors ``kinds``, and
    ``numbers``."""

    def emit(places: dict[int, str], op: Exported) -> str:
        values = [places[value] for value in (*op.node.inputs, op.node.output)]
        values += [_array(op, kind) for kind in kinds]
        return f"{function}({', '.join(map(str, values + numbers(op)))});"

    return emit


def _activation(function: str) -> Emitter:
    def emit(places: dict[int, str], op: Exported) -> str:
        number = [_number(op.number)] if "f0" in op.node.fields else []
        (x,), y = op.node.inputs, op.node.output
        return _each(function, places[x], places[y], math.prod(op.output_shape), *number)

    return emit


def _each(function: str, x: str, y: str, count: int, *more: str) -> str:
    value = f"{function}({', '.join([f'{x}[i]', *more])})"
    return f"for (int i = 0; i < {count}; i++)\n        {y}[i] = {value};"


def _outputs(op: Exported) -> list[Any]:
    return [math.prod(op.output_shape)]


def _inputs(op: Exported) -> int:
    return math.prod(op.input_shapes[0])


def _by_channel(op: Exported) -> list[Any]:
    """All numbers, and the channels of the first input."""
    return [_inputs(op), op.input_shapes[0][-1]]


def _sides(op: Exported) -> list[Any]:
    """H, W, C, P, Q of a window operation."""
    return [*op.input_shapes[0], *op.output_shape[:2]]


def _conv(op: Exported) -> list[Any]:
    first = [*_sides(op), op.output_shape[2], *op.kernel, *op.stride, *op.pads[:2]]
    return [*first, *op.dilation, op.groups]


def _pool(op: Exported) -> list[Any]:
    return [*_sides(op), *op.kernel, *op.stride, *op.pads[:2]]


def _whole(op: Exported) -> list[Any]:
    """The numbers of a pooling whose one window is the image."""
    height, width, channels = op.input_shapes[0]
    return [height, width, channels, 1, 1, height, width, 1, 1, 0, 0]


def _group_norm(op: Exported) -> list[Any]:
    channels = op.input_shapes[0][-1]
    return [_inputs(op), channels, op.groups, channels, _number(op.number)]


_ELEMENTWISE = (
    *("relu", "relu6", "leaky_relu", "elu", "sigmoid", "hard_sigmoid"),
    *("silu", "hard_swish", "mish", "softplus", "gelu", "gelu_tanh"),
)
EMITTERS: dict[str, Emitter] = {
    **dict.fromkeys(
        ("conv2d", "grouped_conv2d", "depthwise_conv2d"), _call("conv2d", _conv, "weight", "bias")
    ),
    "dense": _call("dense", lambda op: [_inputs(op), *op.output_shape], "weight", "bias"),
    "max_pool2d": _call("max_pool2d", lambda op: [*_pool(op), *op.dilation]),
    "global_max_pool2d": _call("max_pool2d", lambda op: [*_whole(op), 1, 1]),
    "avg_pool2d": _call("avg_pool2d", lambda op: [*_pool(op), *op.counted]),
    "global_avg_pool2d": _call("avg_pool2d", lambda op: [*_whole(op), 0, 0, 0, 0]),
    "flatten": _call("copy", _outputs),
    "add": _call("add", _outputs),
    "concat": _call(
        "concat",
        lambda op: [
            _inputs(op) // op.input_shapes[0][-1],
            *(shape[-1] for shape in op.input_shapes),
        ],
    ),
    "multiply": _call("multiply", lambda op: list(map(math.prod, op.input_shapes))),
    "scale_shift": _call(
        "scale_shift",
        lambda op: [*_by_channel(op), _number(op.number)],
        *("weight", "bias", "running_mean", "running_var"),
    ),
    "group_norm": _call("group_norm", _group_norm, "weight", "bias"),
    "layer_norm": _call(
        "group_norm",
        lambda op: [_inputs(op), _inputs(op), 1, _inputs(op), _number(op.number)],
        *("weight", "bias"),
    ),
    **{name: _activation(name) for name in _ELEMENTWISE},
    "tanh": _activation("hyperbolic"),
    "prelu": _call("prelu", _by_channel, "weight"),
    "softmax": _call("softmax", _outputs),
}
