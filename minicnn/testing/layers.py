"""The conformance kit for layers: activations, and layers on a sample's arrays."""

import math
from functools import partial
from typing import Any

import numpy as np
from numba import njit, types

from minicnn import plugins
from minicnn.backends import cpu
from minicnn.errors import NetworkError
from minicnn.evaluation.loss import Loss
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.gradient_check import gradcheck
from minicnn.kernels.cpu.rules import compile_layer
from minicnn.network.activations import ReLU
from minicnn.network.blocks import Branches
from minicnn.network.layer import Shape
from minicnn.network.layers import Conv2d, Dense, Flatten, MaxPool2d
from minicnn.network.network import Network
from minicnn.network.tables import layer, own_layer
from minicnn.rules import ActivationRule, AnyLayer, LayerRule
from minicnn.testing import training
from minicnn.testing.checks import (
    PLAIN,
    CheckFailed,
    Checks,
    CheckSkipped,
    close,
    declared,
    defaults,
    described,
    read_only,
    without_float64,
)
from minicnn.testing.on_cuda import works_on_cuda

_LARGE = (30.0, 1e4, 1e15, 1e30)
_NEAR = 1e-3  # to a kink, where a difference is no derivative


def checks_of_layer(rule: AnyLayer) -> Checks:
    """The checks of a layer: against plain Python, numeric derivatives, NaN, and in a training
    run."""
    checks = {
        "declaration": partial(_declaration, rule),
        PLAIN: partial(_plain, rule),
        "compiled equals plain Python": partial(_equals_plain_python, rule),
        "float32 equals float64": partial(_equals_float64, rule),
    }
    if isinstance(rule, ActivationRule):
        checks |= {
            "no float64 arithmetic in float32": partial(_without_float64, rule),
            "numeric derivatives": partial(_derivatives, rule),
            "large numbers": partial(_large, rule),
        }
    return checks | {
        "numeric gradient in networks": partial(_gradients, rule),
        "NaN stays NaN": partial(_keeps_nan, rule),
        "training": lambda: training.learns(network=_trained(rule)),
        "resume": partial(_resumes, rule),
        "no recompilation": lambda: training.compiles_once(network=_trained(rule)),
        "CUDA": partial(works_on_cuda, rule) if isinstance(rule, ActivationRule) else _cpu_only,
    }


def _declaration(rule: AnyLayer) -> str:
    if own_layer(rule.name) not in (None, type(layer(rule))):
        raise CheckFailed(f"{rule.name} is the name of a layer of minicnn")
    if isinstance(rule, LayerRule):
        return described(rule)
    declared(rule, rule.derivative, leading=1)
    return declared(rule, rule.value, leading=1)


def _cpu_only() -> str:
    raise CheckSkipped("a layer on a sample's arrays is computed on the CPU alone")


# --- values ---------------------------------------------------------------------------------------


def _shape(rule: AnyLayer) -> Shape:
    """Of an input that the layer takes: an image, or a row of features."""
    for shape in ((6, 6, 4), (24,)):
        try:
            layer(rule).output_shape(shape)
            return shape
        except NetworkError as error:
            reason = error
    raise CheckFailed(
        f"it takes neither an image of 6×6 pixels with 4 channels nor a row of 24 features: {reason}"
    )


def _network(rule: AnyLayer, shape: Shape) -> Network:
    """The layer alone, for samples of ``shape``."""
    if len(shape) == 3:
        return Network(shape, [layer(rule), Flatten()])
    return Network((1, 1, *shape), [Flatten(), layer(rule), Flatten()])


def _alone(rule: AnyLayer, dtype: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(y, the parameters) of the layer for samples ``x`` [N, ...]."""
    network = _network(rule, x.shape[1:])
    params = network.initialize(np.random.default_rng(0), dtype)
    y = cpu.Passes(network, params, len(x)).forward(x.reshape(len(x), *network.input_shape))
    return y.copy(), params


def _samples(rule: AnyLayer) -> np.ndarray:
    return 2.0 * np.random.default_rng(3).normal(size=(5, *_shape(rule))).astype(np.float32)


def _in_plain_python(rule: AnyLayer, x: np.ndarray, params: np.ndarray) -> np.ndarray:
    """y for samples ``x``; what a pass may only read raises where it writes."""
    hypers = defaults(rule).values()
    if isinstance(rule, ActivationRule):
        return np.array([rule.value(value, *hypers) for value in x.reshape(-1).tolist()])
    y = np.full((len(x), *layer(rule).output_shape(x.shape[1:])), np.nan)  # all must be written
    tensors = read_only(*_network(rule, x.shape[1:]).unflatten(params).values())
    for sample, result in zip(read_only(x)[0], y, strict=True):
        rule.forward(sample, result, *tensors, *hypers)
    return y


def _plain(rule: AnyLayer) -> str:
    """Forward, and of a layer on arrays backward."""
    x = _samples(rule).astype(np.float64)
    network = _network(rule, x.shape[1:])
    params = network.initialize(np.random.default_rng(0), np.float64)
    y = _in_plain_python(rule, x, params)
    if isinstance(rule, LayerRule):
        tensors = read_only(*network.unflatten(params).values())
        gradients = [np.zeros(tensor.shape) for tensor in tensors]
        for sample, result, dx in zip(
            read_only(x)[0], read_only(y)[0], np.empty_like(x), strict=True
        ):
            given = sample, result, read_only(result)[0], dx
            rule.backward(*given, *tensors, *gradients, *defaults(rule).values())
    return f"{len(x)} samples of shape {x.shape[1:]} stay inside their arrays"


def _equals_plain_python(rule: AnyLayer) -> str:
    x = _samples(rule).astype(np.float64)
    y, params = _alone(rule, np.float64, x)
    expected = _in_plain_python(rule, x, params)
    return close("y in float64", y.reshape(-1), expected.reshape(-1), 1e-10)


def _equals_float64(rule: AnyLayer) -> str:
    x = _samples(rule)
    return close("y", _alone(rule, np.float32, x)[0], _alone(rule, np.float64, x)[0], 1e-5)


def _without_float64(rule: ActivationRule) -> str:
    for name in ("forward", "backward"):
        found = without_float64(
            compile_layer(rule, name, np.float32),
            *[types.float32] * (1 + len(rule.hyperparameters)),
        )
    return found


def _large(rule: ActivationRule) -> str:
    hypers = tuple(np.float32(value) for value in defaults(rule).values())
    given = np.array([sign * size for size in _LARGE for sign in (1, -1)], np.float32)
    y = _alone(rule, np.float32, given.reshape(1, 1, 1, -1))[0].reshape(-1)
    compiled = compile_layer(rule, "backward", np.float32)._pyfunc.__globals__["rule"]

    @njit
    def derivative(value: Any, hypers: Any) -> Any:
        return compiled(value, *hypers)

    derivatives = [
        derivative(value, hypers)
        for value in (y if rule.reads == "y" else given)
        if math.isfinite(value)
    ]
    if np.isnan(y).any() or np.isnan(derivatives).any():
        raise CheckFailed(f"y {y.tolist()}, dy/dx {derivatives} for x {given.tolist()}")
    return f"|x| up to {_LARGE[-1]:g} gives no NaN"


def _keeps_nan(rule: AnyLayer) -> str:
    x = _samples(rule)
    x.reshape(-1)[0] = np.nan
    if not np.isnan(_alone(rule, np.float32, x)[0][0]).any():
        raise CheckFailed(
            "NaN in the input is lost in the output: a run that diverged would not be seen"
        )
    return "NaN in gives NaN out"


# --- gradients ------------------------------------------------------------------------------------


def _derivatives(rule: ActivationRule) -> str:
    hypers, h = list(defaults(rule).values()), 1e-6
    x = np.linspace(-8.0, 8.0, 801) + 1e-4
    x = x[[all(abs(value - kink) > _NEAR for kink in rule.kinks) for value in x]]
    numeric = [
        (rule.value(value + h, *hypers) - rule.value(value - h, *hypers)) / (2 * h)
        for value in x.tolist()
    ]
    read = [rule.value(value, *hypers) if rule.reads == "y" else value for value in x.tolist()]
    return close("dy/dx", [rule.derivative(value, *hypers) for value in read], numeric, 1e-6)


def _gradients(rule: AnyLayer) -> str:
    """With its input read by it alone, and by others, first and later: dx is written, and added
    to."""
    own, flat, shape = layer(rule), Flatten(), _shape(rule)
    begin: list[Any] = (
        [Conv2d(4, 3, padding="same")] if len(shape) == 3 else [flat, Dense(shape[0])]
    )
    image = (6, 6, 2) if len(shape) == 3 else (1, 1, 5)
    loss, worst = Loss("cross_entropy", 3), 0.0
    for middle in ([own, flat], [Branches([own, flat], [flat])], [Branches([flat], [own, flat])]):
        for first in ((), begin):  # as the first layer, it has no dx
            if not first and (image[2] != shape[-1] or len(shape) == 1):
                continue
            rng = np.random.default_rng(1)
            network = Network(image, [*first, *middle, Dense(3)])
            params, images = network.initialize(rng), rng.normal(size=(4, *image))
            for found in gradcheck(BatchLoss(network, params, images, np.arange(4) % 3, loss), 12):
                if not found.passed:
                    raise CheckFailed(
                        f"{found.tensor} in {' '.join(network.layer_names)}: relative error {found.error:.1e}"
                    )
                worst = max(worst, found.error or 0.0)
    return f"relative error {worst:.1e}, also where others read its input"


def _resumes(rule: AnyLayer) -> str:
    """A file of a run has the layer by its name."""
    if plugins.canonical_name(rule.name) not in plugins.names("layer"):
        raise CheckSkipped(
            f"no plugin offers a layer {rule.name}: install its package, or give its file with --plugin"
        )
    return training.resumes(network=_trained(rule))


def _trained(rule: AnyLayer) -> Network:
    """A small network with the layer, for images of 28×28 pixels and ten classes."""
    own = layer(rule)
    if isinstance(rule, ActivationRule):
        begin = [Conv2d(6, 5), own, MaxPool2d(2), Conv2d(16, 5), own, MaxPool2d(2)]
        layers = [*begin, Flatten(), Dense(84), own, Dense(10)]
    elif len(_shape(rule)) == 3:
        layers = [Conv2d(8, 5, stride=2), own, ReLU(), Flatten(), Dense(10)]
    else:
        layers = [Flatten(), Dense(32), own, ReLU(), Dense(10)]
    return Network((28, 28, 1), layers)
