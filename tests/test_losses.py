"""Every built-in loss: against its definition, by numeric derivatives, and at extreme logits."""

import inspect

import numpy as np
import pytest
from numba import njit, prange

from minicnn import plugins
from minicnn.kernels.cpu.call import call_loss
from minicnn.kernels.cpu.rules import compile_loss
from tests.reference import losses as oracle

WEIGHTS = np.array([0.2, 1.0, 1.7, 0.9, 2.5])

# name, hyperparameters, class weights
CASES = [
    ("cross_entropy", {"label_smoothing": 0.0}, None),
    ("cross_entropy", {"label_smoothing": 0.1}, None),
    ("cross_entropy", {"label_smoothing": 0.0}, WEIGHTS),
    ("cross_entropy", {"label_smoothing": 0.3}, WEIGHTS),
    ("mse", {}, None),
    ("mae", {}, None),
    ("huber", {"delta": 1.0}, None),
    ("huber", {"delta": 0.4}, None),
    ("multi_margin", {"margin": 1.0}, None),
    ("multi_margin", {"margin": 2.5}, None),
    ("binary_cross_entropy", {}, None),
]
each_case = pytest.mark.parametrize(("name", "hyperparameters", "class_weights"), CASES)
NAMES = sorted({name for name, _, _ in CASES})


@njit
def call(address, logits, labels, values, dlogits, class_weights, hyperparameters):
    losses = np.empty(len(logits))
    for n in range(len(logits)):
        losses[n] = call_loss(
            address, logits[n], labels[n], values[n], dlogits[n], class_weights, hyperparameters
        )
    return losses


@njit(parallel=True)
def call_in_parallel(address, logits, labels, values, dlogits, class_weights, hyperparameters):
    losses = np.empty(len(logits))
    for n in prange(len(logits)):
        losses[n] = call_loss(
            address, logits[n], labels[n], values[n], dlogits[n], class_weights, hyperparameters
        )
    return losses


def evaluate(
    name, logits, labels, values, hyperparameters, class_weights, dtype=np.float64, caller=call
):
    """The losses and gradients of the compiled row, a sample each, divided as a batch's mean is."""
    rule = plugins.find("loss", name)
    weights = np.ones(logits.shape[1]) if class_weights is None else class_weights
    logits, values, weights = (
        np.ascontiguousarray(array, dtype) for array in (logits, values, weights)
    )
    dlogits = np.full_like(logits, np.nan)  # every element must be written
    row = compile_loss(rule, dtype)
    numbers = np.array([hyperparameters[hyper.name] for hyper in rule.hyperparameters], dtype)
    losses = caller(row.address, logits, labels, values, dlogits, weights, numbers)
    divisor = weights[labels].sum() if rule.class_weights else len(logits)
    return losses / divisor, dlogits / divisor


def expected_loss(name, logits, labels, values, hyperparameters, class_weights):
    rule = plugins.find("loss", name)
    weights = {"class_weights": class_weights} if rule.class_weights else {}
    return getattr(oracle, name)(
        logits, labels if rule.target == "label" else values, **hyperparameters, **weights
    )


def batch(samples=9, classes=5, scale=2.0, seed=3):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(samples, classes))
    return logits, rng.integers(0, classes, samples), rng.uniform(size=(samples, classes))


def test_the_built_in_losses_are_the_six_of_the_documentation():
    assert set(NAMES) <= set(plugins.names("loss"))
    assert len(NAMES) == 6


@each_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_the_loss_is_what_its_definition_says(
    name, hyperparameters, class_weights, dtype, tolerance
):
    logits, labels, values = batch()
    losses, _ = evaluate(name, logits, labels, values, hyperparameters, class_weights, dtype)
    expected = expected_loss(name, logits, labels, values, hyperparameters, class_weights)
    np.testing.assert_allclose(losses.sum(), expected, rtol=tolerance)


@each_case
@pytest.mark.parametrize("scale", [0.1, 2.0, 20.0])
def test_the_gradient_is_the_numeric_derivative(name, hyperparameters, class_weights, scale):
    logits, labels, values = batch(scale=scale)
    _, dlogits = evaluate(name, logits, labels, values, hyperparameters, class_weights)
    numeric = oracle.numeric_gradient(
        lambda x: expected_loss(name, x, labels, values, hyperparameters, class_weights), logits
    )
    assert np.abs(numeric).max() > 1e-3
    np.testing.assert_allclose(dlogits, numeric, rtol=1e-5, atol=1e-8)


@each_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_logits_of_ten_thousand_lose_nothing(
    name, hyperparameters, class_weights, dtype, tolerance
):
    extreme = np.array(
        [[1e4, -1e4, 0, 1, -1], [-1e4, -1e4, -1e4, -1e4, -1e4], [1e4, 1e4, 9999, 0, 0], [1e4] * 5]
    )
    for label in range(5):
        labels, values = np.full(4, label), np.eye(5)[np.full(4, label)]
        losses, dlogits = evaluate(
            name, extreme, labels, values, hyperparameters, class_weights, dtype
        )
        expected = expected_loss(name, extreme, labels, values, hyperparameters, class_weights)
        assert np.isfinite(losses).all() and np.isfinite(dlogits).all()
        np.testing.assert_allclose(losses.sum(), expected, rtol=tolerance, atol=tolerance)


def test_a_small_difference_between_large_logits_counts_in_float32():
    logits = np.array([[10000.0, 10001.0, 9999.0]])
    losses, dlogits = evaluate(
        "cross_entropy",
        logits,
        np.array([0]),
        np.zeros((1, 3)),
        {"label_smoothing": 0.0},
        None,
        np.float32,
    )
    expected = np.log(1 + np.e + 1 / np.e)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(dlogits[0, 0], np.exp(-expected) - 1, rtol=1e-6)


@each_case
def test_the_order_of_the_samples_does_not_matter(name, hyperparameters, class_weights):
    logits, labels, values = batch()
    losses, dlogits = evaluate(name, logits, labels, values, hyperparameters, class_weights)
    order = np.random.default_rng(0).permutation(len(logits))
    losses2, dlogits2 = evaluate(
        name, logits[order], labels[order], values[order], hyperparameters, class_weights
    )
    np.testing.assert_array_equal(losses[order], losses2)
    np.testing.assert_array_equal(dlogits[order], dlogits2)


@each_case
def test_permuting_the_classes_permutes_the_gradient(name, hyperparameters, class_weights):
    logits, labels, values = batch()
    losses, dlogits = evaluate(name, logits, labels, values, hyperparameters, class_weights)
    order = np.array([3, 0, 4, 1, 2])
    losses2, dlogits2 = evaluate(
        name,
        logits[:, order],
        np.argsort(order)[labels],
        values[:, order],
        hyperparameters,
        None if class_weights is None else class_weights[order],
    )
    np.testing.assert_allclose(losses, losses2, rtol=1e-12)
    np.testing.assert_allclose(dlogits[:, order], dlogits2, rtol=1e-12, atol=1e-15)


@each_case
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_called_in_parallel_are_bitwise_the_same(name, hyperparameters, class_weights, dtype):
    data = batch(samples=40)
    losses, dlogits = evaluate(name, *data, hyperparameters, class_weights, dtype)
    losses2, dlogits2 = evaluate(
        name, *data, hyperparameters, class_weights, dtype, call_in_parallel
    )
    np.testing.assert_array_equal(losses, losses2)
    np.testing.assert_array_equal(dlogits, dlogits2)


@each_case
def test_the_compiled_row_does_what_the_rule_does_in_plain_python(
    name, hyperparameters, class_weights
):
    logits, labels, values = batch()
    rule = plugins.find("loss", name)
    losses, dlogits = evaluate(name, logits, labels, values, hyperparameters, class_weights)
    weights = np.ones(5) if class_weights is None else class_weights
    divisor = weights[labels].sum() if rule.class_weights else len(logits)
    for n in range(len(logits)):
        row = np.empty(5)
        target = labels[n] if rule.target == "label" else values[n]
        loss = rule.row(
            logits[n], target, row, *[weights] * rule.class_weights, *hyperparameters.values()
        )
        np.testing.assert_allclose(losses[n], loss / divisor, rtol=1e-12)
        np.testing.assert_allclose(dlogits[n], row / divisor, rtol=1e-12, atol=1e-15)


@each_case
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", range(5))
def test_logits_that_are_no_finite_numbers_show_in_the_loss(
    name, hyperparameters, class_weights, bad, where
):
    logits, labels, values = batch(samples=1)
    logits[0, where] = bad
    labels[0] = 2
    losses, _ = evaluate(name, logits, labels, values, hyperparameters, class_weights, np.float32)
    if not (
        name == "multi_margin" and bad == np.inf and where == 2
    ):  # an infinite right class is a perfect answer
        assert not np.isfinite(losses).any()


def test_a_perfect_answer_costs_nothing_and_moves_nothing():
    labels, values = np.arange(5), np.eye(5)
    for name, hyperparameters, logits in [
        ("cross_entropy", {"label_smoothing": 0.0}, 1e4 * values),
        ("mse", {}, values),
        ("mae", {}, values),
        ("huber", {"delta": 1.0}, values),
        ("multi_margin", {"margin": 1.0}, 2 * values),
        ("binary_cross_entropy", {}, 1e4 * (2 * values - 1)),
    ]:
        losses, dlogits = evaluate(name, logits, labels, values, hyperparameters, None)
        assert not losses.any() and not dlogits.any(), name


@pytest.mark.parametrize("name", NAMES)
def test_its_declaration_matches_its_function(name):
    rule = plugins.find("loss", name)
    declared = [hyper.name for hyper in rule.hyperparameters]
    assert list(inspect.signature(rule.row).parameters)[3 + rule.class_weights :] == declared
    assert rule.equation and rule.source and all(hyper.meaning for hyper in rule.hyperparameters)
