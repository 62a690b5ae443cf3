"""One derivative walked back through the layers: factors by hand, their product, and where a wrong
pass shows."""

import math

import numpy as np
import pytest

from minicnn import Conv2d, Dense, Dropout, Flatten, Loss, MaxPool2d, Network, ReLU, Sigmoid, Tanh
from minicnn.backends import cpu
from minicnn.errors import SettingError, UnknownNameError
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.chain_rule import trace
from tests.insight.test_gradient_check import EVERY_LAYER, cost_of

DEEP = [Conv2d(5, 3), ReLU(), MaxPool2d(2), Flatten(), Dropout(0.3), Dense(6), Tanh(), Dense(3)]


def test_in_a_chain_of_single_neurons_the_factors_are_those_of_the_texts():
    """x = 0.8 → z₁ = w₁x → a₁ = σ(z₁) → z₂ = w₂a₁ → a₂ = tanh(z₂) → C = (1 − a₂)²"""
    network = Network(
        (1, 1), [Flatten(), Dense(1, bias=False), Sigmoid(), Dense(1, bias=False), Tanh()]
    )
    x, w1, w2 = 0.8, 0.5, 1.5
    params = network.flatten({"dense1.weight": [[w1]], "dense2.weight": [[w2]]})
    a1 = 1 / (1 + math.exp(-w1 * x))
    a2 = math.tanh(w2 * a1)
    cost = BatchLoss(network, params, np.full((1, 1, 1, 1), x), np.array([0]), Loss("mse", 1))
    traced = trace(cost, "dense1.weight[0,0]")
    assert traced.loss == pytest.approx((1 - a2) ** 2) and traced.value == 0.5
    by_hand = [-2 * (1 - a2), 1 - a2**2, w2, a1 * (1 - a1), x]
    assert [factor.value for factor in traced.factors] == pytest.approx(by_hand, rel=1e-7)
    names = [
        ("C", "tanh1"),
        ("tanh1", "dense2"),
        ("dense2", "sigmoid1"),
        ("sigmoid1", "dense1"),
        ("dense1", "dense1.weight[0,0]"),
    ]
    assert [(factor.of, factor.by) for factor in traced.factors] == names
    assert traced.explicit == pytest.approx(math.prod(by_hand)) and traced.error < 1e-7


@pytest.mark.parametrize(
    "weight", ["conv1.weight[2,1,0,3]", "conv1.bias[1]", "dense1.weight[17,2]", "dense2.bias[0]"]
)
def test_the_product_of_the_factors_is_the_derivative_and_the_backward_pass_agrees_at_every_layer(
    weight,
):
    traced = trace(cost_of(DEEP, shape=(7, 8, 1)), weight)
    assert traced.weight == weight and not traced.crossed and traced.error < 1e-5
    product = math.prod(factor.value for factor in traced.factors)
    assert (
        product
        == pytest.approx(traced.numeric, rel=1e-6)
        == pytest.approx(traced.explicit, rel=1e-5)
    )
    for factor in traced.factors:
        assert factor.product == pytest.approx(factor.explicit, rel=1e-5)
    assert (traced.factors[0].of, traced.factors[-1].by) == ("C", weight)
    assert traced.factors[-1].product == pytest.approx(product)


def test_every_layer_is_a_factor_and_a_relu_in_the_pooling_is_named_with_it():
    traced = trace(cost_of(DEEP, shape=(7, 8, 1)), "conv1.bias[0]")
    layers = ["dense2", "tanh1", "dense1", "dropout1", "relu1+maxpool1", "conv1"]
    assert [factor.of for factor in traced.factors] == ["C", *layers]
    traced = trace(cost_of(EVERY_LAYER), "conv1.weight[0,0,0,0]")
    assert traced.factors[-1].product == pytest.approx(traced.explicit, rel=1e-4)


def test_dropout_and_class_weights_count():
    for options in ({}, {"class_weights": [1.0, 5.0, 0.1]}):
        traced = trace(cost_of(DEEP, shape=(7, 8, 1), **options), "conv1.weight[0,0,0,0]")
        assert traced.error < 1e-5


def test_a_wrong_backward_pass_shows_at_its_layer(monkeypatch):
    cost = cost_of([Conv2d(4, 3), Tanh(), Flatten(), Dense(6), Sigmoid(), Dense(3)])
    right = cpu.Passes.backward_by_operation

    def backward_by_operation(self, dlogits, key=0):
        gradients = right(self, dlogits, key)
        wrong = (
            len(gradients) - 3
        )  # what the backward pass of dense1 makes, and all that is made of it
        return [2 * gradient if i < wrong else gradient for i, gradient in enumerate(gradients)]

    monkeypatch.setattr(cpu.Passes, "backward_by_operation", backward_by_operation)
    factors = trace(cost, "conv1.weight[0,0,0,0]").factors
    assert [factor.explicit / factor.product for factor in factors[:-1]] == pytest.approx(
        [1, 1, 1, 2, 2], rel=1e-5
    )
    assert [factor.of for factor in factors][3] == "dense1"


def test_behind_dead_units_the_derivative_is_zero_from_there_on():
    network = Network((2, 2), [Flatten(), Dense(3), ReLU(), Dense(2)])
    params = network.initialize(np.random.default_rng(0))
    network.unflatten(params)["dense1.bias"][:] = -100
    cost = BatchLoss(
        network, params, np.ones((2, 2, 2, 1)), np.array([0, 1]), Loss("cross_entropy", 2)
    )
    traced = trace(cost, "dense1.weight[0,0]")
    assert [(factor.of, factor.value, factor.product) for factor in traced.factors[:2]] == [
        ("C", None, None),
        ("dense2", None, None),
    ]
    relu, dense = traced.factors[2:]
    assert (relu.value, relu.product, relu.explicit) == (0, 0, 0)
    assert (
        dense.value == pytest.approx(math.sqrt(2))
        and dense.product == traced.explicit == traced.numeric == 0
    )


def test_a_kink_is_avoided_by_a_shorter_step_and_admitted_where_that_does_not_help():
    network = Network((1, 1), [Flatten(), Dense(1, bias=False), ReLU(), Dense(2, bias=False)])
    for weight, crossed in ((4e-6, False), (0.0, True)):
        params = network.flatten({"dense1.weight": [[weight]], "dense2.weight": [[1.0, 2.0]]})
        cost = BatchLoss(network, params, np.ones((1, 1, 1, 1)), np.array([0]), Loss("mse", 2))
        assert trace(cost, "dense1.weight[0,0]").crossed is crossed


def test_a_name_that_is_no_weight_is_refused():
    cost = cost_of(DEEP, shape=(7, 8, 1))
    with pytest.raises(UnknownNameError, match=r"did you mean 'conv1\.weight'"):
        trace(cost, "conv1.weigth[0,0,0,0]")
    with pytest.raises(SettingError, match="must be from 0 to 4, not 5"):
        trace(cost, "conv1.bias[5]")
