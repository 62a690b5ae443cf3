"""PyTorch's modules as networks, traced by ``torch.fx``; and its state_dict, see
`minicnn.formats.state_dict`, in and out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minicnn.errors import MinicnnError, MissingExtraError, NetworkError
from minicnn.formats.state_dict import from_state_dict as from_state_dict
from minicnn.formats.state_dict import save_state_dict as save_state_dict
from minicnn.formats.state_dict import to_state_dict as to_state_dict
from minicnn.inference import Model
from minicnn.network import activations as act
from minicnn.network import layers as of
from minicnn.network.layers import Layer, Shape
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm


class _Value(NamedTuple):
    """A value of the network: the name of the layer that gives it, its shape, and whether it is a
    row in the order of an image, which only a dense layer reads."""

    name: str
    shape: Shape
    is_image: bool = False


def from_torch(
    module: Any,
    input_shape: Sequence[int],
    classes: Sequence[str] | None = None,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
) -> Model:
    """The model that a ``torch.nn.Module`` is, in inference, with its weights.

    The module is traced by ``torch.fx``; it takes images of ``input_shape`` (height, width,
    channels), as [N, C, H, W], and gives one row of logits, and consists of what minicnn has. A
    softmax or sigmoid at the end is left to `Model.predict_proba`. ``classes``, ``mean`` and
    ``std`` are those of `from_state_dict`.

    Raises `NetworkError`, which names the module, for what cannot be taken, and `MissingExtraError`
    without PyTorch.
    """
    try:
        import torch
        from torch import fx
    except ImportError:
        raise MissingExtraError("a module of PyTorch", "the package torch", "torch") from None
    if not isinstance(module, torch.nn.Module):
        raise NetworkError(f"from_torch takes a torch.nn.Module, not {type(module).__name__}")
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        text = " ".join(str(error).split())
        raise NetworkError(
            f"{type(module).__name__} cannot be traced by torch.fx: {text:.200}"
        ) from None
    height, width, channels = input_shape
    builder = _Builder(torch, traced, (int(height), int(width), int(channels)))
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


def _label(traced: Any, node: Any) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(traced.get_submodule(node.target)).__name__})"
    return f"{node.name} ({getattr(node.target, '__name__', node.target)})"


class _Builder:
    """The layers as they grow, while the nodes of a traced module are taken."""

    def __init__(self, torch: Any, traced: Any, input_shape: tuple[int, int, int]):
        self.torch, self.traced, self.input_shape = torch, traced, input_shape
        self.layers: list[Layer] = []
        self.tensors: dict[str, Any] = {}
        self.values: dict[Any, Any] = {}  # of nodes; sizes, which no layer needs, are None
        self.modules: set[str] = set()  # with parameters, that a layer was made of
        self.probabilities = "softmax"

    def take(self, node: Any) -> None:
        """Make layers of a node."""
        if node.op == "placeholder":
            if self.values:
                raise NetworkError("a second input; one image would fit")
            self.values[node] = _Value("input", self.input_shape)
        elif node.op == "output":
            self._check_output(node.args[0])
        elif node.op == "call_module":
            module = self.traced.get_submodule(node.target)
            if any(True for _ in module.parameters()):
                if node.target in self.modules:
                    raise NetworkError("is used twice, and a layer has weights of its own")
                self.modules.add(node.target)
            self.values[node] = self.of_module(node, module, self.values[node.args[0]])
        elif node.op in ("call_function", "call_method"):
            name = getattr(node.target, "__name__", node.target)
            self.values[node] = self.of_function(node, name.strip("_"))
        else:
            raise NetworkError("a tensor by itself; one inside of a module would fit")

    def add(self, node: Any, layer: Layer, *inputs: _Value) -> _Value:
        """Add a layer that reads ``inputs``, called what the node is."""
        taken = {layer.name for layer in self.layers} | {"input"}
        name = node.name if node.name not in taken else f"{node.name}_{len(self.layers)}"
        names = tuple(value.name for value in inputs)
        last = self.layers[-1].name if self.layers else "input"
        self.layers.append(replace(layer, name=name, inputs=() if names == (last,) else names))
        shape = layer.output_shape(*(value.shape for value in inputs))
        return _Value(name, shape, inputs[0].is_image and shape == inputs[0].shape)

    def of_module(self, node: Any, module: Any, x: _Value) -> _Value:
        """The layer of a module of ``torch.nn``."""
        kind = type(module).__name__
        if not type(module).__module__.startswith("torch.nn"):
            raise NetworkError(f"is none of torch.nn's modules; known are {', '.join(_MODULES)}")
        if kind == "Identity":
            return x
        if kind == "Flatten":
            return self.flatten(node, x, module.start_dim, module.end_dim)
        if kind in ("Softmax", "LogSoftmax", "Sigmoid") and self._is_last(node):
            self.probabilities = "sigmoid" if kind == "Sigmoid" else "softmax"
            return x
        if kind not in _MODULES:
            raise NetworkError(f"no layer computes it; known are {', '.join(_MODULES)}")
        value = self.add(node, _MODULES[kind](module, x.shape), x)
        tensors = module.state_dict()
        if "Norm" in kind:  # without weights it has these
            shape = getattr(module, "normalized_shape", x.shape[-1:])
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
        if name in ("size", "getattr", "getitem"):
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
        if name not in _FUNCTIONS:
            raise NetworkError(f"no layer computes it; known are {', '.join(_FUNCTIONS)}")
        kind, *names = _FUNCTIONS[name]
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
        if not all(isinstance(value, _Value) for value in values) or rest:
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
        value = self.values.get(result) if hasattr(result, "op") else None
        if value is None or len(value.shape) != 1 or value.is_image:
            raise NetworkError("the module must give one row of logits [N, classes]")
        if not self.layers or value.name != self.layers[-1].name:
            raise NetworkError("the output is not what the last layer gives")


def _ints(sizes: Any) -> Any:
    """A number or a pair of them."""
    return tuple(sizes) if isinstance(sizes, tuple | list) else (sizes, sizes)


def _refuse(module: Any, **wanted: Any) -> None:
    """Raise `NetworkError` for an attribute that is another than what is ``wanted``."""
    for name, value in wanted.items():
        if (found := getattr(module, name, value)) != value:
            raise NetworkError(f"{name} is {found!r}; {value!r} would fit")


def _conv(module: Any, shape: Shape) -> Layer:
    _refuse(module, padding_mode="zeros", in_channels=shape[-1])
    padding: Any = module.padding if isinstance(module.padding, str) else _ints(module.padding)
    sizes = (_ints(getattr(module, name)) for name in ("kernel_size", "stride", "dilation"))
    kernel, stride, dilation = sizes
    bias = module.bias is not None
    return of.Conv2d(module.out_channels, kernel, stride, padding, dilation, bias, module.groups)


def _dense(module: Any, shape: Shape) -> Layer:
    _refuse(module, in_features=shape[-1])
    return of.Dense(module.out_features, module.bias is not None)


def _pool(module: Any, shape: Shape) -> Layer:
    _refuse(module, return_indices=False, divisor_override=None)
    kernel, stride, padding = (
        _ints(getattr(module, name)) for name in ("kernel_size", "stride", "padding")
    )
    if hasattr(module, "dilation"):
        dilation = _ints(module.dilation)
        return of.MaxPool2d(kernel, stride, padding, dilation, module.ceil_mode)
    return of.AvgPool2d(kernel, stride, padding, module.ceil_mode, module.count_include_pad)


def _adaptive(kind: Callable[..., Layer]) -> Callable[[Any, Shape], Layer]:
    def layer(module: Any, shape: Shape) -> Layer:
        _refuse(module, return_indices=False)
        sizes = [
            size if one is None else one
            for one, size in zip(_ints(module.output_size), shape, strict=False)
        ]
        if any(size % one for one, size in zip(sizes, shape, strict=False)):
            raise NetworkError(f"from {shape[:2]} to {tuple(sizes)}; a divisor would fit")
        return kind((shape[0] // sizes[0], shape[1] // sizes[1]))

    return layer


def _batch_norm(module: Any, shape: Shape) -> Layer:
    _refuse(module, track_running_stats=True, num_features=shape[-1])
    if module.momentum is None:
        raise NetworkError("momentum is None; a number would fit")
    return BatchNorm2d(module.eps, module.momentum)


def _layer_norm(module: Any, shape: Shape) -> Layer:
    _refuse(module, normalized_shape=(*shape[2:], *shape[:2]))
    return LayerNorm(module.eps)


def _prelu(module: Any, shape: Shape) -> Layer:
    if module.num_parameters not in (1, shape[-1]):
        _refuse(module, num_parameters=shape[-1])
    return act.PReLU()


def _softplus(module: Any, shape: Shape) -> Layer:
    _refuse(module, beta=1)
    return act.Softplus()


def _activation(kind: Callable[..., Layer], **names: str) -> Callable[[Any, Shape], Layer]:
    """A layer, whose fields are attributes of the module."""
    return lambda module, shape: kind(
        **{field: getattr(module, name) for field, name in names.items()}
    )


_MODULES: dict[str, Callable[[Any, Shape], Layer]] = {
    "Conv2d": _conv,
    "Linear": _dense,
    "MaxPool2d": _pool,
    "AvgPool2d": _pool,
    "AdaptiveAvgPool2d": _adaptive(of.AvgPool2d),
    "AdaptiveMaxPool2d": _adaptive(of.MaxPool2d),
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "GroupNorm": lambda module, shape: GroupNorm(module.num_groups, module.eps),
    "LayerNorm": _layer_norm,
    "Dropout": _activation(of.Dropout, rate="p"),
    "Dropout2d": _activation(of.Dropout2d, rate="p"),
    "PReLU": _prelu,
    "Softplus": _softplus,
    "LeakyReLU": _activation(act.LeakyReLU, negative_slope="negative_slope"),
    "ELU": _activation(act.ELU, alpha="alpha"),
    "GELU": _activation(act.GELU, approximate="approximate"),
    "ReLU": _activation(act.ReLU),
    "ReLU6": _activation(act.ReLU6),
    "Sigmoid": _activation(act.Sigmoid),
    "Hardsigmoid": _activation(act.HardSigmoid),
    "Tanh": _activation(act.Tanh),
    "SiLU": _activation(act.SiLU),
    "Hardswish": _activation(act.HardSwish),
    "Mish": _activation(act.Mish),
}

# Of a function or a method: the module that does the same, and the names of its arguments after x.
_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "max_pool2d": ("MaxPool2d", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": (
        "AvgPool2d",
        "kernel_size",
        "stride",
        "padding",
        "ceil_mode",
        "count_include_pad",
        "divisor_override",
    ),
    "adaptive_avg_pool2d": ("AdaptiveAvgPool2d", "output_size"),
    "adaptive_max_pool2d": ("AdaptiveMaxPool2d", "output_size"),
    "dropout": ("Dropout", "p", "training"),
    "dropout2d": ("Dropout2d", "p", "training"),
    "leaky_relu": ("LeakyReLU", "negative_slope"),
    "elu": ("ELU", "alpha"),
    "gelu": ("GELU", "approximate"),
    "softplus": ("Softplus", "beta"),
    "softmax": ("Softmax", "dim"),
    "log_softmax": ("LogSoftmax", "dim"),
    "relu": ("ReLU",),
    "relu6": ("ReLU6",),
    "sigmoid": ("Sigmoid",),
    "hardsigmoid": ("Hardsigmoid",),
    "tanh": ("Tanh",),
    "silu": ("SiLU",),
    "hardswish": ("Hardswish",),
    "mish": ("Mish",),
}
