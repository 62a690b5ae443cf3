"""Networks by name. To add one: a function from the number of outputs to layers, and its line in `PRESETS`."""

from collections.abc import Callable, Sequence

from minicnn.errors import NetworkError, UnknownNameError
from minicnn.network.activations import ReLU
from minicnn.network.layers import Conv2d, Dense, Flatten, Layer, MaxPool2d
from minicnn.network.network import Network


def softmax(outputs: int) -> list[Layer]:
    """The linear classifier of the teaching texts; the softmax itself is part of the loss."""
    return [Flatten(), Dense(outputs)]


def mlp(outputs: int) -> list[Layer]:
    """One hidden layer."""
    return [Flatten(), Dense(128), ReLU(), Dense(outputs)]


def lenet5(outputs: int) -> list[Layer]:
    """LeNet-5 with max pooling and ReLU, from 16×16 pixels on. LeCun, Bottou, Bengio, Haffner 1998."""
    return [
        *(Conv2d(6, 5), ReLU(), MaxPool2d(2)),
        *(Conv2d(16, 5), ReLU(), MaxPool2d(2)),
        *(Flatten(), Dense(120), ReLU(), Dense(84), ReLU(), Dense(outputs)),
    ]


def vgg_small(outputs: int) -> list[Layer]:
    """Two 3×3 convolutions that keep the size, from 4×4 pixels on. After Simonyan, Zisserman 2015."""
    return [
        *(Conv2d(32, 3, padding="same"), ReLU(), MaxPool2d(2)),
        *(Conv2d(64, 3, padding="same"), ReLU(), MaxPool2d(2)),
        *(Flatten(), Dense(128), ReLU(), Dense(outputs)),
    ]


PRESETS: dict[str, Callable[[int], list[Layer]]] = {
    "softmax": softmax,
    "mlp": mlp,
    "lenet5": lenet5,
    "vgg-small": vgg_small,
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
