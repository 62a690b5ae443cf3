"""The networks that are compared, with images and labels to train them on."""

from functools import cache

import numpy as np

from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU, load_dataset, preset


def colour() -> Network:
    """Two pairs of 3×3 convolutions on 32×32×3."""
    return Network(
        (32, 32, 3),
        [
            *(
                Conv2d(32, 3, padding="same"),
                ReLU(),
                Conv2d(32, 3, padding="same"),
                ReLU(),
                MaxPool2d(2),
            ),
            *(
                Conv2d(64, 3, padding="same"),
                ReLU(),
                Conv2d(64, 3, padding="same"),
                ReLU(),
                MaxPool2d(2),
            ),
            *(Flatten(), Dense(128), ReLU(), Dense(10)),
        ],
        "colour",
    )


NETWORKS = {
    "LeNet-5": preset("lenet5", (28, 28, 1), 10),
    "vgg-small": preset("vgg-small", (28, 28, 1), 10),
    "colour": colour(),
    "resnet8": preset("resnet8", (32, 32, 3), 10),
    "mobilenet-v1-025": preset("mobilenet-v1-025", (96, 96, 3), 2),
    "ds-cnn": preset("ds-cnn", (49, 10, 1), 12),
    "fast": preset("fast", (32, 32, 3), 10),
}


@cache
def initial_weights(name: str) -> np.ndarray:
    """The same first weights for everybody, minicnn's flat vector."""
    return NETWORKS[name].initialize(np.random.default_rng(0))


@cache
def images_for(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [N, H, W, C] and labels [N]: Fashion-MNIST for 28×28×1, else noise.

    Enough of them that no network learns them by heart while it is timed: gradients that vanish
    would become denormal numbers, with which every framework is slow.
    """
    if shape == (28, 28, 1):
        data = load_dataset("fashion-mnist-12k").train
        return data.images, data.labels
    rng = np.random.default_rng(3)
    classes = next(net.outputs for net in NETWORKS.values() if net.input_shape == shape)
    return rng.integers(0, 256, (4096, *shape), dtype=np.uint8), rng.integers(0, classes, 4096)
