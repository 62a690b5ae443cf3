"""The focal loss against its equation in NumPy, and through minicnn's conformance kit."""

import numpy as np
import pytest
from minicnn_focal_loss import FOCAL

import minicnn
from minicnn.testing import check_loss


def focal(x, y, gamma, alpha):
    """Mean loss of logits ``x`` [N, K] and labels ``y`` [N], in float64."""
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p = (p / p.sum(axis=1, keepdims=True))[np.arange(len(y)), y]
    return (-alpha * (1 - p) ** gamma * np.log(p)).mean()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_loss_and_gradient_follow_the_equation(gamma):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 2, (20, 7)), rng.integers(0, 7, 20)
    value, gradients = minicnn.Loss(FOCAL, 7, dtype=np.float64, gamma=gamma, alpha=0.6)(x, y)
    assert value == pytest.approx(focal(x, y, gamma, 0.6), rel=1e-12)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        numeric = (focal(x + step, y, gamma, 0.6) - focal(x - step, y, gamma, 0.6)) / 2e-6
        assert gradients[index] == pytest.approx(numeric, rel=1e-5, abs=1e-9)


def test_without_focus_it_is_cross_entropy():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 3, (9, 4)), rng.integers(0, 4, 9)
    value, gradients = minicnn.Loss(FOCAL, 4, dtype=np.float64, gamma=0.0, alpha=1.0)(x, y)
    expected, expected_gradients = minicnn.Loss("cross_entropy", 4, dtype=np.float64)(x, y)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradients, expected_gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_sample_that_is_surely_right_has_no_gradient(gamma):
    value, gradients = minicnn.Loss(FOCAL, 3, gamma=gamma)(
        np.array([[500.0, 0, 0]], np.float32), np.array([0])
    )
    assert value == 0
    assert not gradients.any()


def test_it_passes_the_conformance_kit():
    assert [check for check in check_loss(FOCAL) if not check.passed] == []
