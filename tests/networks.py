"""Networks under test beside the oracle: the same layers in minicnn's words and in the oracle's."""

from typing import NamedTuple

import numpy as np

from minicnn.network import activations, layers, normalization
from minicnn.network.network import Network
from tests.reference import layers as oracle_layers
from tests.reference import network as oracle
from tests.reference.network import Step

STATE = "running_mean", "running_var"


def oracle_steps(network: Network, samples: int | None = None, key: int = 0) -> list[Step]:
    """The network's layers as the oracle takes them.

    With ``samples``, those of a training step on so many: dropout by the random numbers of ``key``,
    normalization by the statistics of the batch. Without, as in inference.
    """
    steps = []
    for index, (layer, reads) in enumerate(zip(network.layers, network.reads, strict=True)):
        shape = network.shapes[reads[0]]
        name, options = type(layer).__name__.lower(), {}
        match layer:
            case layers.Conv2d():
                options = {
                    "stride": layer.stride,
                    "padding": _padding(layer, shape),
                    "dilation": layer.dilation,
                    "groups": layer.groups,
                }
            case layers.MaxPool2d() | layers.AvgPool2d():
                options = {
                    "kernel": layer.kernel_size,
                    "stride": layer.stride,
                    "padding": _padding(layer, shape),
                    "ceil_mode": layer.ceil_mode,
                }
                more = "dilation" if isinstance(layer, layers.MaxPool2d) else "count_include_pad"
                options[more] = getattr(layer, more)
            case normalization.BatchNorm2d():
                name, options = (
                    "batchnorm" if samples is not None else "frozenbatchnorm",
                    {"eps": layer.eps},
                )
            case normalization.GroupNorm():
                options = {"eps": layer.eps, "groups": layer.groups}
            case normalization.LayerNorm():
                options = {"eps": layer.eps}
            case activations.LeakyReLU():
                options = {"negative_slope": layer.negative_slope}
            case activations.ELU():
                options = {"alpha": layer.alpha}
            case activations.GELU(approximate="tanh"):
                name = "tanhgelu"
            case layers.Dropout() if samples is None:
                name, options = "dropout", {"mask": np.ones(1), "rate": 0.0}
            case layers.Dropout():
                mask = getattr(oracle_layers, f"{name}_mask")(
                    (samples, *shape), layer.rate, key, index
                )
                name, options = "dropout", {"mask": mask, "rate": layer.rate}
        steps.append(Step(name, options, reads))
    return steps


def _padding(layer, shape):
    """(top, bottom, left, right)."""
    if layer.padding == "same":
        return oracle_layers.same_padding(
            shape[:2], layer.kernel_size, layer.stride, layer.dilation
        )
    return (
        layer.padding
        if len(layer.padding) == 4
        else (layer.padding[0],) * 2 + (layer.padding[1],) * 2
    )


def oracle_tensors(network: Network, params, state: bool = True):
    """The tensors of each layer that has them: (weight, bias or None), with ``state`` the running
    statistics after them."""
    views = network.unflatten(params)
    found = {}
    for index, name in enumerate(network.layer_names):
        if f"{name}.weight" in views:
            own = [views[f"{name}.weight"]]
            if not isinstance(network.layers[index], activations.PReLU):
                own.append(views.get(f"{name}.bias"))
            if state:
                own += [views[f"{name}.{kind}"] for kind in STATE if f"{name}.{kind}" in views]
            found[index] = tuple(own)
    return found


def random_params(network: Network, rng, dtype=np.float64):
    """Parameters with biases that are not zero, scales about one, and running variances that are
    positive."""
    params = np.zeros(network.flat_size, dtype)
    for spec, tensor in zip(network.parameters, network.unflatten(params).values(), strict=True):
        drawn = rng.normal(size=tensor.shape)
        if spec.kind == "scale":
            tensor[:] = 1 + drawn / 4
        elif spec.name.endswith(".running_var"):
            tensor[:] = 0.5 + np.abs(drawn)
        else:
            fan_in = np.prod(tensor.shape[:-1]) if spec.kind == "weight" else 1
            tensor[:] = drawn / np.sqrt(max(1, fan_in))
    return params


class OraclePasses(NamedTuple):
    """What the oracle says of one training step."""

    values: list  # of the network's values, x first
    grads: np.ndarray  # flat; zero where the state is
    dx: np.ndarray
    params_after: np.ndarray  # the parameters with the running statistics after the step


def oracle_training(network: Network, params, x, dlogits, key: int = 0) -> OraclePasses:
    """Forward and backward pass of one training step by the oracle, in float64."""
    params = params.astype(np.float64)
    steps, tensors = (
        oracle_steps(network, len(x), key),
        oracle_tensors(network, params, state=False),
    )
    values = oracle.forward(steps, x.astype(np.float64), tensors)
    gradients, dx = oracle.backward(steps, values, tensors, dlogits.astype(np.float64))
    grads, after = np.zeros(network.flat_size), params.copy()
    grad_views, after_views = network.unflatten(grads), network.unflatten(after)
    for index, found in gradients.items():
        name = network.layer_names[index]
        for kind, gradient in zip(("weight", "bias"), found, strict=False):
            if f"{name}.{kind}" in grad_views:
                grad_views[f"{name}.{kind}"][:] = gradient
        if steps[index].name == "batchnorm":
            state = [after_views[f"{name}.{kind}"] for kind in STATE]
            given = values[steps[index].reads[0]]
            updated = oracle_layers.batchnorm_running(given, *state, network.layers[index].momentum)
            for view, new in zip(state, updated, strict=True):
                view[:] = new
    return OraclePasses(values, grads, dx, after)


def oracle_passes(network: Network, params, x, dlogits, key: int = 0):
    """(logits, flat gradient) of one training step by the oracle, in float64."""
    made = oracle_training(network, params, x, dlogits, key)
    return made.values[-1], made.grads


def oracle_inference(network: Network, params, x):
    """The logits of inference by the oracle, in float64."""
    tensors = oracle_tensors(network, params.astype(np.float64))
    return oracle.forward(oracle_steps(network), x.astype(np.float64), tensors)[-1]
