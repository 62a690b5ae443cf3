"""What each module of ``torch.nn`` becomes, each function, and each operator of ``torch.export``."""

from collections.abc import Callable
from typing import Any

from minicnn.errors import NetworkError
from minicnn.network import activations as act
from minicnn.network import layers as of
from minicnn.network.layer import Layer, Shape
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm


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
    _refuse(module, beta=1, threshold=20)
    return act.Softplus()


def _hardtanh(module: Any, shape: Shape) -> Layer:
    _refuse(module, min_val=0, max_val=6)
    return act.ReLU6()


def _activation(kind: Callable[..., Layer], **names: str) -> Callable[[Any, Shape], Layer]:
    """A layer, whose fields are attributes of the module."""
    return lambda module, shape: kind(
        **{field: getattr(module, name) for field, name in names.items()}
    )


MODULES: dict[str, Callable[[Any, Shape], Layer]] = {
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
    "Hardtanh": _hardtanh,
    "Sigmoid": _activation(act.Sigmoid),
    "Hardsigmoid": _activation(act.HardSigmoid),
    "Tanh": _activation(act.Tanh),
    "SiLU": _activation(act.SiLU),
    "Hardswish": _activation(act.HardSwish),
    "Mish": _activation(act.Mish),
}

# Of a function or a method: the module that does the same, and the names of its arguments after x.
FUNCTIONS: dict[str, tuple[str, ...]] = {
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
    "feature_dropout": ("Dropout2d", "p", "training"),
    "leaky_relu": ("LeakyReLU", "negative_slope"),
    "elu": ("ELU", "alpha"),
    "gelu": ("GELU", "approximate"),
    "softplus": ("Softplus", "beta", "threshold"),
    "hardtanh": ("Hardtanh", "min_val", "max_val"),
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

# Of an operator of an exported program that reads weights: the module that does the same.
WEIGHTED = {
    "conv2d": "Conv2d",
    "linear": "Linear",
    "batch_norm": "BatchNorm2d",
    "group_norm": "GroupNorm",
    "layer_norm": "LayerNorm",
    "prelu": "PReLU",
}
WEIGHTS = ("weight", "bias", "running_mean", "running_var")
