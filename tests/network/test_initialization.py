"""First weights: their formulas, and that they depend on the seed alone."""

import math

import numpy as np
import pytest

from minicnn.network.activations import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from minicnn.network.layers import Conv2d, Dense, Dropout, Flatten, MaxPool2d
from minicnn.network.network import Network
from minicnn.network.presets import preset

HE_CONV, HE_DENSE = 2 / (3 * 5 * 8), 2 / 400
GLOROT_CONV, GLOROT_DENSE = 2 / (3 * 5 * (8 + 200)), 2 / (400 + 300)


def weights(layers, input_shape) -> dict[str, np.ndarray]:
    network = Network(input_shape, layers)
    return network.unflatten(network.initialize(np.random.default_rng(3), np.float64))


@pytest.mark.parametrize(
    ("activation", "conv_variance", "dense_variance"),
    [
        (ReLU(), HE_CONV, HE_DENSE),
        (SiLU(), HE_CONV, HE_DENSE),
        (GELU(), HE_CONV, HE_DENSE),
        (LeakyReLU(0.5), HE_CONV / 1.25, HE_DENSE / 1.25),
        (Sigmoid(), GLOROT_CONV, GLOROT_DENSE),
        (Tanh(), GLOROT_CONV, GLOROT_DENSE),
    ],
    ids=str,
)
def test_the_variance_is_that_of_the_formula_for_the_activation_that_follows(
    activation, conv_variance, dense_variance
):
    conv = weights([Conv2d(200, (3, 5)), activation, Flatten(), Dense(1)], (3, 5, 8))[
        "conv1.weight"
    ]
    dense = weights([Flatten(), Dense(300), activation, Dense(1)], (20, 20, 1))["dense1.weight"]
    # The variance of n values strays by about sqrt(2 / n), here 0.9% and 0.4%.
    assert conv.var() == pytest.approx(conv_variance, rel=0.04)
    assert dense.var() == pytest.approx(dense_variance, rel=0.02)
    assert abs(conv.mean()) < 5 * math.sqrt(conv_variance / conv.size)
    assert abs(dense.mean()) < 5 * math.sqrt(dense_variance / dense.size)


def test_the_output_layer_is_glorot_uniform_within_its_limit():
    weight = weights([Flatten(), Dense(300)], (20, 20, 1))["dense1.weight"]
    limit = math.sqrt(6 / (400 + 300))
    assert 0.99 * limit < np.abs(weight).max() <= limit
    assert weight.var() == pytest.approx(GLOROT_DENSE, rel=0.02)


def test_the_activation_is_found_past_pooling_dropout_and_flattening():
    layers = [Conv2d(200, (3, 5)), MaxPool2d(1), Dropout(), Flatten(), ReLU(), Dense(1)]
    assert weights(layers, (3, 5, 8))["conv1.weight"].var() == pytest.approx(HE_CONV, rel=0.04)


def test_an_activation_behind_the_next_weights_does_not_count():
    weight = weights([Flatten(), Dense(300), Dense(50), ReLU(), Dense(1)], (20, 20, 1))[
        "dense1.weight"
    ]
    assert weight.var() == pytest.approx(GLOROT_DENSE, rel=0.02)


def test_biases_and_gaps_are_zero():
    network = preset("lenet5", (28, 28, 1), 10)
    flat = network.initialize(np.random.default_rng(0))
    tensors = network.unflatten(flat)
    assert {name for name, tensor in tensors.items() if not tensor.any()} == {
        name for name in tensors if name.endswith(".bias")
    }
    assert np.count_nonzero(flat) == sum(
        t.size for name, t in tensors.items() if name.endswith(".weight")
    )


def test_one_seed_gives_one_start_in_either_dtype_and_another_seed_another():
    network = preset("lenet5", (28, 28, 1), 10)
    single, again, other = (network.initialize(np.random.default_rng(seed)) for seed in (7, 7, 8))
    double = network.initialize(np.random.default_rng(7), np.float64)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(single, again)
    np.testing.assert_array_equal(single, double.astype(np.float32))
    assert not np.array_equal(single, other)
