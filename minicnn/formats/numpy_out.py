"""A model as a folder with its weights and one Python file of NumPy alone."""

import inspect
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.errors import MinicnnError, UsageError
from minicnn.formats import numpy_layers
from minicnn.formats.program import Exported, Program, program_of, scaling_of
from minicnn.inference import Model
from minicnn.storage import as_path, remove_leftovers

_FILE = '''\
"""{title}, in NumPy alone: predict(images) gives {what}, [N, {outputs}].

On the command line: python predict.py IMAGES.npy
"""

import math
import sys
from pathlib import Path

import numpy as np

CLASSES = {classes!r}
with np.load(Path(__file__).with_name("weights.npz")) as file:
    weights = dict(file)


{functions}


def predict(images):
    """{what} [N, {outputs}] of images [N, {height}, {width}, {channels}], {kind}."""
    input = np.asarray(images, np.float32){scale}
{lines}
    return {result}


if __name__ == "__main__":
    for row in predict(np.load(sys.argv[1])):
        print(CLASSES[row.argmax()], row)
'''


def write_numpy(
    model: Model, folder: str | Path, preprocess: bool = False, softmax: bool = False
) -> int:
    """Write ``predict.py`` and ``weights.npz`` into a new ``folder``; return their size in bytes.

    ``predict`` takes what the network takes, with ``preprocess`` images as they are stored. Raises
    `UsageError` if the folder is there, `NetworkError` for a layer without an emitter,
    `MinicnnError` where it cannot be written; nothing is left there then.
    """
    folder = as_path("folder", folder)
    if folder.exists():
        raise UsageError(f"{folder} is there; name a folder that is not")
    program = program_of(model, softmax)
    text = source(model, program, preprocess, softmax)
    remove_leftovers(folder.parent, f".{folder.name}.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir()
        (temporary / "predict.py").write_text(text, encoding="utf-8")
        tensors: dict[str, Any] = dict(program.tensors)
        np.savez(temporary / "weights.npz", **tensors)
        size = sum(path.stat().st_size for path in temporary.iterdir())
        temporary.rename(folder)
    except OSError as error:
        raise MinicnnError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return size


def source(model: Model, program: Program, preprocess: bool, softmax: bool) -> str:
    """The Python file."""
    lines = [f"    {line}" for line in program.emit(EMITTERS, "NumPy", program)]
    result = _name(program, program.graph.output)
    result = f"{model.probabilities}({result})" if softmax else result
    height, width, channels = program.network.input_shape
    return _FILE.format(
        title=repr(program.network.name)[1:-1].replace('"', "'"),
        what="probabilities" if softmax else "logits",
        outputs=program.network.outputs,
        classes=model.classes,
        functions=_functions("\n".join([*lines, result])),
        height=height,
        width=width,
        channels=channels,
        kind=f"{model.image_dtype} up to {model.maximum:g}" if preprocess else "as floats",
        scale="".join(
            f" {operator} np.array({number.tolist()}, np.float32)"
            for operator, number in zip("*+", scaling_of(model), strict=False)
        )
        if preprocess
        else "",
        lines="\n".join(lines),
        result=result,
    )


def _functions(text: str) -> str:
    """The text of the functions that ``text`` calls, and those call."""
    known = dict(inspect.getmembers(numpy_layers, inspect.isfunction))
    texts = {name: inspect.getsource(function) for name, function in known.items()}
    wanted: set[str] = set()
    while found := {name for name in re.findall(r"\b(\w+)\(", text) if name in texts} - wanted:
        wanted |= found
        text = "\n".join(texts[name] for name in found)
    return "\n\n".join(text for name, text in texts.items() if name in wanted).rstrip()


def _name(program: Program, value: int) -> str:
    """A Python name of a value."""
    name = re.sub(r"\W", "_", program.value(value))
    return "input" if value == 0 else f"y_{name}"


Emitter = Callable[[Program, Exported], str]


def _call(function: str, *kinds: str, **attributes: str) -> Emitter:
    """``function`` of what the operation reads, its tensors ``kinds``, and by keyword those of its
    attributes (`Exported`)."""

    def emit(program: Program, op: Exported) -> str:
        values = _reads(program, op)
        for kind in kinds:
            values.append(f'weights["{op.layer}.{kind}"]' if kind in op.tensors else "0.0")
        values += [f"{keyword}={getattr(op, name)!r}" for keyword, name in attributes.items()]
        return _assign(program, op, f"{function}({', '.join(values)})")

    return emit


def _formula(text: str) -> Emitter:
    """``text`` with x, x2 and the operation's number."""

    def emit(program: Program, op: Exported) -> str:
        names = _reads(program, op)
        number = op.number if "f0" in op.node.fields else None
        return _assign(program, op, text.format(x=names[0], x2=names[-1], number=number))

    return emit


def _reads(program: Program, op: Exported) -> list[str]:
    return [_name(program, value) for value in op.node.inputs]


def _assign(program: Program, op: Exported, value: str) -> str:
    return f"{_name(program, op.node.output)} = {value}"


_CONV = _call(
    *("conv2d", "weight", "bias"),
    stride="stride",
    pads="pads",
    dilation="dilation",
    groups="groups",
)
_POOL = {"kernel": "kernel", "stride": "stride", "pads": "pads"}
EMITTERS: dict[str, Emitter] = {
    **dict.fromkeys(("conv2d", "grouped_conv2d", "depthwise_conv2d"), _CONV),
    "dense": _call("dense", "weight", "bias"),
    "max_pool2d": _call("max_pool2d", **_POOL, dilation="dilation"),
    "global_max_pool2d": _call("global_max_pool2d"),
    "avg_pool2d": _call("avg_pool2d", **_POOL, counted="counted"),
    "global_avg_pool2d": _call("global_avg_pool2d"),
    "flatten": _call("flatten"),
    "add": _formula("{x} + {x2}"),
    "concat": _formula("np.concatenate([{x}, {x2}], axis=-1)"),
    "multiply": _call("multiply"),
    "scale_shift": _call(
        *("batch_norm", "weight", "bias", "running_mean", "running_var"), eps="number"
    ),
    "group_norm": _call("group_norm", "weight", "bias", groups="groups", eps="number"),
    "layer_norm": _call("layer_norm", "weight", "bias", eps="number"),
    "relu": _formula("np.maximum({x}, 0.0)"),
    "relu6": _formula("np.clip({x}, 0.0, 6.0)"),
    "leaky_relu": _formula("np.where({x} < 0, {x} * np.float32({number!r}), {x})"),
    "prelu": _call("prelu", "weight"),
    "elu": _call("elu", alpha="number"),
    "sigmoid": _call("sigmoid"),
    "hard_sigmoid": _formula("np.clip({x} + 3.0, 0.0, 6.0) / 6.0"),
    "tanh": _formula("np.tanh({x})"),
    "silu": _formula("{x} * sigmoid({x})"),
    "hard_swish": _formula("{x} * np.clip({x} + 3.0, 0.0, 6.0) / 6.0"),
    "mish": _formula("{x} * np.tanh(softplus({x}))"),
    "softplus": _call("softplus"),
    "gelu": _call("gelu"),
    "gelu_tanh": _call("gelu_tanh"),
    "softmax": _call("softmax"),
}
