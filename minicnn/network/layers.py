"""The layers, as frozen dataclasses: what they are, never what they compute with.

Shapes are those of one sample: an image ``(height, width, channels)``, or ``(features,)``. A layer
says which shape it gives for which inputs (`Layer.output_shape`), which parameters it has
(`Layer.parameter_shapes`), and how many multiply-adds its forward pass takes. ``kernel_size``,
``stride``, ``padding`` and ``dilation`` are a number or a pair (height, width), and are stored as
pairs. A value that a field does not admit raises `SettingError`.

Every layer may have a ``name`` and, where it does not read the layer before it alone, ``inputs``:
the names of the layers that it reads; the network's image is called ``input``.

>>> Conv2d(6, 5).output_shape((28, 28, 1))
(24, 24, 6)
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from minicnn.errors import NetworkError, SettingError
from minicnn.network import checks
from minicnn.network.checks import Padding, Pair, times

__all__ = [
    "Add",
    "AvgPool2d",
    "Concat",
    "Conv2d",
    "Dense",
    "DropPath",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "MaxPool2d",
    "Multiply",
]

Shape = tuple[int, ...]
IntOrPair = int | tuple[int, int]
IntPairOrFour = IntOrPair | tuple[int, int, int, int]

LAYERS: dict[str, "type[Layer]"] = {}  # by their names in lower case


@dataclass(frozen=True)
class Layer:
    """Base of all layers. By itself a layer reads one value, keeps its shape and has no
    parameters."""

    name: str | None = field(default=None, kw_only=True)
    inputs: tuple[str, ...] = field(default=(), kw_only=True)

    arity: ClassVar[tuple[int, int | None]] = (1, 1)  # least and most inputs; None: any number
    kinds: ClassVar[Mapping[str, str]] = {
        "weight": "weight",
        "bias": "bias",
    }  # of the parameters, by name

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            LAYERS[cls.__name__.lower()] = cls

    def __post_init__(self) -> None:
        vars(self).update(
            inputs=checks.names(type(self).__name__, self.inputs)
        )  # the class is frozen
        checks.name(type(self).__name__, self.name)

    # Of an activation: it is about 0 below 0 and x above, and weights before it begin as He et al.
    # 2015 say.
    rectifies: ClassVar[bool | None] = None

    @property
    def type_name(self) -> str:
        """What it is called in JSON and TOML."""
        return type(self).__name__

    def label(self) -> str:
        """What it is called in a network, with a number: conv1, conv2, ..."""
        return self.type_name.lower().removesuffix("2d")

    def values(self) -> dict[str, Any]:
        """The value of every field that is its own."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in ("name", "inputs")
        }

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Shape of the output; raises `NetworkError`, which says what would fit, for inputs that do
        not."""
        return input_shapes[0]

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        """Shapes of the parameters by name, ``weight`` before ``bias``; empty for a layer that has
        none."""
        return {}

    def parameter_kinds(self, *input_shapes: Shape) -> Mapping[str, str]:
        """What each parameter is: weight, bias, scale or shift."""
        return self.kinds

    def state_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        """Shapes of what is kept and not trained, by name; empty for a layer that has none."""
        return {}

    def multiply_adds(self, *input_shapes: Shape) -> int:
        """Multiply-adds of the forward pass on one sample, those of convolutions and dense layers
        alone."""
        return 0

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        """What the kernels must know of it, by the fields of a plan's record
        (`minicnn.program.plan`)."""
        return {}

    def __str__(self) -> str:
        """The type with the fields that differ from their defaults: ``Conv2d(filters=6,
        kernel_size=5×5)``."""
        parameters = inspect.signature(type(self)).parameters
        shown = []
        for name, value in self.values().items():
            default = parameters[name].default
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


def _by_side(what: str, pair: Sequence[int]) -> dict[str, float]:
    return {f"{what}_height": pair[0], f"{what}_width": pair[1]}


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
        """Padding in elements ``(top, bottom, left, right)``.

        "same" gives ⌈input / stride⌉ outputs; an odd element is at the bottom or right. TensorFlow
        pads so.
        """
        if self.padding == "same":
            sides = []
            for size, extent, step in zip(input_shape[:2], self.extent, self.stride, strict=True):
                total = max(0, (-(-size // step) - 1) * step + extent - size)
                sides += [total // 2, total - total // 2]
            return sides[0], sides[1], sides[2], sides[3]
        if len(self.padding) == 4:
            return self.padding
        rows, columns = self.padding
        return rows, rows, columns, columns

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        top, _, left, _ = self.resolved_padding(input_shapes[0])
        return {
            **_by_side("kernel", self.kernel_size),
            **_by_side("stride", self.stride),
            **_by_side("dilation", self.dilation),
            "padding_top": top,
            "padding_left": left,
        }

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
        return (room[0] - self.extent[0]) // self.stride[0] + 1, (
            room[1] - self.extent[1]
        ) // self.stride[1] + 1


@dataclass(frozen=True, init=False)
class Conv2d(_Window):
    """Convolution (cross-correlation) of an image (H, W, C) with ``filters`` filters: weight (R, S,
    C/G, K), bias (K,).

    ``padding`` (with zeros) is a number, a pair, four numbers (top, bottom, left, right),
    ``"valid"`` (none) or ``"same"``: ⌈input / stride⌉ outputs, an odd element at the bottom and
    right, as TensorFlow pads. With ``groups`` G, filter k reads the C/G channels of group k //
    (K/G) alone; with as many groups as channels the convolution is depthwise. On a CPU, many 3×3
    convolutions are computed by Winograd's method (`minicnn.kernels.cpu.winograd_conv2d`), unless
    the environment variable MINICNN_WINOGRAD is 0 when the plan is made.

    ``y[p,q,k] = b[k] + Σ_{r,s,c} x[p·stride + r·dilation − top, q·stride + s·dilation − left, c] ·
    w[r,s,c,k]``
    """

    filters: int
    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    bias: bool
    groups: int

    def __init__(
        self,
        filters: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntPairOrFour | Literal["same", "valid"] = 0,
        dilation: IntOrPair = 1,
        bias: bool = True,
        groups: int = 1,
        *,
        name: str | None = None,
        inputs: str | Sequence[str] = (),
    ):
        vars(self).update(  # the class is frozen
            name=name,
            inputs=inputs,
            filters=checks.integer("Conv2d", "filters", filters),
            kernel_size=checks.pair("Conv2d", "kernel_size", kernel_size),
            stride=checks.pair("Conv2d", "stride", stride),
            padding=checks.padding("Conv2d", padding, four=True),
            dilation=checks.pair("Conv2d", "dilation", dilation),
            bias=checks.flag("Conv2d", "bias", bias),
            groups=checks.integer("Conv2d", "groups", groups),
        )
        super().__post_init__()

    def output_shape(self, *input_shapes: Shape) -> Shape:
        channels = self._image(input_shapes[0])[2]
        if channels % self.groups or self.filters % self.groups:
            raise NetworkError(
                f"{self}: groups must divide its {channels} input channels and its {self.filters} filters"
            )
        return *self._output_size(input_shapes[0]), self.filters

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        channels = self._image(input_shapes[0])[2]
        weight: dict[str, Shape] = {
            "weight": (*self.kernel_size, channels // self.groups, self.filters)
        }
        return weight | {"bias": (self.filters,)} if self.bias else weight

    def multiply_adds(self, *input_shapes: Shape) -> int:
        each = math.prod(self.kernel_size) * input_shapes[0][2] // self.groups
        return math.prod(self.output_shape(*input_shapes)) * each

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return super().attributes(*input_shapes) | {"groups": self.groups}


@dataclass(frozen=True, init=False)
class _Pool2d(_Window):
    """What the two poolings share. Padding is at most half of the kernel, so that every window has
    an element.

    With ``ceil_mode`` a last window that begins inside the image or its padding on the left counts,
    though it ends outside.
    """

    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    ceil_mode: bool

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None,
        padding: IntOrPair | Literal["same", "valid"],
        dilation: IntOrPair,
        ceil_mode: bool,
        name: str | None,
        inputs: str | Sequence[str],
    ):
        kind = type(self).__name__
        kernel = checks.pair(kind, "kernel_size", kernel_size)
        border = checks.padding(kind, padding)
        if border != "same" and (border[0] > kernel[0] // 2 or border[1] > kernel[1] // 2):
            most = times((kernel[0] // 2, kernel[1] // 2))
            raise SettingError(
                f"{kind}: padding is at most half of the kernel_size, {most}, not {times(border)}"
            )
        vars(self).update(  # the class is frozen
            name=name,
            inputs=inputs,
            kernel_size=kernel,
            stride=kernel if stride is None else checks.pair(kind, "stride", stride),
            padding=border,
            dilation=checks.pair(kind, "dilation", dilation),
            ceil_mode=checks.flag(kind, "ceil_mode", ceil_mode),
        )
        super().__post_init__()

    def output_shape(self, *input_shapes: Shape) -> Shape:
        shape = input_shapes[0]
        outputs = list(self._output_size(shape))
        top, bottom, left, right = self.resolved_padding(shape)
        for side, before, after in ((0, top, bottom), (1, left, right)):
            end = (
                outputs[side] * self.stride[side]
            )  # where one more window would begin, in the padded image
            extent = shape[side] + before + after
            if (
                self.ceil_mode
                and end - self.stride[side] + self.extent[side] < extent
                and end < shape[side] + before
            ):
                outputs[side] += 1
            for position in (0, outputs[side] - 1):
                begin = position * self.stride[side] - before
                taps = range(begin, begin + self.extent[side], self.dilation[side])
                if not any(0 <= tap < shape[side] for tap in taps):
                    raise NetworkError(
                        f"{self} has a window without an element of its input {shape}: a smaller padding "
                        "or dilation would fit"
                    )
        return *outputs, shape[2]


class MaxPool2d(_Pool2d):
    """The largest element of each window, by channel. ``stride`` is the kernel size unless given;
    padding is −∞."""

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair | Literal["same", "valid"] = 0,
        dilation: IntOrPair = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
        inputs: str | Sequence[str] = (),
    ):
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode, name, inputs)


@dataclass(frozen=True, init=False)
class AvgPool2d(_Pool2d):
    """The mean of each window, by channel. ``stride`` is the kernel size unless given.

    Padded zeros are counted, or with ``count_include_pad`` False they are not: the divisor is the
    number of elements inside.
    """

    dilation: ClassVar[Pair] = (1, 1)  # type: ignore[misc]  # not a field: PyTorch's has none to set either
    count_include_pad: bool

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair | Literal["same", "valid"] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        name: str | None = None,
        inputs: str | Sequence[str] = (),
    ):
        vars(self).update(
            count_include_pad=checks.flag("AvgPool2d", "count_include_pad", count_include_pad)
        )
        super().__init__(kernel_size, stride, padding, 1, ceil_mode, name, inputs)

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        clipped = self.ceil_mode and self.padding != "same"
        return super().attributes(*input_shapes) | {
            "a0": int(self.count_include_pad),
            "a1": int(clipped),
        }


class _GlobalPool2d(Layer):
    """What the two global poolings share: one window as large as the image."""

    def output_shape(self, *input_shapes: Shape) -> Shape:
        return (self._image(input_shapes[0])[2],)

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {**_by_side("kernel", input_shapes[0]), "a0": 1}


class GlobalAvgPool2d(_GlobalPool2d):
    """The mean of each channel over the whole image: (H, W, C) to (C,)."""


class GlobalMaxPool2d(_GlobalPool2d):
    """The largest element of each channel over the whole image: (H, W, C) to (C,)."""


class Flatten(Layer):
    """All elements in one row, in the order height, width, channel: (H, W, C) to (H·W·C,)."""

    def output_shape(self, *input_shapes: Shape) -> Shape:
        return (math.prod(input_shapes[0]),)


@dataclass(frozen=True)
class Dense(Layer):
    """The fully connected layer ``y = x · weight + bias``: weight (in, units), bias (units,)."""

    units: int
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        vars(self).update(units=checks.integer("Dense", "units", self.units))
        checks.flag("Dense", "bias", self.bias)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if len(input_shapes[0]) != 1:
            raise NetworkError(
                f"{self} needs one row of features, but its input is {input_shapes[0]}; "
                "put Flatten or GlobalAvgPool2d before it"
            )
        return (self.units,)

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        weight = {"weight": (*input_shapes[0], *self.output_shape(*input_shapes))}
        return weight | {"bias": (self.units,)} if self.bias else weight

    def multiply_adds(self, *input_shapes: Shape) -> int:
        return input_shapes[0][0] * self.units


class Add(Layer):
    """The sum of values of one shape: ``y = x₁ + x₂ + …``. He et al.: Deep residual learning,
    2016."""

    arity = (2, None)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if len(set(input_shapes)) > 1:
            shapes = " and ".join(map(str, input_shapes))
            raise NetworkError(
                f"{self} needs inputs of one shape, not {shapes}: a 1×1 convolution changes the channels, "
                "a stride the height and width"
            )
        return input_shapes[0]


class Concat(Layer):
    """The channels of all inputs, one after another: (H, W, C₁) and (H, W, C₂) to (H, W, C₁ +
    C₂)."""

    arity = (2, None)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if (
            len({shape[:-1] for shape in input_shapes}) > 1
            or len({len(shape) for shape in input_shapes}) > 1
        ):
            shapes = " and ".join(map(str, input_shapes))
            raise NetworkError(
                f"{self} needs inputs of one height and width, not {shapes}: pooling, a stride or padding "
                "makes them so"
            )
        return *input_shapes[0][:-1], sum(shape[-1] for shape in input_shapes)


class Multiply(Layer):
    """The product of two values of one shape, or of an image and one number a channel, (1, 1, C) or
    (C,): a gate.

    Hu, Shen, Sun: Squeeze-and-excitation networks, 2018.
    """

    arity = (2, 2)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        first, second = input_shapes
        gates = [(1, 1, first[-1]), first[-1:]] if len(first) == 3 else []
        if second not in (first, *gates):
            fitting = ", ".join(map(str, (first, *gates)))
            raise NetworkError(f"{self} needs a second input of the shape {fitting}, not {second}")
        return first


@dataclass(frozen=True)
class Dropout(Layer):
    """In training, an element is zero with probability ``rate``, else divided by ``1 − rate``;
    otherwise unchanged.

    Srivastava et al.: Dropout: a simple way to prevent neural networks from overfitting, 2014.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        vars(self).update(
            rate=checks.number(type(self).__name__, "rate", self.rate, minimum=0, below=1)
        )

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {"f0": self.rate}


class Dropout2d(Dropout):
    """Dropout of whole channels of a sample. Tompson et al.: Efficient object localization using
    CNNs, 2015."""


class DropPath(Dropout):
    """Dropout of whole samples of a branch: stochastic depth. Huang et al.: Deep networks with
    stochastic depth, 2016."""
