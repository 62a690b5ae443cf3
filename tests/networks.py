"""Networks under test beside the oracle: the same layers in minicnn's words and in the oracle's."""

import numpy as np

from minicnn.network import activations, layers
from minicnn.network.network import Network
from tests.reference import network as oracle


def oracle_steps(network: Network):
    """The network's layers as the oracle takes them (dropout excluded)."""
    steps = []
    for layer, shape in zip(network.layers, network.shapes[:-1], strict=True):
        match layer:
            case layers.Conv2d():
                options = {"stride": layer.stride, "padding": layer.resolved_padding(shape), "dilation": layer.dilation}
                steps.append(("conv2d", options))
            case layers.MaxPool2d() | layers.AvgPool2d():
                options = {"kernel": layer.kernel_size, "stride": layer.stride, "padding": layer.resolved_padding(shape)}
                steps.append((type(layer).__name__.lower(), options))
            case activations.LeakyReLU():
                steps.append(("leakyrelu", {"negative_slope": layer.negative_slope}))
            case _:
                steps.append((type(layer).__name__.lower(), {}))
    return steps


def oracle_tensors(network: Network, params):
    """(weight, bias or None) of each layer that has them."""
    views = network.unflatten(params)
    return {
        index: (views[f"{name}.weight"], views.get(f"{name}.bias"))
        for index, name in enumerate(network.layer_names)
        if f"{name}.weight" in views
    }


def random_params(network: Network, rng, dtype=np.float64):
    """Parameters with biases that are not zero."""
    params = np.zeros(network.flat_size, dtype)
    for tensor in network.unflatten(params).values():
        tensor[:] = rng.normal(size=tensor.shape) / np.sqrt(max(1, np.prod(tensor.shape[:-1])))
    return params


def oracle_passes(network: Network, params, x, dlogits):
    """(logits, flat gradient) by the oracle, in float64."""
    steps, tensors = oracle_steps(network), oracle_tensors(network, params.astype(np.float64))
    activations = oracle.forward(steps, x.astype(np.float64), tensors)
    gradients, _ = oracle.backward(steps, activations, tensors, dlogits)
    flat = np.zeros(network.flat_size)
    views = network.unflatten(flat)
    for index, (dw, db) in gradients.items():
        name = network.layer_names[index]
        views[f"{name}.weight"][:] = dw
        if f"{name}.bias" in views:
            views[f"{name}.bias"][:] = db
    return activations[-1], flat
