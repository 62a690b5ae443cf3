"""The layers, as frozen dataclasses: what they are, never what they compute with.

Shapes are those of one sample: an image ``(height, width, channels)``, or ``(features,)``. A layer says which shape it
gives for which input (`Layer.output_shape`), which parameters it has (`Layer.parameter_shapes`), and how many
multiply-adds its forward pass takes. ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are a number or a pair
(height, width), and are stored as pairs. A value that a field does not admit raises `SettingError`.

>>> Conv2d(6, 5).output_shape((28, 28, 1))
(24, 24, 6)
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from minicnn.errors import NetworkError, SettingError, UnknownNameError
from minicnn.network import checks
from minicnn.network.checks import Padding, Pair, times

Shape = tuple[int, ...]
IntOrPair = int | tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """Base of all layers. By itself a layer keeps the shape and has no parameters."""

    @classmethod
    def label(cls) -> str:
        """What its instances are called in a network, with a number: conv1, conv2, ..."""
        return cls.__name__.lower().removesuffix("2d")

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the output; raises `NetworkError`, which says what would fit, for an input that does not."""
        return input_shape

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """Shapes of the parameters by name, ``weight`` before ``bias``; empty for a layer that has none."""
        return {}

    def attributes(self, *shapes):
        """x"""
        if hasattr(self,'kernel_size'):
            t=self.resolved_padding(shapes[0])
            return dict(kernel_height=self.kernel_size[0],kernel_width=self.kernel_size[1],stride_height=self.stride[0],stride_width=self.stride[1],padding_top=t[0],padding_left=t[2],dilation_height=self.dilation[0],dilation_width=self.dilation[1],a0=1)
        if type(self).__name__=='GlobalAvgPool2d':
            return dict(kernel_height=shapes[0][0],kernel_width=shapes[0][1],a0=1)
        return dict(f0=getattr(self,'rate',0))

    def multiply_adds(self, input_shape: Shape) -> int:
        """Multiply-adds of the forward pass on one sample, those of convolutions and dense layers alone."""
        return 0

    def __str__(self) -> str:
        """The type with the fields that differ from their defaults: ``Conv2d(filters=6, kernel_size=5×5)``."""
        parameters = inspect.signature(type(self)).parameters
        shown = []
        for name in (field.name for field in fields(self)):
            value, default = getattr(self, name), parameters[name].default
            if value not in (default, (default, default)):
                shown.append(f"{name}={times(value) if isinstance(value, tuple) else value}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _image(self, input_shape: Shape) -> tuple[int, int, int]:
        if len(input_shape) != 3:
            raise NetworkError(
                f"{self} needs an image (height, width, channels), but its input is {input_shape}; "
                "put it before Flatten, GlobalAvgPool2d and Dense"
            )
        height, width, channels = input_shape
        return height, width, channels


class _Window(Layer):
    """What convolution and pooling share: a window that slides over a padded image."""

    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair

    @property
    def extent(self) -> Pair:
        """Height and width of the input that one output reads: dilation · (kernel size − 1) + 1."""
        (height, width), (rows, columns) = self.kernel_size, self.dilation
        return rows * (height - 1) + 1, columns * (width - 1) + 1

    def resolved_padding(self, input_shape: Shape) -> tuple[int, int, int, int]:
        """Padding in elements ``(top, bottom, left, right)``; "same" puts an odd element at the bottom or right."""
        if self.padding == "same":
            rows, columns = self.extent[0] - 1, self.extent[1] - 1
            return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
        rows, columns = self.padding
        return rows, rows, columns, columns

    def _output_size(self, input_shape: Shape) -> Pair:
        """Output height and width, ⌊(input + padding − extent) / stride⌋ + 1."""
        height, width, _ = self._image(input_shape)
        top, bottom, left, right = self.resolved_padding(input_shape)
        room = height + top + bottom, width + left + right
        if room[0] < self.extent[0] or room[1] < self.extent[1]:
            kernel = (room[0] - 1) // self.dilation[0] + 1, (room[1] - 1) // self.dilation[1] + 1
            smallest = max(1, self.extent[0] - top - bottom), max(1, self.extent[1] - left - right)
            raise NetworkError(
                f"{self} is larger than its input {input_shape}: a kernel_size of at most {times(kernel)} would fit, "
                f"or an input of at least {times(smallest)}"
            )
        return (room[0] - self.extent[0]) // self.stride[0] + 1, (room[1] - self.extent[1]) // self.stride[1] + 1


@dataclass(frozen=True, init=False)
class Conv2d(_Window):
    """Convolution (cross-correlation) of an image (H, W, C) with ``filters`` filters: weight (R, S, C, K), bias (K,).

    ``padding`` (with zeros) is a number, a pair, ``"valid"`` (none) or, with stride 1, ``"same"``: the output is as
    large as the input, and an even kernel has its extra element at the bottom and right.

    ``y[p,q,k] = b[k] + Σ_{r,s,c} x[p·stride + r·dilation − top, q·stride + s·dilation − left, c] · w[r,s,c,k]``
    """

    filters: int
    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    bias: bool

    def __init__(
        self,
        filters: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | Literal["same", "valid"] = 0,
        dilation: IntOrPair = 1,
        bias: bool = True,
    ):
        step = checks.pair("Conv2d", "stride", stride)
        vars(self).update(  # the class is frozen
            filters=checks.integer("Conv2d", "filters", filters),
            kernel_size=checks.pair("Conv2d", "kernel_size", kernel_size),
            stride=step,
            padding=checks.padding("Conv2d", padding, step),
            dilation=checks.pair("Conv2d", "dilation", dilation),
            bias=checks.flag("Conv2d", "bias", bias),
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        return *self._output_size(input_shape), self.filters

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        channels = self._image(input_shape)[2]
        weight: dict[str, Shape] = {"weight": (*self.kernel_size, channels, self.filters)}
        return weight | {"bias": (self.filters,)} if self.bias else weight

    def multiply_adds(self, input_shape: Shape) -> int:
        return math.prod(self.output_shape(input_shape)) * math.prod(self.kernel_size) * input_shape[2]


@dataclass(frozen=True, init=False)
class _Pool2d(_Window):
    """What the two poolings share. Padding is at most half of the kernel, so that every window has an element."""

    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation = (1, 1)  # not a field: poolings have none to set

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair | Literal["same", "valid"] = 0,
    ):
        name = type(self).__name__
        kernel = checks.pair(name, "kernel_size", kernel_size)
        step = kernel if stride is None else checks.pair(name, "stride", stride)
        border = checks.padding(name, padding, step)
        if border != "same" and (border[0] > kernel[0] // 2 or border[1] > kernel[1] // 2):
            most = times((kernel[0] // 2, kernel[1] // 2))
            raise SettingError(f"{name}: padding is at most half of the kernel_size, {most}, not {times(border)}")
        vars(self).update(kernel_size=kernel, stride=step, padding=border)  # the class is frozen

    def output_shape(self, input_shape: Shape) -> Shape:
        return *self._output_size(input_shape), input_shape[2]


class MaxPool2d(_Pool2d):
    """The largest element of each window, by channel. ``stride`` is the kernel size unless given; padding is −∞."""


class AvgPool2d(_Pool2d):
    """The mean of each window, by channel. ``stride`` is the kernel size unless given; padded zeros are counted."""


class GlobalAvgPool2d(Layer):
    """The mean of each channel over the whole image: (H, W, C) to (C,)."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return (self._image(input_shape)[2],)


class Flatten(Layer):
    """All elements in one row, in the order height, width, channel: (H, W, C) to (H·W·C,)."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)


@dataclass(frozen=True)
class Dense(Layer):
    """The fully connected layer ``y = x · weight + bias``: weight (in, units), bias (units,)."""

    units: int
    bias: bool = True

    def __post_init__(self) -> None:
        vars(self).update(units=checks.integer("Dense", "units", self.units))
        checks.flag("Dense", "bias", self.bias)

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise NetworkError(
                f"{self} needs one row of features, but its input is {input_shape}; "
                "put Flatten or GlobalAvgPool2d before it"
            )
        return (self.units,)

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        weight = {"weight": (*input_shape, *self.output_shape(input_shape))}
        return weight | {"bias": (self.units,)} if self.bias else weight

    def multiply_adds(self, input_shape: Shape) -> int:
        return input_shape[0] * self.units


class Activation(Layer):
    """Base of the layers that are one function of one element."""


class ReLU(Activation):
    """``max(x, 0)``."""


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """``x`` above zero, ``negative_slope · x`` below."""

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        vars(self).update(negative_slope=checks.number("LeakyReLU", "negative_slope", self.negative_slope))


class Sigmoid(Activation):
    """``1 / (1 + exp(−x))``."""


class Tanh(Activation):
    """The hyperbolic tangent."""


class SiLU(Activation):
    """``x / (1 + exp(−x))``."""


class GELU(Activation):
    """``x · Φ(x) = x / 2 · (1 + erf(x / √2))``, exactly, not by the tanh approximation."""


@dataclass(frozen=True)
class Dropout(Layer):
    """In training, an element is zero with probability ``rate``, else divided by ``1 − rate``; otherwise unchanged."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        vars(self).update(rate=checks.number("Dropout", "rate", self.rate, minimum=0, below=1))


LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Conv2d, MaxPool2d, AvgPool2d, GlobalAvgPool2d, Flatten, Dense, Dropout,
        ReLU, LeakyReLU, Sigmoid, Tanh, SiLU, GELU,
    )
}  # fmt: skip


def layer_to_dict(layer: Layer) -> dict[str, Any]:
    """The layer as JSON has it: ``{"type": "Conv2d", "filters": 6, "kernel_size": [5, 5], ...}``."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(layer).items()}
    return {"type": type(layer).__name__} | values


def layer_from_dict(table: Mapping[str, Any]) -> Layer:
    """The layer that `layer_to_dict` or a TOML table describes; the case of the type does not matter.

    Raises `UnknownNameError` for an unknown type or field, and `SettingError` for a missing or a wrong value.
    """
    if not isinstance(table, Mapping) or not isinstance(table.get("type"), str):
        raise SettingError(f'a layer is a table with a type, such as type = "Conv2d", not {table!r}')
    name = table["type"]
    kind = {known.lower(): layer for known, layer in LAYERS.items()}.get(name.lower())
    if kind is None:
        raise UnknownNameError("layer", name, LAYERS)
    parameters = inspect.signature(kind).parameters
    values = {field: value for field, value in table.items() if field != "type"}
    for field in values:
        if field not in parameters:
            raise UnknownNameError(f"field of {kind.__name__}", field, parameters)
    for field, parameter in parameters.items():
        if parameter.default is parameter.empty and field not in values:
            raise SettingError(f"{kind.__name__}: {field} is missing")
    return kind(**values)
