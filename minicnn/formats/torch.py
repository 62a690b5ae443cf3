"""PyTorch's modules as networks, traced by ``torch.fx`` or ``torch.export``; and its state_dict,
see `minicnn.formats.state_dict`, in and out."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minicnn.errors import MinicnnError, MissingExtraError, NetworkError
from minicnn.formats.state_dict import from_state_dict as from_state_dict
from minicnn.formats.state_dict import save_state_dict as save_state_dict
from minicnn.formats.state_dict import to_state_dict as to_state_dict
from minicnn.formats.torch_layers import FUNCTIONS, MODULES, WEIGHTED, WEIGHTS
from minicnn.inference import Model
from minicnn.network import layers as of
from minicnn.network.layer import Layer, Shape
from minicnn.network.network import Network


class _Value(NamedTuple):
    """A value of the network: the name of the layer that gives it, its shape, and whether it is a
    row in the order of an image, which only a dense layer reads."""

    name: str
    shape: Shape
    is_image: bool = False


def from_torch(
    module: Any,
    input_shape: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
) -> Model:
    """The model that a ``torch.nn.Module`` is, in inference, with its weights.

    The module is traced by ``torch.fx``, or already by ``torch.export.export`` (an
    ``ExportedProgram``, whose images say ``input_shape``). It takes images of ``input_shape``
    (height, width, channels), as [N, C, H, W], and gives one row of logits, and consists of what
    minicnn has. A softmax or sigmoid at the end is left to `Model.predict_proba`. ``classes``,
    ``mean`` and ``std`` are those of `from_state_dict`.

    Raises `NetworkError`, which names the module or operator, for what cannot be taken, and
    `MissingExtraError` without PyTorch.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("a module of PyTorch", "the package torch", "torch") from None
    weights: dict[str, tuple[str, Any]] = {}
    if isinstance(module, torch.export.ExportedProgram):
        traced, signature = module.graph_module, module.graph_signature
        tensors = {**module.state_dict, **module.constants}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        weights = {node: (name, tensors[name]) for node, name in names.items()}
        input_shape = input_shape or _exported_shape(traced, signature.user_inputs)
    elif isinstance(module, torch.nn.Module):
        traced = _traced(torch, module)
    else:
        raise NetworkError(
            "from_torch takes a torch.nn.Module, or what torch.export.export gives, "
            f"not {type(module).__name__}"
        )
    if input_shape is None:
        raise NetworkError("from_torch needs input_shape, (height, width, channels)")
    height, width, channels = input_shape
    builder = _Builder(torch, traced, (int(height), int(width), int(channels)), weights)
    for node in traced.graph.nodes:
        try:
            builder.take(node)
        except (MinicnnError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise NetworkError(f"{_label(traced, node)}: {error}") from None
    network = Network(builder.input_shape, builder.layers, type(module).__name__)
    model = from_state_dict(builder.tensors, network, classes, mean, std)
    if builder.probabilities == "sigmoid":
        return replace(model, probabilities="sigmoid", task="multilabel")
    return model


def _traced(torch: Any, module: Any) -> Any:
    try:
        return torch.fx.symbolic_trace(module)
    except Exception as error:
        text = " ".join(str(error).split())
        raise NetworkError(
            f"{type(module).__name__} cannot be traced by torch.fx: {text:.200}"
        ) from None


def _exported_shape(traced: Any, inputs: Sequence[str]) -> Sequence[int] | None:
    """(height, width, channels) of the images that a program was exported with, if it says them."""
    sizes = next(node.meta["val"].shape for node in traced.graph.nodes if node.name == inputs[0])
    if len(sizes) != 4 or not all(isinstance(size, int) for size in sizes[1:]):
        return None
    return (*sizes[2:], sizes[1])


def _label(traced: Any, node: Any) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(traced.get_submodule(node.target)).__name__})"
    return f"{node.name} ({getattr(node.target, '__name__', node.target)})"


class _Builder:
    """The layers as they grow, while the nodes of a traced module are taken."""

    def __init__(
        self,
        torch: Any,
        traced: Any,
        input_shape: tuple[int, int, int],
        weights: dict[str, tuple[str, Any]],
    ):
        self.torch, self.traced, self.input_shape = torch, traced, input_shape
        self.weights = weights  # inputs of an exported program: name and tensor
        self.layers: list[Layer] = []
        self.tensors: dict[str, Any] = {}
        self.values: dict[Any, Any] = {}  # of nodes; sizes, which no layer needs, are None
        self.modules: set[str] = set()  # with weights, that a layer was made of
        self.probabilities = "softmax"

    def take(self, node: Any) -> None:
        """Make layers of a node."""
        if node.op == "placeholder":
            if node.name in self.weights:
                return
            if self.values:
                raise NetworkError("a second input; one image would fit")
            self.values[node] = _Value("input", self.input_shape)
        elif node.op == "output":
            self._check_output(node.args[0])
        elif node.op == "call_module":
            module = self.traced.get_submodule(node.target)
            if any(True for _ in module.parameters()):
                self.once(node.target)
            value = self.of_module(node, module, self.values[node.args[0]])
            self.keep(node, value, getattr(module, "inplace", False))
        elif node.op in ("call_function", "call_method"):
            name = getattr(node.target, "__name__", node.target).partition(".")[0]
            self.keep(node, self.of_function(node, name.strip("_")), _in_place(node, name))
        else:
            raise NetworkError("a tensor by itself; inside of a module, or exported, it would fit")

    def keep(self, node: Any, value: _Value | None, in_place: bool) -> None:
        """Store the value of a node; a node that works in place also replaces the value it read."""
        self.values[node] = value
        before = self.values.get(node.args[0])
        if in_place and before is not None:
            for one in [one for one, other in self.values.items() if other is before]:
                self.values[one] = value

    def once(self, name: str) -> None:
        """Raise `NetworkError` if a layer was already made of these weights."""
        if name in self.modules:
            raise NetworkError("is used twice, and a layer has weights of its own")
        self.modules.add(name)

    def add(self, node: Any, layer: Layer, *inputs: _Value, name: str = "") -> _Value:
        """Add a layer that reads ``inputs``, called ``name`` or what the node is."""
        taken, name = {layer.name for layer in self.layers} | {"input"}, name or node.name
        name = name if name not in taken else f"{name}_{len(self.layers)}"
        names = tuple(value.name for value in inputs)
        last = self.layers[-1].name if self.layers else "input"
        self.layers.append(replace(layer, name=name, inputs=() if names == (last,) else names))
        shape = layer.output_shape(*(value.shape for value in inputs))
        return _Value(name, shape, inputs[0].is_image and shape == inputs[0].shape)

    def of_module(self, node: Any, module: Any, x: _Value) -> _Value:
        """The layer of a module of ``torch.nn``."""
        kind = type(module).__name__
        if not type(module).__module__.startswith("torch.nn"):
            raise NetworkError(f"is none of torch.nn's modules; known are {', '.join(MODULES)}")
        if kind == "Identity":
            return x
        if kind == "Flatten":
            return self.flatten(node, x, module.start_dim, module.end_dim)
        if kind in ("Softmax", "LogSoftmax", "Sigmoid") and self._is_last(node):
            if getattr(module, "dim", 1) not in (1, -1, None):
                raise NetworkError("along another axis than the classes, 1, which would fit")
            self.probabilities = "sigmoid" if kind == "Sigmoid" else "softmax"
            return x
        if kind not in MODULES:
            raise NetworkError(f"no layer computes it; known are {', '.join(MODULES)}")
        value = self.add(node, MODULES[kind](module, x.shape), x)
        return self.weighted(value, kind, module, module.state_dict())

    def of_operator(self, node: Any, kind: str, x: _Value) -> _Value:
        """The layer of an operator of an exported program that reads weights, as the module
        ``kind`` does."""
        arguments = node.target._schema.arguments
        given = {one.name: one.default_value for one in arguments}
        given |= dict(zip(given, node.args, strict=False)) | node.kwargs
        given = {key: tuple(one) if isinstance(one, list) else one for key, one in given.items()}
        nodes = {key: given[key] for key in WEIGHTS if given.get(key) is not None}
        if any(one.name not in self.weights for one in nodes.values()):
            raise NetworkError("with weights that are computed; parameters would fit")
        tensors = {key: self.weights[one.name][1] for key, one in nodes.items()}
        names = [self.weights[one.name][0] for one in nodes.values()]
        for name in names:
            self.once(name)
        module = SimpleNamespace(**given, track_running_stats="running_mean" in tensors)
        if "weight" in tensors:
            first, *rest = tensors["weight"].shape
            module.out_channels = module.out_features = module.num_parameters = first
            module.kernel_size = tuple(rest[1:])
        path = names[0].rpartition(".")[0].replace(".", "_") if names else ""
        name = f"_{path}" if path[:1].isdecimal() else path
        value = self.add(node, MODULES[kind](module, x.shape), x, name=name)
        return self.weighted(value, kind, module, tensors)

    def weighted(self, value: _Value, kind: str, module: Any, tensors: dict[str, Any]) -> _Value:
        """Keep the tensors of the layer that gives ``value``."""
        if "Norm" in kind:  # without weights it has these
            shape = getattr(module, "normalized_shape", value.shape[-1:])
            tensors = {"weight": np.ones(shape), "bias": np.zeros(shape)} | tensors
        for name, tensor in tensors.items():
            self.tensors[f"{value.name}.{name}"] = tensor
        return value

    def of_function(self, node: Any, name: str) -> _Value | None:
        """What a function or a method of a tensor gives."""
        arguments: list[Any] = [
            self.values.get(one) if hasattr(one, "op") else one for one in node.args
        ]
        x = arguments[0]
        if name == "getitem" and arguments[1] == 0 and _gives_several(node.args[0]):
            return x
        if name in ("size", "sym_size", "getattr", "getitem") or (
            not node.users and getattr(node.args[0], "name", None) in self.weights
        ):  # or a count of batches
            return None
        if name in ("add", "iadd", "mul", "imul", "cat", "concat"):
            return self.join(node, name, arguments)
        if not isinstance(x, _Value):
            raise NetworkError("of something else than a value of the network")
        if name == "flatten":
            dims = {"start_dim": 0, "end_dim": -1} | node.kwargs
            dims |= dict(zip(dims, arguments[1:], strict=False))
            return self.flatten(node, x, *dims.values())
        if name in ("view", "reshape"):
            sizes = arguments[1] if isinstance(arguments[1], tuple | list) else arguments[1:]
            if len(sizes) != 2 or sizes[1] not in (-1, math.prod(x.shape)):
                raise NetworkError("to another shape than a row, (N, −1), which would fit")
            return self.flatten(node, x, 1, -1)
        if name == "mean":
            return self.mean(node, x, *arguments[1:], **node.kwargs)
        if name in WEIGHTED:
            return self.of_operator(node, WEIGHTED[name], x)
        if name not in FUNCTIONS:
            known = ", ".join((*WEIGHTED, *FUNCTIONS))
            raise NetworkError(f"no layer computes it; known are {known}")
        kind, *names = FUNCTIONS[name]
        more = dict(enumerate(arguments[1 + len(names) :])) | node.kwargs
        if any(isinstance(more[key], float) for key in more if key not in names):
            raise NetworkError(f"with more arguments than {', '.join(names)}, which would fit")
        given = dict(zip(names, arguments[1:], strict=False)) | node.kwargs
        given = {key: given[key] for key in names if key in given and key != "training"}
        return self.of_module(node, getattr(self.torch.nn, kind)(**given), x)

    def join(self, node: Any, name: str, arguments: list[Any]) -> _Value:
        """Sum, product, or the channels one after another."""
        values, rest = arguments[:2], arguments[2:]
        if "at" in name:
            values, rest = [self.values.get(one) for one in node.args[0]], []
            if (node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)) not in (1, -3):
                raise NetworkError("along another axis than the channels, 1, which would fit")
        if not all(isinstance(value, _Value) for value in values) or rest or "alpha" in node.kwargs:
            raise NetworkError("with a number; only with another value would it fit")
        if len({value.is_image for value in values}) > 1 or (values[0].is_image and "at" in name):
            raise NetworkError("of rows that are images; before they are flattened it would fit")
        layer = of.Concat() if "at" in name else of.Add() if "add" in name else of.Multiply()
        if (
            isinstance(layer, of.Multiply)
            and len(values[0].shape) == 3
            and values[0].shape[:2] == (1, 1)
        ):
            values = values[::-1]  # the gate comes second
        return self.add(node, layer, *values)

    def flatten(self, node: Any, x: _Value, start: int, end: int) -> _Value:
        """A row of all numbers of a sample."""
        if start != 1 or end not in (-1, len(x.shape)):
            raise NetworkError("of other axes than all but the first, which would fit")
        if len(x.shape) == 1:
            return x
        value = self.add(node, of.Flatten(), x)
        return value._replace(is_image=x.shape[2] > 1 and x.shape[0] * x.shape[1] > 1)

    def mean(self, node: Any, x: _Value, dim: Any = (), keepdim: bool = False) -> _Value:
        """The mean over height and width."""
        if len(x.shape) != 3 or sorted(axis % 4 for axis in dim) != [2, 3]:
            raise NetworkError("over other axes than height and width, (2, 3), which would fit")
        whole = of.AvgPool2d((x.shape[0], x.shape[1])) if keepdim else of.GlobalAvgPool2d()
        return self.add(node, whole, x)

    def _is_last(self, node: Any) -> bool:
        return all(user.op == "output" for user in node.users)

    def _check_output(self, result: Any) -> None:
        if isinstance(result, tuple) and len(result) == 1:
            (result,) = result
        value = self.values.get(result) if hasattr(result, "op") else None
        if value is None or len(value.shape) != 1 or value.is_image:
            raise NetworkError("the module must give one row of logits [N, classes]")
        if not self.layers or value.name != self.layers[-1].name:
            raise NetworkError("the output is not what the last layer gives")


def _in_place(node: Any, name: str) -> bool:
    """Whether a function or method changes what it reads."""
    if isinstance(node.target, FunctionType):
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        return bool(bound.arguments.get("inplace"))
    return name in ("iadd", "imul") or (name.endswith("_") and not name.startswith("__"))


def _gives_several(node: Any) -> bool:
    """Whether an operator of an exported program gives a value and more: places of the largest."""
    return len(getattr(getattr(node.target, "_schema", None), "returns", ())) > 1
