"""Networks by name. To add one: a function from the number of outputs to layers, and its line in
`PRESETS`."""

from collections.abc import Callable, Sequence

from minicnn.errors import NetworkError, UnknownNameError
from minicnn.network.activations import GELU, ReLU
from minicnn.network.blocks import Branches, Residual
from minicnn.network.layers import (
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Layer,
    MaxPool2d,
)
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d

Layers = list[Layer | Branches]


def softmax(outputs: int) -> Layers:
    """The linear classifier of the teaching texts; the softmax itself is part of the loss."""
    return [Flatten(), Dense(outputs)]


def mlp(outputs: int) -> Layers:
    """One hidden layer."""
    return [Flatten(), Dense(128), ReLU(), Dense(outputs)]


def lenet5(outputs: int) -> Layers:
    """LeNet-5 with max pooling and ReLU, from 16×16 pixels on. LeCun, Bottou, Bengio, Haffner
    1998."""
    return [
        *(Conv2d(6, 5), ReLU(), MaxPool2d(2)),
        *(Conv2d(16, 5), ReLU(), MaxPool2d(2)),
        *(Flatten(), Dense(120), ReLU(), Dense(84), ReLU(), Dense(outputs)),
    ]


def vgg_small(outputs: int) -> Layers:
    """Two 3×3 convolutions that keep the size, from 4×4 pixels on. After Simonyan, Zisserman
    2015."""
    return [
        *(Conv2d(32, 3, padding="same"), ReLU(), MaxPool2d(2)),
        *(Conv2d(64, 3, padding="same"), ReLU(), MaxPool2d(2)),
        *(Flatten(), Dense(128), ReLU(), Dense(outputs)),
    ]


def vgg_bn(outputs: int) -> Layers:
    """vgg-small with batch normalization after each layer but the last, from 4×4 pixels on."""
    return _normalized_vgg((32, 64), 128, outputs)


def vgg_bn_tiny(outputs: int) -> Layers:
    """vgg-bn with a quarter of its filters and half of its units, from 4×4 pixels on."""
    return _normalized_vgg((8, 16), 64, outputs)


def vgg_bn_deep(outputs: int) -> Layers:
    """Five 3×3 convolutions of 32, 64 and 128 filters with batch normalization, from 8×8 pixels
    on."""
    layers: Layers = [Conv2d(32, 3, padding="same"), ReLU(), MaxPool2d(2), BatchNorm2d()]
    for filters in (64, 128):
        layers += [Conv2d(filters, 3, padding="same"), ReLU(), BatchNorm2d()]
        layers += [Conv2d(filters, 3, padding="same"), ReLU(), MaxPool2d(2), BatchNorm2d()]
    return [*layers, Flatten(), Dense(outputs)]


def resnet8(outputs: int) -> Layers:
    """The residual network of MLPerf Tiny's image classification: 32×32×3, 10 classes.

    Banbury et al.: MLPerf Tiny benchmark, 2021.
    """
    return _resnet(1, outputs)


def resnet20(outputs: int) -> Layers:
    """The residual network for CIFAR-10 of 20 layers, with 1×1 convolutions in shortcuts between
    stages.

    He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016, section 4.2.
    """
    return _resnet(3, outputs)


def mobilenet_v1_025(outputs: int) -> Layers:
    """MobileNet of a quarter of the width, as in MLPerf Tiny's visual wake words: 96×96×3, 2
    classes.

    Howard et al.: MobileNets, 2017, table 1, with α = 0.25.
    """
    return [
        *_normalized(8, 3, stride=2),
        *_separable(8, 16),
        *_separable(16, 32, stride=2),
        *_separable(32, 32),
        *_separable(32, 64, stride=2),
        *_separable(64, 64),
        *_separable(64, 128, stride=2),
        *(layer for _ in range(5) for layer in _separable(128, 128)),
        *_separable(128, 256, stride=2),
        *_separable(256, 256),
        *(GlobalAvgPool2d(), Dense(outputs)),
    ]


def ds_cnn(outputs: int) -> Layers:
    """The depthwise-separable network of MLPerf Tiny's keyword spotting: 49×10×1, 12 classes;
    without its dropout.

    Zhang, Suda, Lai, Chandra: Hello edge: keyword spotting on microcontrollers, 2017.
    """
    blocks = [layer for _ in range(4) for layer in _separable(64, 64)]
    return [*_normalized(64, (10, 4), stride=2), *blocks, GlobalAvgPool2d(), Dense(outputs)]


def fast(outputs: int) -> Layers:
    """A straight network that learns CIFAR-10 within seconds on a GPU, from 9×9 pixels on.

    Its first convolution is to whiten 2×2 pixels: 24 filters are two for each of the 12 numbers of
    a coloured patch. Jordan: 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024.
    """
    layers: Layers = [Conv2d(24, 2), GELU()]
    for filters in (64, 256, 256):
        first, second = (Conv2d(filters, 3, padding="same", bias=False) for _ in range(2))
        layers += [first, MaxPool2d(2), BatchNorm2d(), GELU()]
        layers += [second, BatchNorm2d(), GELU()]
    return [*layers, GlobalMaxPool2d(), Dense(outputs)]


def _normalized_vgg(filters: Sequence[int], units: int, outputs: int) -> Layers:
    """Convolutions, each halved, and one hidden layer, with batch normalization."""
    layers: Layers = []
    for count in filters:
        layers += [Conv2d(count, 3, padding="same"), ReLU(), MaxPool2d(2), BatchNorm2d()]
    hidden: Layers = [Dense(units, bias=False), BatchNorm2d(), ReLU()]
    return [*layers, Flatten(), *hidden, Dense(outputs)]


def _resnet(blocks: int, outputs: int) -> Layers:
    """Three stages of ``blocks`` residual blocks of two convolutions, with 16, 32 and 64
    filters."""
    layers = _normalized(16, 3)
    for filters in (16, 32, 64):
        for block in range(blocks):
            stride = 2 if filters > 16 and block == 0 else 1
            inner = [*_normalized(filters, 3, stride), *_normalized(filters, 3)[:-1]]
            shortcut = [Conv2d(filters, 1, stride)] if stride == 2 else []
            layers += [Residual(inner, shortcut), ReLU()]
    return [*layers, GlobalAvgPool2d(), Dense(outputs)]


def _normalized(
    filters: int, kernel_size: int | tuple[int, int], stride: int = 1, groups: int = 1
) -> Layers:
    """A convolution, batch normalization and ReLU."""
    convolution = Conv2d(filters, kernel_size, stride, "same", bias=False, groups=groups)
    return [convolution, BatchNorm2d(), ReLU()]


def _separable(channels: int, filters: int, stride: int = 1) -> Layers:
    """A 3×3 convolution of each channel by itself, then a 1×1 convolution."""
    return [*_normalized(channels, 3, stride, groups=channels), *_normalized(filters, 1)]


PRESETS: dict[str, Callable[[int], Layers]] = {
    "softmax": softmax,
    "mlp": mlp,
    "lenet5": lenet5,
    "vgg-small": vgg_small,
    "vgg-bn": vgg_bn,
    "vgg-bn-tiny": vgg_bn_tiny,
    "vgg-bn-deep": vgg_bn_deep,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "mobilenet-v1-025": mobilenet_v1_025,
    "ds-cnn": ds_cnn,
    "fast": fast,
}


def preset(name: str, input_shape: Sequence[int], outputs: int) -> Network:
    """The preset ``name`` for images of ``input_shape`` and ``outputs`` classes.

    Raises `UnknownNameError` for another name, `NetworkError` for images that are too small.
    """
    if name not in PRESETS:
        raise UnknownNameError("network", name, PRESETS, "a FILE.toml describes any other")
    try:
        return Network(input_shape, PRESETS[name](outputs), name)
    except NetworkError as error:
        raise NetworkError(
            f"{name} does not fit images of {tuple(input_shape)}: {error}; softmax and mlp take images of any size"
        ) from None
