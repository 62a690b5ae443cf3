"""Every built-in optimizer: against its equation, towards a minimum, and with gradients out of the
ordinary."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from minicnn import BatchNorm2d, Conv2d, Dense, Flatten, Network, Optimizer, ReLU, plugins
from minicnn.errors import SettingError, UnknownNameError
from minicnn.kernels.cpu.call import call as call_compiled
from minicnn.kernels.cpu.rules import compile_update
from minicnn.rules import resolve
from tests.reference import optimizers as oracle

NAMES = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adamw_amsgrad",
    "amsgrad",
    "gd",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "radam",
    "rmsprop",
    "rmsprop_momentum",
    "sgd",
]
REFERENCE = Path(__file__).parent / "reference" / "torch_training.npz"

# Hyperparameters other than the defaults, so that each of them has an effect.
TUNED = {
    "gd": {"learning_rate": 0.02},
    "sgd": {"learning_rate": 0.02, "weight_decay": 0.1},
    "momentum": {"learning_rate": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"learning_rate": 0.02, "momentum": 0.8, "weight_decay": 0.1},
    "rmsprop": {"learning_rate": 0.02, "alpha": 0.9, "epsilon": 1e-3, "weight_decay": 0.1},
    "rmsprop_momentum": {
        "learning_rate": 0.02,
        "alpha": 0.9,
        "momentum": 0.8,
        "centered": 1.0,
        "epsilon": 1e-3,
        "weight_decay": 0.1,
    },
    "adagrad": {"learning_rate": 0.1, "lr_decay": 0.05, "epsilon": 1e-3, "weight_decay": 0.1},
    "adadelta": {"learning_rate": 0.7, "rho": 0.8, "epsilon": 1e-4, "weight_decay": 0.1},
    "adam": {
        "learning_rate": 0.02,
        "beta1": 0.8,
        "beta2": 0.95,
        "epsilon": 1e-3,
        "weight_decay": 0.1,
    },
    "adamw": {
        "learning_rate": 0.02,
        "beta1": 0.8,
        "beta2": 0.95,
        "epsilon": 1e-3,
        "weight_decay": 0.3,
    },
    "nadam": {
        "learning_rate": 0.02,
        "beta1": 0.8,
        "beta2": 0.95,
        "epsilon": 1e-3,
        "momentum_decay": 0.1,
        "weight_decay": 0.1,
    },
    "lion": {"learning_rate": 0.02, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1},
}

for name in ("amsgrad", "radam", "adamax"):
    TUNED[name] = TUNED["adam"]
TUNED["adamw_amsgrad"] = TUNED["adamw"]


@njit
def call(address, params, grads, slots, scalars, begin, end):
    call_compiled(address, (params, grads, slots, scalars, begin, end))


class Run:
    """A compiled optimizer at work on its own buffers."""

    def __init__(self, name, params, dtype=np.float64, **hyperparameters):
        self.rule = plugins.find("optimizer", name)
        self.update = compile_update(self.rule, dtype)
        self.hyperparameters = resolve(name, self.rule.hyperparameters, hyperparameters)
        self.state = dict(self.rule.state)
        self.params = np.array(params, dtype)
        self.slots = np.zeros((len(self.rule.slots), self.params.size), dtype)
        self.steps = 0

    def step(self, grads, begin=0, end=None):
        self.steps += 1
        scalars = np.array(
            self.rule.prepare(self.steps, self.state, **self.hyperparameters), self.params.dtype
        )
        assert len(scalars) == self.update.scalars
        end = self.params.size if end is None else end
        call(
            self.update.address,
            self.params,
            np.asarray(grads, self.params.dtype),
            self.slots,
            scalars,
            begin,
            end,
        )


def test_the_built_in_optimizers_are_those_of_the_documentation():
    assert set(NAMES) <= set(plugins.names("optimizer"))
    assert set(TUNED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tuned", [False, True], ids=["defaults", "tuned"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_fifty_steps_follow_the_equation(name, tuned, dtype, tolerance):
    rng = np.random.default_rng(1)
    expected = rng.normal(size=37).astype(dtype).astype(np.float64)
    run = Run(name, expected, dtype, **(TUNED[name] if tuned else {}))
    memory = {}
    for t in range(1, 51):
        grads = (rng.normal(size=37) + 0.3).astype(dtype)
        run.step(grads)
        expected = getattr(oracle, name)(
            expected, grads.astype(np.float64), t, memory, **run.hyperparameters
        )
        np.testing.assert_allclose(
            run.params, expected, rtol=tolerance, atol=tolerance, err_msg=f"step {t}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_only_the_elements_asked_for_are_updated(name):
    rng = np.random.default_rng(2)
    start, grads = rng.normal(size=(2, 41))
    whole, part = Run(name, start), Run(name, start)
    whole.step(grads)
    part.step(grads, begin=3, end=32)
    np.testing.assert_array_equal(part.params[3:32], whole.params[3:32])
    np.testing.assert_array_equal(part.slots[:, 3:32], whole.slots[:, 3:32])
    np.testing.assert_array_equal(
        np.delete(part.params, range(3, 32)), np.delete(start, range(3, 32))
    )
    assert not np.delete(part.slots, range(3, 32), axis=1).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_compiled_update_does_what_the_rule_does_in_plain_python(name):
    run = Run(name, [0.7, -0.2, 1.5], **TUNED[name])
    params, slots, state = run.params.copy(), run.slots.copy(), dict(run.rule.state)
    grads = np.array([0.3, -2.0, 0.0])
    for t in (1, 2, 3):
        run.step(grads)
        scalars = run.rule.prepare(t, state, **run.hyperparameters)
        for i in range(3):
            result = run.rule.update(params[i], grads[i], *slots[:, i], *scalars)
            params[i], *slots[:, i] = result if isinstance(result, tuple) else (result,)
    np.testing.assert_allclose(run.params, params, rtol=1e-12)
    np.testing.assert_allclose(run.slots, slots, rtol=1e-12)


def rosenbrock(p):
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2, [
        -2 * (1 - x) - 400 * x * (y - x**2),
        200 * (y - x**2),
    ]


# Learning rates that suit the valley; the decay of adamw would pull away from the minimum.
DOWNHILL = {
    "gd": {"learning_rate": 1e-3},
    "sgd": {"learning_rate": 1e-3},
    "momentum": {"learning_rate": 5e-4},
    "nesterov": {"learning_rate": 5e-4},
    "rmsprop": {"learning_rate": 2e-3},
    "adagrad": {"learning_rate": 0.5},
    "adadelta": {"learning_rate": 0.3, "epsilon": 1e-7},
    "adam": {"learning_rate": 0.02},
    "adamw": {"learning_rate": 0.02, "weight_decay": 0.0},
    "nadam": {"learning_rate": 0.02},
    "lion": {"learning_rate": 5e-4},
    "amsgrad": {"learning_rate": 0.02},
    "adamw_amsgrad": {"learning_rate": 0.02, "weight_decay": 0.0},
    "radam": {"learning_rate": 2e-3},
    "adamax": {"learning_rate": 0.02},
    "rmsprop_momentum": {"learning_rate": 5e-4},
}


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_the_bottom_of_rosenbrocks_valley(name):
    run = Run(name, [-0.5, 0.8], **DOWNHILL[name])
    for _ in range(6000):
        run.step(rosenbrock(run.params)[1])
    assert rosenbrock(run.params)[0] < 0.02
    np.testing.assert_allclose(run.params, 1.0, atol=0.2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8, 1e4, 1e30])
def test_zero_tiny_and_huge_gradients_leave_finite_numbers(name, size):
    run = Run(name, np.ones(20), np.float32)
    for _ in range(5):
        run.step(np.full(20, size, np.float32))
    assert np.isfinite(run.params).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_a_number_stays_visible(name):
    run = Run(name, np.ones(20), np.float32)
    grads = np.ones(20, np.float32)
    grads[4] = np.nan
    run.step(grads)
    assert np.flatnonzero(np.isnan(run.params)).tolist() == [4]


@pytest.mark.parametrize("name", NAMES)
def test_its_declaration_matches_its_functions(name):
    rule = plugins.find("optimizer", name)
    declared = [hyper.name for hyper in rule.hyperparameters]
    assert list(inspect.signature(rule.prepare).parameters)[2:] == declared
    assert declared[0] == "learning_rate"
    assert rule.equation and rule.source and all(hyper.meaning for hyper in rule.hyperparameters)
    assert rule.full_batch == (name == "gd")


def test_hyperparameters_out_of_range_or_unknown_are_refused():
    adam = plugins.find("optimizer", "adam")
    for wrong in (
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"beta1": 1.0},
        {"weight_decay": -0.1},
    ):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            resolve("adam", adam.hyperparameters, wrong)
    with pytest.raises(UnknownNameError, match=r"'momentum'.*beta1"):
        resolve("adam", adam.hyperparameters, {"momentum": 0.9})


def test_optimizers_make_the_steps_of_pytorch():
    """Stored by `tests.reference.make_torch_training`."""
    with np.load(REFERENCE) as stored:
        cases = [name for name in stored if name.startswith("optimizer/")]
        assert len(cases) == 7
        for case in cases:
            name, _, variant = case.removeprefix("optimizer/").partition("/")
            other = {"centered": 0.0} if name == "rmsprop_momentum" and not variant else {}
            run = Run(name, stored["start"].ravel(), **(TUNED[name] | other))
            for gradient, expected in zip(stored["gradients"], stored[case], strict=True):
                run.step(gradient.ravel())
                np.testing.assert_allclose(run.params, expected.ravel(), rtol=1e-9, err_msg=case)


ADAFACTOR = {"beta2_decay": -0.7, "epsilon2": 0.01, "threshold": 1.1}
LAYERS = [Conv2d(3, 2), BatchNorm2d(), ReLU(), Flatten(), Dense(4)]
NETWORK = Network((4, 4, 1), LAYERS)
FACTORS = {
    "learning_rate": {"shift": 8, "bias": 0, "conv1.*": 0.5},
    "weight_decay": {"dense*.weight": 2},
}


def flat(numbers, network=NETWORK):
    """The flat vector of a network that holds the trained ``numbers`` in the order of the tensors."""
    vector = np.zeros(network.flat_size)
    for name, view in network.unflatten(vector).items():
        if "running" not in name:
            view[...] = numbers[: view.size].reshape(view.shape)
            numbers = numbers[view.size :]
    assert len(numbers) == 0
    return vector


def test_adafactor_makes_the_steps_of_pytorch():
    """On a matrix; `test_tensors_have_the_groups_of_pytorch` has vectors too."""
    network = Network((1, 3), [Flatten(), Dense(4, bias=False)])
    optimizer = Optimizer(
        "adafactor", network, np.float64, learning_rate=0.02, weight_decay=0.1, **ADAFACTOR
    )
    with np.load(REFERENCE) as stored:
        params = flat(stored["start"].ravel(), network)
        for gradient, expected in zip(stored["gradients"], stored["adafactor"], strict=True):
            optimizer.update(params, flat(gradient.ravel(), network))
            np.testing.assert_allclose(params, flat(expected.ravel(), network), rtol=1e-9)


def test_tensors_have_the_groups_of_pytorch():
    with np.load(REFERENCE) as stored:
        names = [name.removeprefix("groups/") for name in stored if name.startswith("groups/")]
        names = sorted(set(names) - {"start", "gradients"})
        assert len(names) == 11
        for name in names:
            tuned = ADAFACTOR if name == "adafactor" else TUNED[name]
            tuned = tuned | {"learning_rate": 0.02, "weight_decay": 0.1}
            params = flat(stored["groups/start"])
            optimizer = Optimizer(name, NETWORK, np.float64, "cpu", "weights", FACTORS, **tuned)
            for gradient in stored["groups/gradients"]:
                optimizer.update(params, flat(gradient))
            expected = flat(stored[f"groups/{name}"])
            # PyTorch keeps nadam's product of momenta in float32.
            rtol = 1e-6 if name == "nadam" else 1e-9
            np.testing.assert_allclose(params, expected, rtol=rtol, err_msg=name)
