"""Networks for the branches of the kernels that random ones seldom reach: `test_branches` says
which these are."""

from minicnn.network.activations import PReLU, ReLU, Softmax
from minicnn.network.layers import (
    Add,
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    MaxPool2d,
    Multiply,
)
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d, LayerNorm


def _added_to(layer, shape=(5, 6, 3), first=None):
    """``layer`` reads what a later layer reads too: its dx is added to that of the other."""
    first = first or Conv2d(shape[-1], 1, name="a")
    later = Flatten(inputs=("a",), name="c")
    return Network(
        shape, [first, layer, Flatten(name="b"), later, Add(inputs=("b", "c")), Dense(2)]
    )


def _reads(kind, *options, **more):
    return kind(*options, inputs=("a",), **more)


GEOMETRIES = {
    "max pooling of a width that is no multiple": Network(
        (4, 7, 3), [Conv2d(3, 1), MaxPool2d(2), Flatten()]
    ),
    "max pooling of a height that is no multiple": Network(
        (5, 6, 3), [Conv2d(3, 1), MaxPool2d(2), Flatten()]
    ),
    "max pooling beyond the right edge": Network(
        (4, 5, 3), [Conv2d(3, 1), MaxPool2d(2, ceil_mode=True), Flatten()]
    ),
    "max pooling beyond the lower edge": Network(
        (5, 4, 3), [Conv2d(3, 1), MaxPool2d(2, ceil_mode=True), Flatten()]
    ),
    "max pooling of 2×3": Network((4, 6, 3), [Conv2d(3, 1), MaxPool2d((2, 3)), Flatten()]),
    "max pooling of 3×3 after a ReLU": Network(
        (5, 6, 3), [Conv2d(3, 1), ReLU(), MaxPool2d(3, 2, 1), Flatten()]
    ),
    "max pooling added to": _added_to(_reads(MaxPool2d, 3, 1, 1)),
    "max pooling that covers added to": Network(
        (4, 6, 3),
        [
            Conv2d(3, 1, name="a"),
            _reads(MaxPool2d, 2, name="b"),
            _reads(MaxPool2d, 2, name="c"),
            Add(inputs=("b", "c")),
            Flatten(),
        ],
    ),
    "convolution added to": _added_to(_reads(Conv2d, 3, 3, padding=1)),
    "convolution outside of the image added to": Network(
        (3, 3, 8),
        [
            Conv2d(8, 1, name="a"),
            _reads(Conv2d, 8, 1, padding=2, name="b"),
            _reads(Conv2d, 8, 1, padding=2, name="c"),
            Add(inputs=("b", "c")),
            Flatten(),
        ],
    ),
    "convolution of few channels in steps added to": Network(
        (6, 6, 2),
        [
            Conv2d(2, 1, name="a"),
            _reads(Conv2d, 3, 3, 2, name="b"),
            _reads(Conv2d, 3, 3, 2, name="c"),
            Add(inputs=("b", "c")),
            Flatten(),
        ],
    ),
    "convolution of few channels": Network(
        (6, 6, 2), [Conv2d(2, 1), Conv2d(3, 3, padding=1), Flatten()]
    ),
    "taps that read padding alone, above and below": Network(
        (1, 3, 2),
        [Conv2d(2, 1), Conv2d(3, (2, 1), padding="same", dilation=(2, 1)), Flatten()],
    ),
    "groups, taps that read padding alone": Network(
        (2, 2, 4),
        [Conv2d(4, 1), Conv2d(4, 3, padding=2, dilation=2, groups=2), Flatten()],
    ),
    "groups of the images": Network(
        (4, 5, 4), [Conv2d(4, 3, padding=1, groups=2, bias=False), Flatten()]
    ),
    "groups with a bias": Network((4, 5, 4), [Conv2d(4, 1), Conv2d(8, 2, groups=2), Flatten()]),
    "groups added to": _added_to(_reads(Conv2d, 4, 3, padding=1, groups=2), (5, 6, 4)),
    "depthwise of 3×3, padded": Network(
        (4, 5, 3), [Conv2d(3, 1), Conv2d(3, 3, padding=1, groups=3), Flatten()]
    ),
    "depthwise added to": _added_to(_reads(Conv2d, 3, 3, padding=1, groups=3)),
    "depthwise of few channels in steps": Network(
        (5, 6, 2), [Conv2d(2, 1), Conv2d(2, 3, 2, padding=1, groups=2), Flatten()]
    ),
    "depthwise of the images, of few channels": Network(
        (5, 6, 2), [Conv2d(2, 3, padding=1, groups=2), Flatten()]
    ),
    "depthwise of many channels, taps that read padding alone": Network(
        (3, 4, 128), [Conv2d(128, 1), Conv2d(128, 3, 2, padding=3, groups=128), ReLU(), Flatten()]
    ),
    "depthwise of many channels, without a bias": Network(
        (4, 3, 64), [Conv2d(64, (2, 4), padding=2, dilation=2, groups=64, bias=False), Flatten()]
    ),
    "depthwise of many channels added to": _added_to(
        _reads(Conv2d, 64, 3, padding=1, groups=64), (4, 3, 64)
    ),
    "the image added": Network(
        (3, 4, 2),
        [
            Conv2d(2, 1, name="a"),
            Add(inputs=("a", "input"), name="b"),
            Add(inputs=("input", "b")),
            Flatten(),
        ],
    ),
    "a factor added to": _added_to(Multiply(inputs=("a", "a"))),
    "a factor of the image": Network(
        (3, 4, 2),
        [
            AvgPool2d((3, 4), name="g"),
            Conv2d(2, 1, inputs=("input",)),
            Multiply(inputs=("conv1", "g")),
            Flatten(),
        ],
    ),
    "a factor, its value read later": Network(
        (3, 4, 2),
        [
            Conv2d(2, 1, name="a"),
            Conv2d(2, 1, name="g"),
            Multiply(inputs=("a", "g")),
            Flatten(name="b"),
            Flatten(inputs=("a",), name="c"),
            Add(inputs=("b", "c")),
            Dense(2),
        ],
    ),
    "PReLU added to": _added_to(_reads(PReLU)),
    "ReLU added to": _added_to(_reads(ReLU)),
    "normalization added to": _added_to(_reads(BatchNorm2d)),
    "normalization of one number": Network((1, 1, 3), [Conv2d(3, 1), BatchNorm2d(), Flatten()]),
    "softmax of the images": Network((1, 1, 5), [Flatten(), Softmax()]),
    "average pooling of what is inside": Network(
        (5, 4, 3),
        [Conv2d(3, 1), AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), Flatten()],
    ),
    "average pooling beyond the padding": Network(
        (6, 4, 2), [Conv2d(2, 1), AvgPool2d(3, 2, 1, ceil_mode=True), Flatten()]
    ),
    "max pooling of every second line": Network(
        (6, 6, 2), [Conv2d(2, 1), MaxPool2d(2, 2, 0, (2, 1)), Flatten()]
    ),
    "max pooling of every second column": Network(
        (6, 6, 2), [Conv2d(2, 1), MaxPool2d(2, 2, 0, (1, 2)), Flatten()]
    ),
    "convolution that leaves pixels out added to": Network(
        (4, 4, 8),
        [
            Conv2d(8, 1, name="a"),
            _reads(Conv2d, 8, 2, dilation=3, name="b"),
            _reads(Conv2d, 8, 2, dilation=3, name="c"),
            Add(inputs=("b", "c")),
            Flatten(),
        ],
    ),
    "filters larger than a core's cache": Network(
        (3, 2, 64), [Conv2d(64, 1), Conv2d(128, 3, padding=1), Flatten()]
    ),
    "depthwise": Network((4, 5, 3), [Conv2d(3, 1), Conv2d(3, 3, groups=3), Flatten()]),
    "normalization of more channels than a cache line": Network(
        (4, 5, 3), [Conv2d(19, 1), BatchNorm2d(), ReLU(), Flatten()]
    ),
    "normalization and ReLU": Network((4, 5, 3), [Conv2d(3, 1), BatchNorm2d(), ReLU(), Flatten()]),
    "a sum and ReLU": Network(
        (4, 5, 3),
        [
            Conv2d(3, 1, name="a"),
            Conv2d(3, 1, name="b"),
            Add(inputs=("b", "a"), name="c"),
            ReLU(name="d"),
            Multiply(inputs=("d", "a")),
            Flatten(),
        ],
    ),
    "the images": Network((2, 1, 3), [Flatten()]),
    "a sum of one value and ReLU": Network(
        (4, 5, 3), [Conv2d(3, 1, name="a"), Add(inputs=("a", "a")), ReLU(), Flatten()]
    ),
    "convolution and ReLU": Network(
        (6, 5, 3), [Conv2d(4, 3, padding=1), ReLU(), Conv2d(2, 2, 2), ReLU(), Flatten()]
    ),
    "3×3 convolution of many channels and ReLU": Network(
        (8, 8, 16), [Conv2d(16, 3, padding="same"), ReLU(), Flatten()]
    ),
    "filters larger than a core's cache and ReLU": Network(
        (3, 2, 64), [Conv2d(128, 3, padding=1), ReLU(), Flatten()]
    ),
    "depthwise and ReLU, taps that read padding alone": Network(
        (2, 2, 3),
        [Conv2d(3, 1), Conv2d(3, 2, padding=2, dilation=3, groups=3), ReLU(), Flatten()],
    ),
    "dense and ReLU": Network(
        (9, 10, 6), [Flatten(), Dense(4), ReLU(), Dense(7), ReLU(), Dense(2)]
    ),
    "layer normalization": Network((2, 3, 3), [Conv2d(3, 1), LayerNorm(), Flatten()]),
    "layer normalization added to": _added_to(_reads(LayerNorm)),
    "dropout added to": _added_to(_reads(Dropout, 0.5)),
    "PReLU": Network((3, 4, 3), [Conv2d(3, 1), PReLU(), Flatten()]),
}
