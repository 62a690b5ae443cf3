"""Snake against its equation in NumPy, in a network, and through minicnn's conformance kit."""

import numpy as np
import pytest
from minicnn_snake import SNAKE, derivative, value

import minicnn
from minicnn.testing import check_layer


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_value_and_derivative_follow_the_equation(alpha):
    for x in np.linspace(-7, 7, 57).tolist():
        assert value(x, alpha) == pytest.approx(x + np.sin(alpha * x) ** 2 / alpha, rel=1e-12)
        numeric = (value(x + 1e-6, alpha) - value(x - 1e-6, alpha)) / 2e-6
        assert derivative(x, alpha) == pytest.approx(numeric, abs=1e-8)


def test_a_network_has_it_by_name():
    layers = [minicnn.layer("snake", alpha=2.0), minicnn.Flatten()]
    network = minicnn.Network((2, 3), layers)
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 2, 3, 1)
    y = minicnn.Passes(network, network.initialize(np.random.default_rng(0)), 1).forward(x)
    np.testing.assert_allclose(y[0], (x + np.sin(2 * x) ** 2 / 2).reshape(-1), rtol=1e-6)
    assert network.to_dict()["layers"][0] == {
        "type": "snake",
        "alpha": 2.0,
        "plugin": "minicnn-snake 0.1.0",
    }


def test_it_passes_the_conformance_kit():
    assert [check for check in check_layer(SNAKE) if not check.passed] == []
