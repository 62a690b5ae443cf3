"""SAM against its equations in NumPy, and through minicnn's conformance kit."""

import numpy as np
import pytest
from minicnn_sam import SAM, sam

import minicnn
from minicnn.testing import check_optimizer

RATE = minicnn.Hyperparameter("learning_rate", 0.001, meaning="step size η")
TARGET = np.linspace(-1, 1, 12)


def slope(w):
    """The gradient of Σ (w − target)⁴ / 4."""
    return (w - TARGET) ** 3


def test_thirty_steps_follow_the_paper():
    w, velocity = np.zeros(12), np.zeros(12)
    for _ in range(30):
        g = slope(w)
        g = slope(w + 0.3 * g / (np.linalg.norm(g) + 1e-12)) + 0.01 * w
        velocity = 0.8 * velocity + g
        w = w - 0.05 * velocity
    params = np.zeros(12)
    optimizer = minicnn.Optimizer(
        SAM, 12, np.float64, learning_rate=0.05, momentum=0.8, weight_decay=0.01, rho=0.3
    )
    for _ in range(30):
        optimizer.update(params, lambda p: (0.25 * ((p - TARGET) ** 4).sum(), slope(p)))
    np.testing.assert_allclose(params, w, rtol=1e-10)


def test_another_rule_can_be_the_base():
    rule = sam("adam", (RATE,), "sam-adam")
    params, plain = np.zeros(12), np.zeros(12)
    wrapped = minicnn.Optimizer(rule, 12, np.float64, learning_rate=0.01, rho=0.0)
    adam = minicnn.Optimizer("adam", 12, np.float64, learning_rate=0.01)
    for _ in range(5):
        wrapped.update(params, lambda p: (0.0, slope(p)))
        adam.update(plain, slope(plain))
    np.testing.assert_array_equal(params, plain)  # at distance 0 nothing but the base is left


def test_one_gradient_is_not_enough():
    with pytest.raises(minicnn.MinicnnError, match="gradient at another point"):
        minicnn.Optimizer(SAM, 12).update(np.zeros(12, np.float32), np.ones(12, np.float32))


def test_it_passes_the_conformance_kit():
    assert [check for check in check_optimizer(SAM) if not check.passed] == []
