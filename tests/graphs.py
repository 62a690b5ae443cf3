"""Random networks for hypothesis: branches, several readers, every kind of layer, shapes that are
odd and small."""

import math

from hypothesis import strategies as st

from minicnn.errors import NetworkError, SettingError
from minicnn.network import activations as a
from minicnn.network.layers import (
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Dense,
    Dropout,
    Dropout2d,
    DropPath,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool2d,
    Multiply,
)
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm

ACTIVATIONS = (
    a.ReLU,
    a.ReLU6,
    a.LeakyReLU,
    a.PReLU,
    a.ELU,
    a.Sigmoid,
    a.HardSigmoid,
    a.Tanh,
    a.SiLU,
    a.HardSwish,
    a.Mish,
    a.Softplus,
    a.GELU,
    lambda **k: a.GELU("tanh", **k),
    lambda **k: a.LeakyReLU(0.3, **k),
    lambda **k: a.ELU(0.5, **k),
)
LARGEST = 600  # numbers in a sample of a value


def _convolution(draw, shape):
    channels = shape[-1]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    filters = groups * draw(st.integers(1, max(1, 6 // groups)))
    side = st.integers(0, 3)
    padding = draw(
        st.one_of(
            st.just("same"),
            st.just("valid"),
            st.tuples(side, side),
            st.tuples(side, side, side, side),
        )
    )
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return lambda **k: Conv2d(
        filters, kernel, draw(pair), padding, draw(pair), draw(st.booleans()), groups, **k
    )


def _pooling(draw, shape):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.one_of(st.just("same"), st.tuples(*(st.integers(0, k // 2) for k in kernel))))
    ceil = draw(st.booleans())
    if draw(st.booleans()):
        dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        return lambda **k: MaxPool2d(kernel, stride, padding, dilation, ceil, **k)
    return lambda **k: AvgPool2d(kernel, stride, padding, ceil, draw(st.booleans()), **k)


def _normalization(draw, shape):
    groups = draw(st.sampled_from([g for g in range(1, shape[-1] + 1) if shape[-1] % g == 0]))
    momentum = draw(st.sampled_from([0.1, 0.5, 1.0]))
    return draw(
        st.sampled_from(
            [
                lambda **k: BatchNorm2d(momentum=momentum, **k),
                lambda **k: GroupNorm(groups, **k),
                LayerNorm,
            ]
        )
    )


def _dropout(draw, shape):
    kind, rate = (
        draw(st.sampled_from([Dropout, Dropout2d, DropPath])),
        draw(st.sampled_from([0.0, 0.3, 0.5])),
    )
    return lambda **k: kind(rate, **k)


def _to_row(draw, shape):
    choices = [Flatten, GlobalAvgPool2d, GlobalMaxPool2d] if len(shape) == 3 else [Flatten]
    return draw(st.sampled_from(choices))


class _Graph:
    """A network as it grows: layers that all have a name, the shapes of the values, and who is
    read."""

    def __init__(self, draw, shape):
        self.draw, self.layers, self.names, self.shapes, self.read = (
            draw,
            [],
            ["input"],
            [shape],
            set(),
        )

    def add(self, make, *values, largest=LARGEST):
        """Add the layer that ``make`` gives, unless it does not fit."""
        try:
            layer = make(
                name=f"v{len(self.layers) + 1}", inputs=tuple(self.names[value] for value in values)
            )
            shape = layer.output_shape(*(self.shapes[value] for value in values))
        except (NetworkError, SettingError):
            return
        if math.prod(shape) <= largest:
            self.layers.append(layer)
            self.names.append(layer.name)
            self.shapes.append(shape)
            self.read |= set(values)

    def value(self, fits=lambda shape: True):
        """A value to read: often the last one, so that chains come about; None where none fits."""
        fitting = [value for value, shape in enumerate(self.shapes) if fits(shape)]
        if not fitting:
            return None
        return self.draw(st.one_of(st.just(fitting[-1]), st.sampled_from(fitting)))

    def join(self):
        """Add, Concat or Multiply of values that fit, which may be one value twice."""
        kind = self.draw(st.sampled_from([Add, Concat, Multiply]))
        first = self.value()
        shape = self.shapes[first]
        if kind is Multiply:
            second = self.value(lambda other: other in (shape, (1, 1, shape[-1]), shape[-1:]))
            return self.add(kind, first, first if second is None else second)
        others = [
            self.value(
                lambda other: other == shape or (kind is Concat and other[:-1] == shape[:-1])
            )
            for _ in range(self.draw(st.integers(1, 2)))
        ]
        return self.add(kind, first, *others)

    def gate(self):
        """Squeeze and excitation: one number per channel, of what it multiplies."""
        value = self.value(lambda shape: len(shape) == 3)
        if value is None:
            return
        self.add(GlobalAvgPool2d, value)
        self.add(lambda **k: Dense(self.shapes[value][-1], **k), len(self.shapes) - 1)
        self.add(self.draw(st.sampled_from([a.Sigmoid, a.HardSigmoid])), len(self.shapes) - 1)
        self.add(Multiply, value, len(self.shapes) - 1)

    def layer(self):
        """Any layer of one input."""
        kinds = [
            "window",
            "window",
            "pool",
            "activation",
            "activation",
            "norm",
            "norm",
            "dropout",
            "row",
        ]
        kind = self.draw(st.sampled_from(kinds))
        images = kind in ("window", "pool")
        value = self.value((lambda shape: len(shape) == 3) if images else lambda shape: True)
        if value is None:
            return
        shape = self.shapes[value]
        if kind == "activation":
            self.add(self.draw(st.sampled_from(ACTIVATIONS)), value)
        elif kind == "row" and len(shape) == 1:
            units, bias = self.draw(st.integers(1, 9)), self.draw(st.booleans())
            self.add(lambda **k: Dense(units, bias, **k), value)
        else:
            makers = {
                "window": _convolution,
                "pool": _pooling,
                "norm": _normalization,
                "dropout": _dropout,
                "row": _to_row,
            }
            self.add(makers[kind](self.draw, shape), value)

    def end(self):
        """Whatever nobody reads becomes part of one row, from which the logits come."""
        unread = [
            value for value in range(len(self.shapes)) if value not in self.read and value > 0
        ] or [0]
        rows = []
        for value in unread:
            if len(self.shapes[value]) == 3:
                self.add(_to_row(self.draw, self.shapes[value]), value)
                value = len(self.shapes) - 1
            rows.append(value)
        if len(rows) > 1:
            self.add(Concat, *rows, largest=math.inf)
        outputs = self.draw(st.integers(1, 4))
        self.add(
            lambda **k: Dense(outputs, **k), rows[0] if len(rows) == 1 else len(self.shapes) - 1
        )
        if self.draw(st.integers(0, 7)) == 0:
            self.add(a.Softmax, len(self.shapes) - 1)


@st.composite
def graphs(draw, most_layers=9):
    """A valid `Network` of up to about 20 layers, for images of up to 12×12×4."""
    side = st.integers(1, 12)
    graph = _Graph(draw, (draw(side), draw(side), draw(st.integers(1, 4))))
    for _ in range(draw(st.integers(1, most_layers))):
        draw(st.sampled_from([*[graph.layer] * 8, graph.join, graph.join, graph.gate]))()
    graph.end()
    return Network(graph.shapes[0], graph.layers, "random")
