"""Layers by rule: activations and layers on a sample's arrays, in networks, model files and the user's compiled code."""

import math
import re

import numpy as np
import pytest
from numba import njit

import minicnn
from minicnn import ActivationRule, Conv2d, Dense, Flatten, Hyperparameter, LayerRule, Network, network_from_toml
from minicnn.activations import RULES
from minicnn.backends import cpu
from minicnn.errors import NetworkError, PluginError, SettingError, UnknownNameError
from minicnn.insight.gradient_check import Cost, gradcheck
from minicnn.kernels.cpu.rules import compile_layer
from minicnn.network.blocks import Branches, Residual
from minicnn.network.tables import layer
from minicnn.plugins import find

forward = minicnn.forward


# --- oracles: each written from its formula, in float64 ----------------------------------------------------------------


def erf(x):
    return np.vectorize(math.erf)(x)


ORACLES = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: 0.5 * (1 + np.tanh(x / 2)),
    "tanh": np.tanh,
    "silu": lambda x: x * 0.5 * (1 + np.tanh(x / 2)),
    "gelu": lambda x: x / 2 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "softplus": lambda x: np.logaddexp(0, x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
}
# PyTorch 2.13 in float64 at -3.7, -1, 0.3, 2.5, 8: the value, and dy/dx
PYTORCH = {
    "hard_swish": ([0.0, -1 / 3, 0.165, 2.2916666666666665, 8.0], [0.0, 1 / 6, 0.6, 1.3333333333333335, 1.0]),
    "hard_sigmoid": ([0.0, 1 / 3, 0.55, 0.9166666666666666, 1.0], [0.0, 1 / 6, 1 / 6, 1 / 6, 0.0]),
}


def apply(rule, x, dtype=np.float64):
    """What a network of that layer alone makes of the row x."""
    network = Network((1, len(x), 1), [layer(rule), Flatten()])
    return cpu.Passes(network, np.zeros(network.flat_size, dtype), 1).forward(np.asarray(x).reshape(1, 1, -1, 1))[0].copy()


def test_every_built_in_activation_has_an_oracle():
    assert set(ORACLES) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_values_follow_the_formula(name):
    x = np.linspace(-9, 9, 181)
    np.testing.assert_allclose(apply(RULES[name], x), ORACLES[name](x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(apply(RULES[name], x, np.float32), ORACLES[name](x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_derivatives_are_those_of_the_formula(name):
    rule, h = RULES[name], 1e-6
    x = np.linspace(-9, 9, 181) + 0.0123
    x = x[[all(abs(value - kink) > 1e-3 for kink in rule.kinks) for value in x]]
    hypers = [hyper.default for hyper in rule.hyperparameters]
    read = ORACLES[name](x) if rule.reads == "y" else x
    found = [rule.derivative(float(value), *hypers) for value in read]
    np.testing.assert_allclose(found, (ORACLES[name](x + h) - ORACLES[name](x - h)) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("name", PYTORCH)
def test_values_and_derivatives_are_those_of_pytorch(name):
    rule, (values, slopes) = RULES[name], PYTORCH[name]
    x = [-3.7, -1.0, 0.3, 2.5, 8.0]
    np.testing.assert_allclose(apply(rule, x), values, atol=1e-15)
    read = values if rule.reads == "y" else x
    np.testing.assert_allclose([rule.derivative(value) for value in read], slopes, atol=1e-15)


@pytest.mark.parametrize("name", RULES)
def test_a_large_number_gives_no_nan_and_nan_stays(name):
    y = apply(RULES[name], [1e30, -1e30, 1e4, -1e4, np.nan], np.float32)
    assert not np.isnan(y[:4]).any()
    assert np.isnan(y[4])
    derivative = compile_layer(RULES[name], "backward", np.float32)._pyfunc.__globals__["rule"]
    hypers = [np.float32(hyper.default) for hyper in RULES[name].hyperparameters]
    read = y[:4] if RULES[name].reads == "y" else np.array([1e30, -1e30, 1e4, -1e4], np.float32)
    assert not np.isnan([derivative(value, *hypers) for value in read]).any()


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "relu6", "hard_swish"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_has_no_function_of_its_own_is_vectorized(name, direction):
    compiled = compile_layer(RULES[name], direction, np.float32)
    source = compile_layer.__globals__["_compile"]
    assert source is not None
    code = compiled.inspect_llvm()
    assert re.search(r"<\d+ x float>", code), "no vector"


# --- rules that are not built in ---------------------------------------------------------------------------------------


def bent(x, slope, limit):
    return slope * x if x < limit else x + (slope - 1.0) * limit


def bent_derivative(x, slope, limit):
    return slope if x < limit else 1.0


BENT = ActivationRule("bent", bent, bent_derivative, hyperparameters=(Hyperparameter("slope", 0.5), Hyperparameter("limit", 1.0)))


def same_shape(shape, gain):
    if len(shape) != 3:
        raise ValueError(f"an image would fit, not {shape}")
    return shape


def mixers(shape, gain):
    return {"mix": ((shape[2], shape[2]), "weight"), "offset": (shape[2:], 0.25)}


def mix_forward(x, y, mix, offset, gain):
    for h in range(x.shape[0]):
        for w in range(x.shape[1]):
            for c in range(x.shape[2]):
                y[h, w, c] = gain * offset[c]
                for k in range(x.shape[2]):
                    y[h, w, c] += x[h, w, k] * mix[k, c]


def mix_backward(x, y, dy, dx, mix, offset, dmix, doffset, gain):
    for h in range(x.shape[0]):
        for w in range(x.shape[1]):
            for k in range(x.shape[2]):
                dx[h, w, k] = 0.0
            for c in range(x.shape[2]):
                doffset[c] += gain * dy[h, w, c]
                for k in range(x.shape[2]):
                    dx[h, w, k] += dy[h, w, c] * mix[k, c]
                    dmix[k, c] += dy[h, w, c] * x[h, w, k]


MIX = LayerRule("mix", same_shape, mix_forward, mix_backward, mixers, (Hyperparameter("gain", 1.0),))
SUM = LayerRule("sums", lambda shape: (2,), lambda x, y: None, lambda x, y, dy, dx: None)


def network_of(*own):
    """A network in which the layers are first, read a value that others read before and after them, and follow each other."""
    middle = [Residual([Conv2d(2, 3, padding="same"), *own]), Branches([*own, Flatten()], [Flatten()], [Flatten()])]
    return Network((5, 4, 2), [*own, *middle, Dense(3)])


@pytest.mark.parametrize("own", [layer(BENT, limit=0.3), layer(MIX, gain=0.7)], ids=str)
def test_gradients_pass_the_check_where_others_read_the_same_value(own):
    network, rng = network_of(own), np.random.default_rng(0)
    cost = Cost(network, network.initialize(rng), rng.normal(size=(4, 5, 4, 2)), np.arange(4) % 3,
                minicnn.Loss("cross_entropy", 3))  # fmt: skip
    assert all(check.passed for check in gradcheck(cost, 12))


def test_hyperparameters_reach_the_functions():
    network = Network((1, 1, 3), [layer(BENT, slope=0.25, limit=2.0), Flatten()])
    y = cpu.Passes(network, np.zeros(0), 1).forward(np.array([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(y[0], [0.25, 0.5, 2.5])


def test_parameters_have_their_first_values_and_kinds():
    network = Network((2, 2, 3), [layer(MIX), Flatten()])
    assert [(spec.name, spec.shape, spec.kind) for spec in network.parameters] == [
        ("mix1.mix", (3, 3), "weight"), ("mix1.offset", (3,), "scale")]  # fmt: skip
    tensors = network.unflatten(network.initialize(np.random.default_rng(0)))
    assert tensors["mix1.mix"].std() > 0.1
    np.testing.assert_array_equal(tensors["mix1.offset"], 0.25)


def test_an_input_that_does_not_fit_is_an_error_in_the_rules_words():
    with pytest.raises(NetworkError, match=r"layer 2 \(mix1\): mix\(gain=1\): an image would fit, not \(8,\)"):
        Network((2, 2, 2), [Flatten(), layer(MIX)])


def test_a_vector_and_an_image_of_two_numbers_of_dimensions_are_compiled_apart():
    def double(x, y):
        for i in range(y.size):
            y[i] = 2.0 * x[i]

    def halves(x, y, dy, dx):
        for i in range(y.size):
            dx[i] = 2.0 * dy[i]

    rule = LayerRule("doubles", lambda shape: shape, double, halves)
    network = Network((1, 1, 3), [Flatten(), layer(rule)])
    y = cpu.Passes(network, np.zeros(0), 2).forward(np.arange(6.0).reshape(2, 1, 1, 3))
    np.testing.assert_array_equal(y, 2 * np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(("rule", "message"), [
    (ActivationRule("a", lambda x, y: x, lambda x: x), r"layer 'a': <lambda> must take \(x\)"),
    (ActivationRule("b", lambda x: x.y, lambda x: x), "layer 'b' cannot be compiled"),
    (SUM, None),
    (LayerRule("c", lambda shape: shape, lambda x: None, lambda x, y, dy, dx: None), r"layer 'c': <lambda> must take \(x, y"),
])  # fmt: skip
def test_a_rule_that_cannot_be_compiled_is_named(rule, message):
    network = Network((1, 1, 2), [layer(rule), Flatten()])
    if message is None:
        cpu.Passes(network, np.zeros(0), 1)
    else:
        with pytest.raises(PluginError, match=message):
            cpu.Passes(network, np.zeros(0), 1)


# --- by name -----------------------------------------------------------------------------------------------------------

SNAKE = """
    import math
    from minicnn import ActivationRule, Hyperparameter, hookimpl

    def value(x, alpha):
        return x + math.sin(alpha * x) * math.sin(alpha * x) / alpha

    def derivative(x, alpha):
        return 1.0 + math.sin(2.0 * alpha * x)

    @hookimpl
    def minicnn_layers():
        return [ActivationRule("snake", value, derivative, hyperparameters=(Hyperparameter("alpha", 1.0, 0.0),))]
"""
TOML = """
[[layers]]
type = "Conv2d"
filters = 2
kernel_size = 3

[[layers]]
type = "Snake"
alpha = 2.0
name = "wave"

[[layers]]
type = "Flatten"

[[layers]]
type = "Dense"
units = "classes"
"""


def test_names_of_built_in_layers_may_be_written_as_those_of_rules():
    assert layer("leaky-relu", negative_slope=0.2) == minicnn.LeakyReLU(0.2)
    assert layer("hard_swish").type_name == "HardSwish"
    assert layer("gelu_tanh").rule is find("layer", "gelu-tanh")


def test_a_plugins_layer_is_found_by_name_in_toml_and_in_python(install, tmp_path):
    install("minicnn-snake", ["layer.snake"], SNAKE)
    (tmp_path / "wave.toml").write_text(TOML)
    network = network_from_toml(tmp_path / "wave.toml", (5, 5), 3)
    assert network.layers[1] == layer("snake", alpha=2, name="wave")
    assert network.layer_names[1] == "wave"
    assert network.to_dict()["layers"][1] == {"type": "snake", "name": "wave", "alpha": 2.0, "plugin": "minicnn-snake 1.2.3"}
    assert Network.from_dict(network.to_dict()) == network


def test_a_wrong_hyperparameter_is_named(install):
    install("minicnn-snake", ["layer.snake"], SNAKE)
    with pytest.raises(UnknownNameError, match="beta"):
        layer("snake", beta=1.0)
    with pytest.raises(SettingError, match="alpha"):
        layer("snake", alpha=-1.0)


def test_an_unknown_layer_lists_what_there_is(install):
    install("minicnn-snake", ["layer.snake"], SNAKE)
    with pytest.raises(UnknownNameError, match="snake"):
        layer("snaky")


def test_a_network_says_which_plugin_is_missing():
    table = {"type": "serpent", "alpha": 2.0, "plugin": "minicnn-serpent 1.2.3"}
    with pytest.raises(PluginError, match=r"the layer 'serpent' is of minicnn-serpent 1\.2\.3, which is not here"):
        Network.from_dict({"name": "wave", "input_shape": [2, 2, 1], "layers": [table]})


def test_a_run_with_third_party_layers_trains_saves_loads_and_runs_in_compiled_code(install, tmp_path):
    install("minicnn-snake", ["layer.snake"], SNAKE)
    rng = np.random.default_rng(0)
    images = rng.random((60, 6, 6, 1), dtype=np.float32)
    labels = (images[:, :3].mean(axis=(1, 2, 3)) > images[:, 3:].mean(axis=(1, 2, 3))).astype(np.int64)
    network = Network((6, 6), [Conv2d(3, 3), layer("snake", alpha=2.0), layer(MIX), Flatten(), Dense(2)])
    rate = minicnn.Optimizer("adam", network, learning_rate=0.02)
    assert rate.rule.name == "adam"
    passes, params = cpu.Passes, network.initialize(rng)
    training = cpu.Training(network, params, 60, find("optimizer", "adam"), find("loss", "cross_entropy"), 1)
    assert training.plan.table["backward"].all()
    first = passes(network, params, 60).forward(images).copy()

    @njit
    def in_my_code(plan, params, work, images, logits):
        forward(plan, params, work, images, logits)

    model = minicnn.Model(network, params, ("a", "b"), maximum=1.0, image_dtype="float32")
    logits = np.empty((60, 2), np.float32)
    in_my_code(*model.njit_arguments(), images, logits)
    np.testing.assert_allclose(logits, first, rtol=1e-5, atol=1e-6)
    assert labels.any()
