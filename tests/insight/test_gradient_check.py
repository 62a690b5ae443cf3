"""The gradient check: it passes what is right, fails what is wrong, and sets kinks aside."""

import numpy as np
import pytest

from minicnn import (
    GELU,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    LeakyReLU,
    Loss,
    LossRule,
    MaxPool2d,
    Network,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
    plugins,
)
from minicnn.backends import cpu
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.gradient_check import (
    STEPS,
    TOLERANCE,
    FiniteDifferences,
    _winners,
    gradcheck,
    relative_error,
)
from minicnn.network.presets import PRESETS, preset
from tests.networks import oracle_passes, random_params
from tests.reference import layers as reference

EVERY_LAYER = [
    Conv2d(5, 3, stride=(1, 2), padding="valid"),
    ReLU(),
    MaxPool2d(2, stride=1, padding=1),
    Conv2d(7, (2, 3), padding=1, dilation=2, bias=False),
    SiLU(),
    AvgPool2d((2, 1)),
    Conv2d(4, 1),
    GELU(),
    MaxPool2d((1, 2)),
    LeakyReLU(0.2),
    Flatten(),
    Dense(6),
    Tanh(),
    Dropout(0.4),
    Dense(5),
    Sigmoid(),
    Dense(3),
]


def cost_of(layers, loss="cross_entropy", shape=(9, 10, 2), images=5, seed=0, **kwargs):
    network, rng = Network(shape, layers), np.random.default_rng(seed)
    x, labels = rng.random((images, *network.input_shape)), rng.integers(0, network.outputs, images)
    return BatchLoss(
        network, random_params(network, rng), x, labels, Loss(loss, network.outputs, **kwargs)
    )


def test_every_layer_passes():
    checks = gradcheck(cost_of(EVERY_LAYER))
    assert [check.tensor for check in checks] == [
        spec.name for spec in cost_of(EVERY_LAYER).network.parameters
    ]
    for check in checks:
        assert check.passed and check.error < TOLERANCE
        assert check.checked + check.kinks == min(100, check.weights)
        assert check.at.startswith(f"{check.tensor}[") and check.explicit == pytest.approx(
            check.numeric, rel=1e-4, abs=1e-8
        )


@pytest.mark.parametrize("loss", plugins.names("loss"))
def test_every_loss_passes(loss):
    cost = cost_of([Conv2d(3, 3), ReLU(), GlobalAvgPool2d(), Dense(4)], loss)
    assert all(check.passed for check in gradcheck(cost))


def test_class_weights_and_hyperparameters_count():
    layers = [Flatten(), Dense(3)]
    plain, weighted = (
        cost_of(layers),
        cost_of(layers, class_weights=[1.0, 5.0, 0.2], label_smoothing=0.1),
    )
    values = [FiniteDifferences(one).value for one in (plain, weighted)]
    assert values[0] != pytest.approx(values[1])
    assert all(check.passed for check in gradcheck(weighted))


def test_the_loss_and_its_explicit_gradient_are_those_of_the_oracle():
    cost = FiniteDifferences(cost_of([Conv2d(5, 3), ReLU(), MaxPool2d(2), Flatten(), Dense(4)]))
    logits, grads = oracle_passes(cost.network, cost.passes.params, cost.images, cost.dlogits)
    np.testing.assert_allclose(cost.outputs[-1], logits, rtol=1e-10)
    np.testing.assert_allclose(cost.explicit(), grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrong", ["conv1.weight", "conv1.bias", "dense1.weight"])
def test_a_gradient_that_is_wrong_by_a_thousandth_fails_in_its_tensor_alone(wrong, monkeypatch):
    cost = cost_of([Conv2d(4, 3), Tanh(), Flatten(), Dense(3)])
    right = cpu.Passes.backward

    def backward(self, dlogits, key=0):
        grads = right(self, dlogits, key)
        cost.network.unflatten(grads)[wrong][...] *= 1.001
        return grads

    monkeypatch.setattr(cpu.Passes, "backward", backward)
    failed = [check for check in gradcheck(cost) if not check.passed]
    assert [check.tensor for check in failed] == [wrong]
    assert failed[0].error == pytest.approx(0.001, rel=0.1)


def test_a_gradient_that_is_no_number_fails(monkeypatch):
    cost = cost_of([Flatten(), Dense(3)])
    monkeypatch.setattr(
        cpu.Passes, "backward", lambda self, dlogits, key=0: np.full_like(self.params, np.nan)
    )
    assert [check.passed for check in gradcheck(cost)] == [False, False]


def test_a_loss_with_a_wrong_gradient_fails():
    def row(logits, label, dlogits):
        for k in range(len(logits)):
            dlogits[k] = logits[k]
        return 0.9 * logits[0] * logits[0]

    assert not any(
        check.passed for check in gradcheck(cost_of([Flatten(), Dense(2)], LossRule("wrong", row)))
    )


def test_the_samples_are_a_function_of_the_seed():
    cost = cost_of([Flatten(), Dense(30), Tanh(), Dense(3)])
    one, same, other = (gradcheck(cost, samples=10, seed=seed) for seed in (1, 1, 2))
    assert one == same and one != other
    assert [check.checked for check in one] == [10, 10, 10, 3]


def test_progress_counts_the_weights():
    calls = []
    gradcheck(cost_of([Flatten(), Dense(3)]), samples=10, progress=lambda *call: calls.append(call))
    assert calls == [(n, 13) for n in range(1, 14)]


def test_a_check_leaves_the_weights_alone():
    cost = cost_of([Conv2d(4, 3), ReLU(), Flatten(), Dense(3)])
    before = cost.params.copy()
    gradcheck(cost)
    assert cost.params.tobytes() == before.tobytes()


# --- kinks ----------------------------------------------------------------------------------------


def kink(layers, weights, loss="mse", x=1.0):
    """The check of the only weight of a network whose input is one pixel, ``x``."""
    network = Network((1, 1), layers)
    params = network.flatten(
        {
            name: np.full(tensor.shape, weights.get(name, 1.0))
            for name, tensor in network.unflatten(np.zeros(network.flat_size)).items()
        }
    )
    return BatchLoss(
        network, params, np.full((1, 1, 1, 1), x), np.array([0]), Loss(loss, network.outputs)
    )


def test_a_relu_at_zero_is_set_aside_and_passes_nothing():
    layers = [Flatten(), Dense(1, bias=False), ReLU(), Dense(2, bias=False)]
    on_the_kink, beside_it = (
        gradcheck(kink(layers, {"dense1.weight": weight})) for weight in (0.0, STEPS[0] / 2)
    )
    assert (on_the_kink[0].checked, on_the_kink[0].kinks, on_the_kink[0].passed) == (0, 1, False)
    assert on_the_kink[0].error is on_the_kink[0].at is None
    assert on_the_kink[1].passed  # the weights behind it are not on a kink
    assert (beside_it[0].checked, beside_it[0].kinks, beside_it[0].passed) == (1, 0, True)


def test_a_cost_that_bends_sharply_is_measured_by_a_shorter_step():
    network = Network((1, 2), [Flatten(), Dense(1, bias=False), BatchNorm2d(eps=0), Dense(2)])
    params = random_params(network, np.random.default_rng(0)).astype(np.float64)
    network.unflatten(params)["dense1.weight"][:, 0] = 1e-3, -0.7e-3
    x = np.random.default_rng(1).random((5, 1, 2, 1))
    loss = Loss("cross_entropy", 2)
    batch_loss = BatchLoss(network, params, x, np.array([0, 1, 1, 0, 1]), loss)
    differences = FiniteDifferences(batch_loss)
    explicit, (numeric, _, _) = differences.explicit()[0], differences.numeric(0, STEPS[0])
    assert relative_error(explicit, numeric, differences.value, STEPS[0]) > TOLERANCE
    (check, *_) = gradcheck(batch_loss)
    assert (check.tensor, check.checked, check.passed) == ("dense1.weight", 2, True)


def test_two_candidates_of_a_max_pooling_that_change_places_are_set_aside():
    network = Network((1, 2), [Conv2d(1, (1, 1)), MaxPool2d((1, 2)), Flatten(), Dense(2)])
    params = random_params(network, np.random.default_rng(0))
    for gap, kinks in ((0.0, 0), (1e-3, 0)):  # a tie moves together, and a gap is kept
        x = np.array([0.5, 0.5 + gap]).reshape(1, 1, 2, 1)
        checks = gradcheck(BatchLoss(network, params, x, np.array([1]), Loss("mse", 2)))
        assert checks[0].kinks == kinks and checks[0].passed
    rotated = Network(
        (1, 2), [Conv2d(1, (1, 2), padding=(0, 1)), MaxPool2d((1, 3)), Flatten(), Dense(2)]
    )
    weights = random_params(rotated, np.random.default_rng(1))
    rotated.unflatten(weights)["conv1.weight"][:] = np.array([0.7, 0.7]).reshape(
        1, 2, 1, 1
    )  # two outputs are equal
    x = np.array([0.5, 0.0]).reshape(1, 1, 2, 1)
    check = gradcheck(BatchLoss(rotated, weights, x, np.array([1]), Loss("mse", 2)))[0]
    assert (check.kinks, check.checked) == (2, 0)


def test_a_loss_at_its_kink_is_set_aside():
    layers = [Flatten(), Dense(2, bias=False)]
    check = gradcheck(kink(layers, {}, "mae"))[0]  # the logit of the label is 1, its target
    assert (check.kinks, check.checked) == (1, 1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((2, 2), (2, 2), 0), ((3, 2), (2, 1), 1), ((2, 3), (3, 2), 0)]
)
def test_winners_are_where_the_oracle_sends_the_gradient(kernel, stride, padding):
    rng = np.random.default_rng(0)
    layers = [MaxPool2d(kernel, stride, padding), Flatten(), Dense(3)]
    differences = FiniteDifferences(cost_of(layers, shape=(7, 8, 3), images=2))
    layer, x = differences.plan.table[0], rng.normal(size=(2, 7, 8, 3))
    winner = _winners(layer, x.reshape(2, -1), np.zeros((2, int(layer["output_size"]))))
    top = left = padding
    ones = np.ones_like(winner, dtype=float)
    sent = reference.maxpool2d_backward(
        x, ones, kernel=kernel, stride=stride, padding=(top, top, left, left)
    )
    found = np.zeros((2, 7, 8, 3))
    for n, p, q, c in np.ndindex(winner.shape):
        r, s = divmod(winner[n, p, q, c], kernel[1])
        found[n, p * stride[0] + r - top, q * stride[1] + s - left, c] += 1
    np.testing.assert_array_equal(found, sent)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_passes(name):
    network, rng = preset(name, (32, 32, 3), 10), np.random.default_rng(0)
    x, labels = rng.random((8, *network.input_shape)), rng.integers(0, 10, 8)
    batch_loss = BatchLoss(
        network, random_params(network, rng), x, labels, Loss("cross_entropy", 10)
    )
    assert all(check.passed for check in gradcheck(batch_loss, samples=2))
