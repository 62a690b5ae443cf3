"""All layers except activations and normalizations: those of `minicnn.network.windows`, dense
layers, joins, and dropout."""

import math
from dataclasses import dataclass
from functools import partial

from minicnn.errors import NetworkError
from minicnn.network import checks, windows
from minicnn.network.layer import Layer, Shape
from minicnn.network.windows import *

__all__ = ["Add", "Concat", "Dense", "DropPath", "Dropout", "Dropout2d", "Flatten", "Multiply"]
__all__ += windows.__all__


class Flatten(Layer):
    """All elements in one row, in the order height, width, channel: (H, W, C) to (H·W·C,).

    ``y[(h·W + w)·C + c] = x[h,w,c]``
    """

    operation = "flatten"

    def output_shape(self, *input_shapes: Shape) -> Shape:
        return (math.prod(input_shapes[0]),)


@dataclass(frozen=True)
class Dense(Layer, units=checks.integer, bias=checks.flag):
    """The fully connected layer ``y = x · weight + bias``: weight (in, units), bias (units,).

    Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, 1986.
    """

    operation = "dense"

    units: int
    bias: bool = True

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if len(input_shapes[0]) != 1:
            raise NetworkError(
                f"{self} needs one row of features, but its input is {input_shapes[0]}; "
                "put Flatten or GlobalAvgPool2d before it"
            )
        return (self.units,)

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        bias = {"bias": (self.units,)} if self.bias else {}
        return {"weight": (*input_shapes[0], *self.output_shape(*input_shapes)), **bias}

    def multiply_adds(self, *input_shapes: Shape) -> int:
        return input_shapes[0][0] * self.units


class Add(Layer):
    """The sum of values of one shape: ``y = x₁ + x₂ + …``. He et al.: Deep residual learning,
    2016."""

    operation = "add"
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
    """The channels of all inputs, one after another: (H, W, C₁) and (H, W, C₂) to (H, W, C₁ + C₂).

    ``y[h,w,:] = (x₁[h,w,:], x₂[h,w,:], …)``. Szegedy et al.: Going deeper with convolutions, 2015.
    """

    operation = "concat"
    arity = (2, None)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if len({shape[:-1] for shape in input_shapes}) > 1:
            shapes = " and ".join(map(str, input_shapes))
            raise NetworkError(
                f"{self} needs inputs of one height and width, not {shapes}: pooling, a stride or padding "
                "makes them so"
            )
        return *input_shapes[0][:-1], sum(shape[-1] for shape in input_shapes)


class Multiply(Layer):
    """The product of two values of one shape, or of an image and one number per channel, (1, 1, C) or
    (C,): a gate.

    ``y[h,w,c] = x[h,w,c] · g``, g being x₂[h,w,c] or x₂[c]

    Hu, Shen, Sun: Squeeze-and-excitation networks, 2018.
    """

    operation = "multiply"
    arity = (2, 2)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        first, second = input_shapes
        gates = [(1, 1, first[-1]), first[-1:]] if len(first) == 3 else []
        if second not in (first, *gates):
            fitting = ", ".join(map(str, (first, *gates)))
            raise NetworkError(f"{self} needs a second input of the shape {fitting}, not {second}")
        return first


@dataclass(frozen=True)
class Dropout(Layer, rate=partial(checks.number, minimum=0, below=1)):
    """In training ``y = x · m / (1 − rate)``, where the m of an element is 0 with probability
    ``rate``, else 1; otherwise ``y = x``.

    Srivastava et al.: Dropout: a simple way to prevent neural networks from overfitting, 2014.
    """

    operation = "dropout"

    rate: float = 0.5

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {"f0": self.rate}


class Dropout2d(Dropout):
    """Dropout of whole channels of a sample: ``y[h,w,c] = x[h,w,c] · m[c] / (1 − rate)``, m[c]
    being 0 or 1. Tompson et al.: Efficient object localization using CNNs, 2015."""

    operation = "dropout2d"


class DropPath(Dropout):
    """Dropout of whole samples of a branch: stochastic depth. ``y = x · m / (1 − rate)``, m being 0
    or 1. Huang et al.: Deep networks with stochastic depth, 2016."""

    operation = "drop_path"
