"""Small models and data for the tests of insight."""

import numpy as np

from minicnn.inference import Model
from minicnn.network.activations import ReLU, Tanh
from minicnn.network.layers import Conv2d, Dense, Dropout, Flatten, MaxPool2d
from minicnn.network.network import Network
from tests.networks import random_params

CONVOLUTIONAL = Network(
    (8, 8),
    [
        Conv2d(4, 3, padding=1),
        ReLU(),
        MaxPool2d(2),
        Dropout(0.5),
        Conv2d(6, 3),
        Tanh(),
        Flatten(),
        Dense(5),
        Tanh(),
        Dense(3),
    ],
)
LINEAR = Network((1, 2), [Flatten(), Dense(2)])


def small_model(network=CONVOLUTIONAL, loss="cross_entropy", seed=0, **hyperparameters):
    """A model with random weights that says it was trained with ``loss``."""
    training = {"loss": {"name": loss, "class_weights": None, "hyperparameters": hyperparameters}}
    params = random_params(network, np.random.default_rng(seed)).astype(np.float32)
    classes = tuple(str(number) for number in range(network.outputs))
    return Model(network, params, classes, 1.0, "float32", training=training)


def small_data(network=CONVOLUTIONAL, images=12, seed=1):
    rng = np.random.default_rng(seed)
    return rng.random((images, *network.input_shape), np.float32), rng.integers(
        0, network.outputs, images
    )
