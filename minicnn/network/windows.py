"""The layers whose outputs each read a window of an image: convolution and pooling.

``kernel_size``, ``stride``, ``padding`` and ``dilation`` are a number or a pair (height, width), and
are stored as pairs.

>>> Conv2d(6, 5).output_shape((28, 28, 1))
(24, 24, 6)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from minicnn.errors import NetworkError, SettingError
from minicnn.network import checks
from minicnn.network.checks import Pair, times
from minicnn.network.layer import Layer, Shape

__all__ = ["AvgPool2d", "Conv2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool2d"]

IntOrPair = int | tuple[int, int]
IntPairOrFour = IntOrPair | tuple[int, int, int, int]


def _by_side(what: str, pair: Sequence[int]) -> dict[str, float]:
    return {f"{what}_height": pair[0], f"{what}_width": pair[1]}


class _Window(Layer, kernel_size=checks.pair, stride=checks.pair, padding=checks.padding):
    """Base of convolution and pooling: a window that slides over a padded image."""

    # As they are stored: pairs (height, width), and padding as `checks.padding` has it.
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any

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
            top, bottom, left, right = self.padding
            return top, bottom, left, right
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


@dataclass(frozen=True)
class Conv2d(
    _Window,
    filters=checks.integer,
    padding=partial(checks.padding, four=True),
    dilation=checks.pair,
    bias=checks.flag,
    groups=checks.integer,
):
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

    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998;
    in groups Krizhevsky, Sutskever, Hinton, 2012; depthwise Howard et al.: MobileNets, 2017.
    """

    operation = "conv2d"

    filters: int
    kernel_size: IntOrPair
    stride: IntOrPair = 1
    padding: IntPairOrFour | Literal["same", "valid"] = 0
    dilation: IntOrPair = 1
    bias: bool = True
    groups: int = 1

    def output_shape(self, *input_shapes: Shape) -> Shape:
        channels = self._image(input_shapes[0])[2]
        if channels % self.groups or self.filters % self.groups:
            raise NetworkError(
                f"{self}: groups must divide its {channels} input channels and its {self.filters} filters"
            )
        return *self._output_size(input_shapes[0]), self.filters

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        kernel: Any = self.kernel_size
        channels = self._image(input_shapes[0])[2] // self.groups
        bias = {"bias": (self.filters,)} if self.bias else {}
        return {"weight": (*kernel, channels, self.filters), **bias}

    def multiply_adds(self, *input_shapes: Shape) -> int:
        each = self.parameter_shapes(*input_shapes)["weight"][:-1]
        return math.prod(self.output_shape(*input_shapes)) * math.prod(each)

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return super().attributes(*input_shapes) | {"groups": self.groups}


class _Pool2d(_Window, ceil_mode=checks.flag):
    """Base of the two poolings. Padding is at most half of the kernel, so that every window has
    an element.

    With ``ceil_mode`` a last window that begins inside the image or its padding on the left counts,
    though it ends outside.
    """

    ceil_mode: bool

    def __post_init__(self) -> None:
        if self.stride is None:
            vars(self)["stride"] = self.kernel_size
        super().__post_init__()
        most = self.kernel_size[0] // 2, self.kernel_size[1] // 2
        border = self.padding
        if border != "same" and (border[0] > most[0] or border[1] > most[1]):
            raise SettingError(
                f"{type(self).__name__}: padding is at most half of the kernel_size, {times(most)}, "
                f"not {times(border)}"
            )

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


@dataclass(frozen=True)
class MaxPool2d(_Pool2d, dilation=checks.pair):
    """The largest element of each window, by channel: (H, W, C) to (P, Q, C). ``stride`` is the
    kernel size unless given; padding is −∞.

    ``y[p,q,c] = max over r,s of x[p·stride + r·dilation − top, q·stride + s·dilation − left, c]``

    Ranzato, Huang, Boureau, LeCun: Unsupervised learning of invariant feature hierarchies, 2007.
    """

    operation = "max_pool2d"

    kernel_size: IntOrPair
    stride: IntOrPair | None = None
    padding: IntOrPair | Literal["same", "valid"] = 0
    dilation: IntOrPair = 1
    ceil_mode: bool = False


@dataclass(frozen=True)
class AvgPool2d(_Pool2d, count_include_pad=checks.flag):
    """The mean of each window, by channel: (H, W, C) to (P, Q, C). ``stride`` is the kernel size
    unless given.

    Padded zeros are counted, or with ``count_include_pad`` False they are not: the divisor D is the
    number of elements inside.

    ``y[p,q,c] = Σ over r,s of x[p·stride + r − top, q·stride + s − left, c] / D``

    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998.
    """

    operation = "avg_pool2d"

    kernel_size: IntOrPair
    stride: IntOrPair | None = None
    padding: IntOrPair | Literal["same", "valid"] = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    dilation: ClassVar[Pair] = (1, 1)  # type: ignore[misc]  # not a field: PyTorch's has none to set either

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        clipped = self.ceil_mode and self.padding != "same"
        return super().attributes(*input_shapes) | {
            "a0": int(self.count_include_pad),
            "a1": int(clipped),
        }


class _GlobalPool2d(Layer):
    """Base of the two global poolings, whose one window is as large as the image."""

    def output_shape(self, *input_shapes: Shape) -> Shape:
        return (self._image(input_shapes[0])[2],)

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {**_by_side("kernel", input_shapes[0]), "a0": 1}


class GlobalAvgPool2d(_GlobalPool2d):
    """The mean of each channel over the whole image: (H, W, C) to (C,).

    ``y[c] = Σ_{h,w} x[h,w,c] / (H·W)``. Lin, Chen, Yan: Network in network, 2014.
    """

    operation = "global_avg_pool2d"


class GlobalMaxPool2d(_GlobalPool2d):
    """The largest element of each channel over the whole image: (H, W, C) to (C,).

    ``y[c] = max over h,w of x[h,w,c]``. Oquab, Bottou, Laptev, Sivic: Is object localization for
    free?, 2015.
    """

    operation = "global_max_pool2d"
