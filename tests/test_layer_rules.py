"""Layers by rule: activations and layers on a sample's arrays, in networks, model files and the
user's compiled code."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from numba import njit

import minicnn
from minicnn import (
    ActivationRule,
    Conv2d,
    Dense,
    Flatten,
    Hyperparameter,
    LayerRule,
    Network,
    Trainer,
    network_from_toml,
)
from minicnn.activations import RULES
from minicnn.backends import cpu
from minicnn.errors import NetworkError, PluginError, SettingError, UnknownNameError
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.gradient_check import gradcheck
from minicnn.kernels.cpu.rules import compile_layer
from minicnn.network.blocks import Branches, Residual
from minicnn.network.tables import layer
from minicnn.plugins import find
from minicnn.testing import layers
from minicnn.testing.checks import run_checks
from tests.training import small

forward = minicnn.forward


# --- oracles, each written from its formula, in float64 -------------------------------------------


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
# PyTorch 2.13 in float64 at -3.7, -1, 0.3, 2.5, 8: y and dy/dx (its hard sigmoid has 1 / 6 in
# float32)
PYTORCH = {
    "relu": ([0.0, 0.0, 0.3, 2.5, 8.0], [0.0, 0.0, 1.0, 1.0, 1.0]),
    "leaky_relu": ([-0.037, -0.01, 0.3, 2.5, 8.0], [0.01, 0.01, 1.0, 1.0, 1.0]),
    "relu6": ([0.0, 0.0, 0.3, 2.5, 6.0], [0.0, 0.0, 1.0, 1.0, 0.0]),
    "hard_sigmoid": (
        [0.0, 0.3333333333333, 0.55, 0.9166666666667, 1.0],
        [0.0, 0.1666666716337, 0.1666666716337, 0.1666666716337, 0.0],
    ),
    "hard_swish": (
        [0.0, -0.3333333333333, 0.165, 2.291666666667, 8.0],
        [0.0, 0.1666666666667, 0.6, 1.333333333333, 1.0],
    ),
    "sigmoid": (
        [0.02412702141767, 0.26894142137, 0.5744425168117, 0.9241418199788, 0.9996646498695],
        [0.02354490825518, 0.1966119332415, 0.2444583116907, 0.07010371654511, 0.0003352376707564],
    ),
    "tanh": (
        [-0.9987782412811, -0.7615941559558, 0.2913126124516, 0.9866142981514, 0.9999997749297],
        [0.00244202474337, 0.419974341614, 0.9151369618266, 0.02659222668316, 4.501405976549e-07],
    ),
    "silu": (
        [-0.08926997924538, -0.26894142137, 0.1723327550435, 2.310354549947, 7.997317198956],
        [-0.0629891391265, 0.07232948812851, 0.6477800103189, 1.099401111342, 1.002346551236],
    ),
    "gelu": (
        [-0.0003988590138664, -0.1586552539315, 0.1853734266567, 2.484475836686, 8.0],
        [-0.00146388726756, -0.08331547058769, 0.7323277668271, 1.037611085908, 1.0],
    ),
    "gelu_tanh": (
        [-0.0002718060213921, -0.1588080093917, 0.1853709235428, 2.48491573391, 8.0],
        [-0.001156727235788, -0.08296408384578, 0.7322954516388, 1.037951576213, 1.0],
    ),
    "elu": (
        [-0.9752764735297, -0.6321205588286, 0.3, 2.5, 8.0],
        [0.02472352647034, 0.3678794411714, 1.0, 1.0, 1.0],
    ),
    "softplus": (
        [0.02442284593378, 0.3132616875182, 0.8543552444685, 2.578889734293, 8.000335406373],
        [0.02412702141767, 0.26894142137, 0.5744425168117, 0.9241418199788, 0.9996646498695],
    ),
    "mish": (
        [-0.09034656750081, -0.3034014613741, 0.2080013723481, 2.471392304558, 7.999998200645],
        [-0.06479876184872, 0.0592167558774, 0.7828272995511, 1.041129530131, 1.000003372584],
    ),
}


def apply(rule, x, dtype=np.float64):
    """What a network of that layer alone makes of the row x."""
    network = Network((1, len(x), 1), [layer(rule), Flatten()])
    return (
        cpu.Passes(network, np.zeros(network.flat_size, dtype), 1)
        .forward(np.asarray(x).reshape(1, 1, -1, 1))[0]
        .copy()
    )


def test_every_built_in_activation_has_an_oracle_and_figures_of_pytorch():
    assert set(ORACLES) == set(PYTORCH) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_values_follow_the_formula(name):
    x = np.linspace(-9, 9, 181)
    np.testing.assert_allclose(apply(RULES[name], x), ORACLES[name](x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        apply(RULES[name], x, np.float32), ORACLES[name](x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", RULES)
def test_derivatives_are_those_of_the_formula(name):
    rule, h = RULES[name], 1e-6
    x = np.linspace(-9, 9, 181) + 0.0123
    x = x[[all(abs(value - kink) > 1e-3 for kink in rule.kinks) for value in x]]
    hypers = [hyper.default for hyper in rule.hyperparameters]
    read = ORACLES[name](x) if rule.reads == "y" else x
    found = [rule.derivative(float(value), *hypers) for value in read]
    np.testing.assert_allclose(
        found, (ORACLES[name](x + h) - ORACLES[name](x - h)) / (2 * h), atol=1e-8
    )


@pytest.mark.parametrize("name", PYTORCH)
def test_values_and_derivatives_are_those_of_pytorch(name):
    rule, (values, slopes) = RULES[name], PYTORCH[name]
    x = [-3.7, -1.0, 0.3, 2.5, 8.0]
    hypers = [hyper.default for hyper in rule.hyperparameters]
    np.testing.assert_allclose(apply(rule, x), values, atol=1e-11)
    read = apply(rule, x).tolist() if rule.reads == "y" else x
    np.testing.assert_allclose(
        [rule.derivative(value, *hypers) for value in read], slopes, rtol=1e-6, atol=1e-10
    )


@pytest.mark.parametrize("name", RULES)
def test_a_large_number_gives_no_nan_and_nan_stays(name):
    y = apply(RULES[name], [1e30, -1e30, 1e4, -1e4, np.nan], np.float32)
    assert not np.isnan(y[:4]).any()
    assert np.isnan(y[4])
    derivative = compile_layer(RULES[name], "backward", np.float32)._pyfunc.__globals__["rule"]
    hypers = tuple(np.float32(hyper.default) for hyper in RULES[name].hyperparameters)
    called = njit(
        lambda value: derivative(value, *hypers)
    )  # a rule is called by compiled code alone
    read = y[:4] if RULES[name].reads == "y" else np.array([1e30, -1e30, 1e4, -1e4], np.float32)
    assert not np.isnan([called(value) for value in read]).any()


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "relu6", "hard_swish"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_has_no_function_of_its_own_is_vectorized(name, direction, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))  # code from the disk cannot be looked at
    rule = replace(RULES[name], name=f"{name} {tmp_path.name}")
    assert re.search(r"<\d+ x float>", compile_layer(rule, direction, np.float32).inspect_llvm())


# --- rules that are not built in ------------------------------------------------------------------


def bent(x, slope, limit):
    return slope * x if x < limit else x + (slope - 1.0) * limit


def bent_derivative(x, slope, limit):
    return slope if x < limit else 1.0


SLOPE, LIMIT = Hyperparameter("slope", 0.5), Hyperparameter("limit", 1.0)
BENT = ActivationRule("bent", bent, bent_derivative, hyperparameters=(SLOPE, LIMIT))


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


MIX = LayerRule(
    "mix", same_shape, mix_forward, mix_backward, mixers, (Hyperparameter("gain", 1.0),)
)
SUM = LayerRule("sums", lambda shape: (2,), lambda x, y: None, lambda x, y, dy, dx: None)


def network_of(*own):
    """The layers are first in it, and read a value that others read before and after them."""
    middle = [
        Residual([Conv2d(2, 3, padding="same"), *own]),
        Branches([*own, Flatten()], [Flatten()], [Flatten()]),
    ]
    return Network((5, 4, 2), [*own, *middle, Dense(3)])


@pytest.mark.parametrize("own", [layer(BENT, limit=0.3), layer(MIX, gain=0.7)], ids=str)
def test_gradients_pass_the_check_where_others_read_the_same_value(own):
    network, rng = network_of(own), np.random.default_rng(0)
    batch_loss = BatchLoss(
        network,
        network.initialize(rng),
        rng.normal(size=(4, 5, 4, 2)),
        np.arange(4) % 3,
        minicnn.Loss("cross_entropy", 3),
    )
    assert all(check.passed for check in gradcheck(batch_loss, 12))


def test_hyperparameters_reach_the_functions():
    network = Network((1, 1, 3), [layer(BENT, slope=0.25, limit=2.0), Flatten()])
    y = cpu.Passes(network, np.zeros(0), 1).forward(np.array([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(y[0], [0.25, 0.5, 2.5])


def test_parameters_have_their_first_values_and_kinds():
    network = Network((2, 2, 3), [layer(MIX), Flatten()])
    assert [(spec.name, spec.shape, spec.kind) for spec in network.parameters] == [
        ("mix1.mix", (3, 3), "weight"),
        ("mix1.offset", (3,), "scale"),
    ]
    tensors = network.unflatten(network.initialize(np.random.default_rng(0)))
    assert tensors["mix1.mix"].std() > 0.1
    np.testing.assert_array_equal(tensors["mix1.offset"], 0.25)


def test_an_input_that_does_not_fit_is_an_error_in_the_rules_words():
    with pytest.raises(
        NetworkError, match=r"layer 2 \(mix1\): mix\(gain=1\): an image would fit, not \(8,\)"
    ):
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


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (ActivationRule("a", lambda x, y: x, lambda x: x), r"layer 'a': <lambda> must take \(x\)"),
        (ActivationRule("b", lambda x: x.y, lambda x: x), "layer 'b' cannot be compiled"),
        (SUM, None),
        (
            LayerRule("c", lambda shape: shape, lambda x: None, lambda x, y, dy, dx: None),
            r"'c': <lambda> must take \(x, y",
        ),
    ],
)
def test_a_rule_that_cannot_be_compiled_is_named(rule, message):
    network = Network((1, 1, 2), [layer(rule), Flatten()])
    if message is None:
        cpu.Passes(network, np.zeros(0), 1)
    else:
        with pytest.raises(PluginError, match=message):
            cpu.Passes(network, np.zeros(0), 1)


# --- by name --------------------------------------------------------------------------------------

RIPPLE = """
    import math
    from minicnn import ActivationRule, Hyperparameter, hookimpl

    def value(x, alpha):
        return x + math.sin(alpha * x) * math.sin(alpha * x) / alpha

    def derivative(x, alpha):
        return 1.0 + math.sin(2.0 * alpha * x)

    @hookimpl
    def minicnn_layers():
        return [ActivationRule("ripple", value, derivative, hyperparameters=(Hyperparameter("alpha", 1.0, 0.0),))]
"""
TOML = """
[[layers]]
type = "Conv2d"
filters = 2
kernel_size = 3

[[layers]]
type = "Ripple"
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
    install("minicnn-ripple", ["layer.ripple"], RIPPLE)
    (tmp_path / "wave.toml").write_text(TOML)
    network = network_from_toml(tmp_path / "wave.toml", (5, 5), 3)
    assert network.layers[1] == layer("ripple", alpha=2, name="wave")
    assert network.layer_names[1] == "wave"
    table = {"type": "ripple", "name": "wave", "alpha": 2.0, "plugin": "minicnn-ripple 1.2.3"}
    assert network.to_dict()["layers"][1] == table
    assert Network.from_dict(network.to_dict()) == network


def test_a_wrong_hyperparameter_is_named(install):
    install("minicnn-ripple", ["layer.ripple"], RIPPLE)
    with pytest.raises(UnknownNameError, match="beta"):
        layer("ripple", beta=1.0)
    with pytest.raises(SettingError, match="alpha"):
        layer("ripple", alpha=-1.0)


def test_an_unknown_layer_lists_what_there_is(install):
    install("minicnn-ripple", ["layer.ripple"], RIPPLE)
    with pytest.raises(UnknownNameError, match="ripple"):
        layer("riply")


def test_a_network_says_which_plugin_is_missing():
    table = {"type": "serpent", "alpha": 2.0, "plugin": "minicnn-serpent 1.2.3"}
    with pytest.raises(
        PluginError, match=r"the layer 'serpent' is of minicnn-serpent 1\.2\.3, which is not here"
    ):
        Network.from_dict({"name": "wave", "input_shape": [2, 2, 1], "layers": [table]})


@njit
def in_my_code(plan, params, work, images, logits):
    forward(plan, params, work, images, logits)


def test_a_run_with_third_party_layers_trains_is_saved_and_runs_in_compiled_code(install, tmp_path):
    install("minicnn-ripple", ["layer.ripple"], RIPPLE)
    network = Network(
        (6, 6), [Conv2d(3, 3), layer("ripple", alpha=2.0), Flatten(), Dense(small.CLASSES)]
    )
    trainer = Trainer(network, epochs=3, batch_size=12, learning_rate=0.01)
    history = trainer.fit(small.dataset(), output=tmp_path)
    assert history.ended.test.accuracy > 0.6
    model = minicnn.load(tmp_path / "model.safetensors")
    assert model.network == network
    images = np.random.default_rng(3).random((4, 6, 6, 1), dtype=np.float32)
    logits = np.empty((4, small.CLASSES), np.float32)
    in_my_code(*model.njit_arguments(), images, logits)
    passes = cpu.Passes(network, np.array(model.params), 4)
    np.testing.assert_allclose(logits, passes.forward(images), rtol=1e-5, atol=1e-6)


def test_the_conformance_kit_finds_a_wrong_derivative_and_a_gradient_that_is_not_added():
    wrong = replace(BENT, derivative=lambda x, slope, limit: slope, kinks=(1.0,))
    found = {
        check.name: check.result
        for check in run_checks({"derivatives": lambda: layers._derivatives(wrong)})
    }
    assert found == {"derivatives": "failed"}

    def overwrites(x, y, dy, dx, mix, offset, dmix, doffset, gain):
        for c in range(x.shape[2]):
            doffset[c] = 0.0
        mix_backward(x, y, dy, dx, mix, offset, dmix, doffset, gain)

    (check,) = run_checks(
        {"gradients": lambda: layers._gradients(replace(MIX, backward=overwrites))}
    )
    assert "offset" in check.detail and not check.passed
