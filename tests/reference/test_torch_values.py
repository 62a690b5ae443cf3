"""The oracle equals PyTorch's values, and its backward passes the numeric derivatives, for every
case of `cases`."""

from pathlib import Path

import numpy as np
import pytest

from . import layers
from .cases import CASES, CORNERS, STATISTICS

PYTORCHS_OWN_ERROR = {
    "hardsigmoid": 5e-8
}  # its backward pass multiplies by a sixth in float32, for float64 as well


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).with_name("torch_values.npz")) as file:
        return dict(file)


def arrays_of(stored, name):
    case = CASES[name]
    return [
        stored[f"{name}/{i}"].astype(np.float64)
        for i in range(len(case.inputs) + len(case.tensors))
    ]


def test_every_case_is_stored_and_every_activations_corners_are_in_it(stored):
    assert {key.partition("/")[0] for key in stored} == set(CASES)
    for name, case in CASES.items():
        assert set(CORNERS.get(case.layer, ())) <= set(stored[f"{name}/0"].ravel().tolist())


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_pytorchs(stored, name):
    case, arrays = CASES[name], arrays_of(stored, name)
    np.testing.assert_allclose(case.forward(*arrays), stored[f"{name}/y"], rtol=1e-10, atol=1e-10)
    gradients = case.backward(arrays, stored[f"{name}/dy"].astype(np.float64))
    assert len(gradients) == sum(
        key.startswith(f"{name}/d") and key != f"{name}/dy" for key in stored
    )
    for i, gradient in enumerate(gradients):
        tolerance = PYTORCHS_OWN_ERROR.get(case.layer, 1e-10)
        np.testing.assert_allclose(gradient, stored[f"{name}/d{i}"], rtol=tolerance, atol=1e-10)


@pytest.mark.parametrize("name", STATISTICS)
def test_running_statistics_are_pytorchs(stored, name):
    x = stored[f"{name}/0"]
    mean, var = layers.batchnorm_running(
        x, np.full(x.shape[-1], 0.5), np.full(x.shape[-1], 2.0), STATISTICS[name]
    )
    np.testing.assert_allclose(mean, stored[f"{name}/running_mean"], rtol=1e-10)
    np.testing.assert_allclose(var, stored[f"{name}/running_var"], rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_backward_is_the_derivative(name):
    case = CASES[name]
    rng = np.random.default_rng(5)
    arrays = [
        array + rng.uniform(0, 1 / 256, array.shape) for array in case.arrays(rng)
    ]  # no ties, no corners
    dy = rng.normal(size=case.forward(*arrays).shape)
    for i, gradient in enumerate(case.backward(arrays, dy)):

        def loss(changed, i=i):
            return float(np.sum(dy * case.forward(*arrays[:i], changed, *arrays[i + 1 :])))

        assert np.any(gradient != 0)
        np.testing.assert_allclose(
            gradient, layers.numeric_gradient(loss, arrays[i]), rtol=1e-5, atol=1e-7
        )


def test_running_variance_stays_where_there_is_one_number_a_channel():
    mean, var = layers.batchnorm_running(np.array([[2.0, 4.0]]), np.zeros(2), np.full(2, 3.0), 0.5)
    np.testing.assert_array_equal(mean, [1, 2])
    np.testing.assert_array_equal(var, [3, 3])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),  # TensorFlow's figures
    [
        ((4, 5), (3, 3), (2, 2), (0, 1, 1, 1)),
        ((49, 10), (10, 4), (2, 2), (4, 5, 1, 1)),  # the keyword spotter's first layer
        ((6, 7), (1, 2), (3, 3), (0, 0, 0, 1)),
        ((3, 3), (2, 4), (1, 1), (0, 1, 1, 2)),
    ],
)
def test_same_padding_is_tensorflows(size, kernel, stride, expected):
    assert layers.same_padding(size, kernel, stride) == expected


def test_dropout_hash_is_splitmix64():
    # The first outputs of the generator of Steele et al. with seed 0: mixed(0), mixed(γ) with γ its
    # increment.
    assert layers.mixed(0) == 0xE220A8397B1DCDAF
    assert layers.mixed(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize("kind", ["dropout", "dropout2d", "droppath"])
def test_masks_keep_their_share_and_differ_by_key_layer_and_sample(kind):
    mask = getattr(layers, f"{kind}_mask")
    shape = (400, 2, 2, 3)
    one = mask(shape, 0.3, 7, 2)
    assert abs(one.mean() - 0.7) < 4 * np.sqrt(0.21 / one.size)
    assert not np.array_equal(one, mask(shape, 0.3, 8, 2)) and not np.array_equal(
        one, mask(shape, 0.3, 7, 3)
    )
    assert (
        one.shape
        == {"dropout": shape, "dropout2d": (400, 1, 1, 3), "droppath": (400, 1, 1, 1)}[kind]
    )
