"""The loss over the prediction for the true class, in closed form where there is one."""

import numpy as np
import pytest

from minicnn.evaluation.loss import Loss
from minicnn.insight.prediction import loss_curve
from minicnn.plugins import names


def test_cross_entropy_is_minus_the_logarithm_and_its_derivative_minus_one_over_a():
    curve = loss_curve(Loss("cross_entropy", 10))
    assert curve.prediction == "softmax" and 0 < curve.values[0] < curve.values[-1] < 1
    np.testing.assert_allclose(curve.losses, -np.log(curve.values), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(curve.derivatives, -1 / curve.values, rtol=1e-4)


def test_the_squared_error_is_a_parabola_of_the_output():
    curve = loss_curve(Loss("mse", 5))
    rest = (1 - curve.values) / 4
    assert curve.prediction == "output"
    np.testing.assert_allclose(
        curve.losses, ((1 - curve.values) ** 2 + 4 * rest**2) / 5, rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("name", names("loss"))
def test_the_derivative_of_any_loss_is_the_numeric_one(name):
    curve = loss_curve(Loss(name, 4, dtype=np.float64), points=2001)
    numeric = np.gradient(curve.losses, curve.values)
    even = (
        np.abs(np.diff(curve.derivatives)) < 0.05 * np.abs(curve.derivatives).max()
    )  # not beside a corner
    smooth = np.append(even, False) & np.append(False, even)
    np.testing.assert_allclose(
        curve.derivatives[smooth][2:-2], numeric[smooth][2:-2], rtol=2e-3, atol=2e-3
    )


def test_images_stand_at_their_own_prediction_and_loss():
    logits, labels = np.array([[2.0, -1.0], [0.5, 3.0], [1.0, 1.0]]), np.array([0, 0, 1])
    curve = loss_curve(Loss("cross_entropy", 2), logits, labels)
    exact = np.exp(logits[np.arange(3), labels]) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(curve.sample_values, exact, rtol=1e-6)
    np.testing.assert_allclose(curve.sample_losses, -np.log(exact), rtol=1e-5)


def test_a_sigmoid_loss_has_the_sigmoid_of_the_logit():
    curve = loss_curve(Loss("binary_cross_entropy", 3), np.array([[1.0, 0.0, 0.0]]), np.array([0]))
    assert curve.prediction == "sigmoid"
    assert curve.sample_values[0] == pytest.approx(1 / (1 + np.exp(-1.0)))


def test_the_curve_of_an_output_reaches_all_images():
    curve = loss_curve(Loss("mse", 2), np.array([[5.0, 0.0], [0.0, -3.0]]), np.array([0, 1]))
    assert (curve.values[0], curve.values[-1]) == (-3, 5)
