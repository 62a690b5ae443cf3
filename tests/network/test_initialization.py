"""First weights: their formulas, and that they depend on the seed alone."""

import math

import numpy as np
import pytest

from minicnn.errors import NetworkError, UnknownNameError
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


def start(network, methods, images=None):
    """The tensors by name."""
    return network.unflatten(
        network.initialize(np.random.default_rng(0), np.float64, methods, images)
    )


def test_dirac_filters_give_their_channel_and_the_others_stay():
    layers = [Conv2d(5, 3, padding="same", bias=False), Conv2d(4, 1), Flatten(), Dense(2)]
    network = Network((4, 6, 2), layers)
    drawn, found = start(network, {}), start(network, {"conv1": "dirac"})
    x = np.random.default_rng(1).random((4, 6, 2))
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
    y = np.einsum("pqcrs,rsck->pqk", windows, found["conv1.weight"])
    assert (y[..., :2] == x).all()
    assert (found["conv1.weight"][..., 2:] == drawn["conv1.weight"][..., 2:]).all()
    assert (found["conv2.weight"] == drawn["conv2.weight"]).all()


def test_dirac_filters_in_groups_give_the_channels_of_their_group():
    network = Network((4, 4, 4), [Conv2d(6, 3, padding=1, groups=2), Flatten(), Dense(2)])
    weight = start(network, {"conv1": "dirac"})["conv1.weight"]
    drawn = start(network, {})["conv1.weight"]
    for k in range(6):  # of three filters a group, two have a channel each
        if k % 3 < 2:
            expected = np.zeros((3, 3, 2))
            expected[1, 1, k % 3] = 1
        else:
            expected = drawn[..., k]
        assert (weight[..., k] == expected).all()


@pytest.mark.parametrize(("filters", "dilation"), [(24, 1), (10, 1), (29, (1, 2))])
def test_whitened_patches_are_uncorrelated_and_of_variance_one(filters, dilation):
    rng = np.random.default_rng(0)
    images = np.cumsum(rng.random((300, 7, 8, 3)), axis=2)  # neighbours resemble each other
    layers = [Conv2d(filters, 2, dilation=dilation), ReLU(), Flatten(), Dense(2)]
    network = Network((7, 8, 3), layers)
    weight = start(network, {"conv1": "whitening"}, images)["conv1.weight"]
    step = dilation[1] if isinstance(dilation, tuple) else dilation
    y = sum(
        images[:, r : r + 6, s * step : s * step + 8 - step] @ weight[r, s]
        for r in range(2)
        for s in range(2)
    ).reshape(-1, filters)
    half = min(filters // 2, 12)
    moment = y.T @ y / len(y)
    # ε lowers the variance of a direction that the images hardly take.
    assert np.abs(moment[:half, :half] - np.diag(np.diag(moment)[:half])).max() < 1e-9
    assert moment[0, 0] == pytest.approx(1, abs=1e-3) and np.diag(moment)[:half].max() <= 1 + 1e-9
    assert (weight[..., half : 2 * half] == -weight[..., :half]).all()
    drawn = start(network, {})["conv1.weight"]
    assert (weight[..., 2 * half :] == drawn[..., 2 * half :]).all()


def test_methods_that_fit_nothing_are_refused():
    network = Network(
        (4, 4, 2),
        [Conv2d(4, 3), Conv2d(4, 1, groups=2), Conv2d(1, 3, padding=1), Flatten(), Dense(2)],
    )
    with pytest.raises(
        UnknownNameError, match=r"unknown initialization 'he'.*dirac, whitening, zeros"
    ):
        start(network, {"conv1": "he"})
    with pytest.raises(UnknownNameError, match="layer to initialize 'dense2'"):
        start(network, {"dense2": "zeros"})
    with pytest.raises(NetworkError, match="dirac is for convolutions, and dense1 is none"):
        start(network, {"*": "dirac"})
    with pytest.raises(NetworkError, match=r"conv3 cannot whiten: .* of the images"):
        start(network, {"conv3": "whitening"})
    with pytest.raises(NetworkError, match="no larger than they are"):
        start(Network((2, 2), [Conv2d(4, 3, padding=1), Flatten()]), {"conv1": "whitening"})
    with pytest.raises(NetworkError, match="training images, which are missing"):
        start(network, {"conv1": "whitening"})


def test_zeros_are_for_any_weight():
    network = Network((4, 4), [Conv2d(2, 3), Flatten(), Dense(3)])
    found, drawn = start(network, {"*": "zeros"}), start(network, {"dense1": "zeros"})
    assert not any(tensor.any() for tensor in found.values())
    assert drawn["conv1.weight"].all() and not drawn["dense1.weight"].any()
