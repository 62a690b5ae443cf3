"""The gradients of weights and biases are sums of as many terms as a batch has pixels: in float32
these are summed in parts, so that the error does not grow with their number."""

import numpy as np
import pytest

from minicnn.network.layers import Conv2d, Flatten
from minicnn.network.network import Network
from tests.kernels.test_passes import run_passes
from tests.networks import oracle_passes, random_params

SAMPLES = 64


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((32, 32, 4), [Conv2d(8, 1), Flatten()]),
        ((32, 32, 4), [Conv2d(8, 3, 2), Flatten()]),
        ((32, 32, 16), [Conv2d(16, 3, padding=1), Flatten()]),
    ],
    ids=["pixels", "strided", "tiles"],
)
def test_gradients_of_many_terms_err_by_a_few_roundings(shape, layers):
    """Positive numbers, as after a ReLU, and random gradients: what PyTorch's convolutions sum with
    an error of 2 to 4·10⁻⁶ of the norm."""
    network, rng = Network(shape, layers), np.random.default_rng(0)
    params = random_params(network, rng, np.float32)
    x = np.abs(rng.normal(size=(SAMPLES, *shape))).astype(np.float32)
    dlogits = rng.normal(size=(SAMPLES, network.outputs)).astype(np.float32)
    _, expected = oracle_passes(network, params, x, dlogits)
    _, grads = run_passes(network, params, x, dlogits)
    for name, found in network.unflatten(grads).items():
        true = network.unflatten(expected)[name]
        assert np.linalg.norm(found - true) < 1e-6 * np.linalg.norm(true), name
