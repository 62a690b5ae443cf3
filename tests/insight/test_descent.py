"""Descent: gradients by the backward pass, the optimizer's own rule, and closed forms where
there are any."""

import threading

import numpy as np
import pytest

from minicnn.errors import SettingError
from minicnn.insight.batch_loss import BatchLoss, side_by_side
from minicnn.insight.descent import Plane, descend
from minicnn.insight.directions import single_weight
from minicnn.insight.slice import loss_slice, verdict
from minicnn.insight.surface import two_directions
from minicnn.network.layers import Dropout
from minicnn.network.network import Network
from minicnn.plugins import names
from tests.insight.small import LINEAR, small_data, small_model
from tests.networks import oracle_steps, oracle_tensors
from tests.reference import losses as reference
from tests.reference import network as oracle

TWO = ("dense1.weight[0,1]", "dense1.weight[1,1]")


def quadratic():
    """A plane over two weights into one output with MSE: (plane, Hessian, minimum), the latter two
    in closed form.

    C = 1/(2N) Σ_n Σ_k (x·w_k + b_k − t_k)²        H = XᵀX / N        w* = H⁻¹ Xᵀ(t − b) / N
    """
    model, (x, y) = small_model(LINEAR, "mse"), small_data(LINEAR, 30)
    batch_loss = BatchLoss.of(model, x, y)
    directions = [single_weight(LINEAR, model.params, text) for text in TWO]
    X, t = x.reshape(-1, 2).astype(float), (y == 1) - float(model.weights["dense1.bias"][1])
    hessian = X.T @ X / len(X)
    return Plane(batch_loss, directions), hessian, np.linalg.solve(hessian, X.T @ t / len(X))


def test_a_trajectory_on_a_quadratic_equals_the_closed_form():
    plane, hessian, minimum = quadratic()
    start, rate = np.array([1.5, -2.0]), 0.8 / np.linalg.eigvalsh(hessian)[-1]
    trajectory = plane.descend(start, "gd", rate, steps=25, scale=1e-9)
    step = np.eye(2) - rate * hessian
    expected = [minimum + np.linalg.matrix_power(step, k) @ (start - minimum) for k in range(26)]
    np.testing.assert_allclose(trajectory.points, expected, atol=2e-5)
    assert (
        trajectory.optimizer == "gd"
        and trajectory.steps == 25
        and trajectory.outcome == "not converged"
    )


def test_a_trajectory_ends_where_it_has_converged_and_says_so():
    plane, hessian, minimum = quadratic()
    trajectory = plane.descend(
        [1.0, 0.0], "gd", 1.0 / np.linalg.eigvalsh(hessian)[-1], steps=500, scale=0.1
    )
    assert trajectory.outcome == "converged" and trajectory.steps < 500
    np.testing.assert_allclose(trajectory.points[-1], minimum, atol=0.1)


def test_too_large_a_learning_rate_leaves_the_picture():
    plane, hessian, _ = quadratic()
    assert (
        plane.descend([1.0, 0.0], "gd", 30 / np.linalg.eigvalsh(hessian)[-1], steps=50).outcome
        == "left the picture"
    )


@pytest.mark.parametrize(("name", "most"), [("gd", 11), ("adam", 11)])
def test_a_descent_asks_for_one_gradient_per_step(name, most, monkeypatch):
    plane, _, _ = quadratic()
    passes, gradient = [], BatchLoss.gradient
    monkeypatch.setattr(BatchLoss, "gradient", lambda *a: passes.append(1) or gradient(*a))
    assert plane.descend([1.0, -1.0], name, 0.01, steps=10, scale=1e-9).steps == 10
    assert len(passes) == most


def test_descents_go_on_side_by_side_and_each_is_what_it_is_alone(monkeypatch):
    model, (x, y) = small_model(), small_data()
    plane = Plane(BatchLoss.of(model, x, y), two_directions(BatchLoss.of(model, x, y), ()))
    starts = ([0.1, 0.2], [-0.3, 0.1])

    def descend(start):
        return plane.descend(start, "gd", 0.01, 20, 1e-9)

    alone = [descend(start) for start in starts]
    gate, gradient = threading.Barrier(2), BatchLoss.gradient
    monkeypatch.setattr(BatchLoss, "gradient", lambda *a: (gate.wait(30) and None) or gradient(*a))
    for one, other in zip(alone, side_by_side(descend, starts, 2), strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_array_equal(one.losses, other.losses)


def test_what_nobody_waits_for_any_more_is_not_begun():
    begun, go_on = [], threading.Event()
    going = side_by_side(lambda i: begun.append(i) or (i and go_on.wait(30)), range(9), 2)
    next(going)
    threading.Timer(0.1, go_on.set).start()
    going.close()
    assert len(begun) <= 3


def test_momentum_follows_its_own_rule_in_the_two_coordinates():
    plane, hessian, minimum = quadratic()
    trajectory = plane.descend([1.0, -1.0], "momentum", 0.1, steps=10, scale=1e-9, momentum=0.8)
    w, v = np.array([1.0, -1.0]), np.zeros(2)
    for point in trajectory.points[1:]:
        v = 0.8 * v + hessian @ (w - minimum)
        w = w - 0.1 * v
        np.testing.assert_allclose(point, w, atol=2e-5)


@pytest.mark.parametrize("name", names("optimizer"))
def test_every_installed_optimizer_goes_down(name):
    plane, _, _ = quadratic()
    trajectory = plane.descend([1.0, 0.0], name, steps=40, scale=1e-9)
    assert trajectory.losses.min() < trajectory.losses[0] and np.isfinite(trajectory.points).all()
    longest = np.abs(np.diff(trajectory.points[:2], axis=0)[0] / plane.ranges).max()
    assert trajectory.learning_rate is None or longest == pytest.approx(0.05, rel=0.3)


def numeric_derivative(model, x, y, vector, h=1e-5):
    """The derivative along ``vector`` by central differences of the oracle's loss, in float64."""
    network = Network(
        model.network.input_shape,
        [one for one in model.network.layers if not isinstance(one, Dropout)],
    )

    def loss(params):
        logits = oracle.forward(
            oracle_steps(network), x.astype(float), oracle_tensors(network, params)
        )[-1]
        return reference.cross_entropy(logits, y)

    params = model.params.astype(float)
    return (loss(params + h * vector) - loss(params - h * vector)) / (2 * h)


@pytest.mark.parametrize(
    "text", ["conv1.weight[0,1,0,2]", "conv2.bias[4]", "dense1.weight[3,1]", "random"]
)
def test_the_tangent_is_the_gradient_of_the_backward_pass_and_the_numeric_one(text):
    model, (x, y) = small_model(), small_data()
    cut = loss_slice(BatchLoss.of(model, x, y), text, ())
    _, grads = BatchLoss.of(model, x, y).gradient(model.params)
    assert cut.own_derivative == pytest.approx(float(grads @ cut.direction.vector), rel=1e-4)
    assert cut.own_derivative == pytest.approx(
        numeric_derivative(model, x, y, cut.direction.vector.astype(float)), rel=1e-3, abs=1e-5
    )


def test_both_derivatives_of_a_plane_are_numeric_ones_elsewhere_too():
    model, (x, y) = small_model(), small_data()
    directions = two_directions(BatchLoss.of(model, x, y), ("random", "dense2.weight[0,0]"))
    plane = Plane(BatchLoss.of(model, x, y), directions)
    point = np.array([0.2, directions[1].origin - 0.3])
    derivatives = plane.gradient(point)[1]
    for number, h in ((0, 1e-2), (1, 1e-2)):
        step = np.eye(2)[number] * h
        numeric = (plane.gradient(point + step)[0] - plane.gradient(point - step)[0]) / (2 * h)
        assert derivatives[number] == pytest.approx(numeric, rel=0.02, abs=1e-4)


def slices_of_the_quadratic(rates):
    model, (x, y) = small_model(LINEAR, "mse"), small_data(LINEAR, 30)
    return loss_slice(BatchLoss.of(model, x, y), TWO[0], rates), float(
        (x.reshape(-1, 2)[:, 0].astype(float) ** 2).mean()
    )


def test_the_curvature_of_a_quadratic_is_found_and_with_it_the_largest_learning_rate():
    cut, curvature = slices_of_the_quadratic(())
    assert cut.curvature == pytest.approx(curvature, rel=1e-3)
    assert cut.largest_rate == pytest.approx(2 / curvature, rel=1e-3)
    assert cut.descents == []


def test_learning_rates_around_the_largest_converge_oscillate_and_diverge():
    _, curvature = slices_of_the_quadratic(())
    cut, _ = slices_of_the_quadratic(
        [0.3 / curvature, 1.97 / curvature, 2.2 / curvature, 0.005 / curvature]
    )
    assert [verdict(one) for one in cut.descents] == [
        "converging",
        "oscillating",
        "diverging",
        "hardly moving",
    ]


def test_without_learning_rates_each_behaviour_is_shown_once():
    cut, curvature = slices_of_the_quadratic(None)
    assert [verdict(one) for one in cut.descents] == ["converging", "oscillating", "diverging"]
    assert (
        cut.descents[0].learning_rate
        < cut.descents[1].learning_rate
        < 2 / curvature
        < cut.descents[2].learning_rate
    )


def test_an_optimizers_wrong_hyperparameter_is_refused():
    plane, _, _ = quadratic()
    with pytest.raises(SettingError, match="learning_rate"):
        plane.descend([0.0, 0.0], "gd", -1.0)


def test_one_call_goes_down_between_weights_that_are_named():
    model, (x, y) = small_model(LINEAR, "mse"), small_data(LINEAR, 30)
    _, hessian, minimum = quadratic()
    trajectory = descend(BatchLoss.of(model, x, y), TWO, [1.0, 0.5], "gd", 0.1, 3)
    expected = [
        minimum + np.linalg.matrix_power(np.eye(2) - 0.1 * hessian, k) @ ([1.0, 0.5] - minimum)
        for k in range(4)
    ]
    np.testing.assert_allclose(trajectory.points, expected, atol=2e-5)
