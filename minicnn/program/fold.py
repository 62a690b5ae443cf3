"""Batch normalization folded into the convolution or the dense layer before it, for inference.

    γ · (x * w + b − μ) / √(σ² + ε) + β  =  x * (w · a) + (b − μ) · a + β          a = γ / √(σ² + ε)

with the running mean μ and variance σ², computed in float64. Source: Jacob et al.: Quantization and
training of neural networks for efficient integer-arithmetic-only inference, 2018, eq. 14.
"""

from dataclasses import replace

import numpy as np

from minicnn.network.layers import Conv2d, Dense
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d


def fold(network: Network, params: np.ndarray) -> tuple[Network, np.ndarray]:
    """The network without the batch normalizations that can be folded, and its parameters
    [flat_size].

    A batch normalization is folded if its input is the output of a convolution or a dense layer
    that no other layer reads. If there is none, network and parameters are returned unchanged.
    """
    readers = [value for reads in network.reads for value in reads]
    folded: dict[
        int, tuple[int, float]
    ] = {}  # by the convolution or dense layer: the normalization after it, and its eps
    for index, layer in enumerate(network.layers):
        (value, *_) = network.reads[index]
        before = network.layers[value - 1] if value else None
        if (
            isinstance(layer, BatchNorm2d)
            and isinstance(before, Conv2d | Dense)
            and readers.count(value) == 1
        ):
            folded[value - 1] = index, layer.eps
    if not folded:
        return network, params
    names, gone = network.layer_names, {after: number for number, (after, _) in folded.items()}
    layers = []
    for index, layer in enumerate(network.layers):
        if index in gone:
            continue
        reads = [gone.get(value - 1, value - 1) for value in network.reads[index]]
        inputs = tuple(names[read] if read >= 0 else "input" for read in reads)
        changed = {"bias": True} if index in folded else {}
        layers.append(replace(layer, name=names[index], inputs=inputs, **changed))
    result = Network(network.input_shape, layers, network.name)
    tensors = {
        name: tensor.astype(np.float64) for name, tensor in network.unflatten(params).items()
    }
    for number, (after, eps) in folded.items():
        name, norm = names[number], names[after]
        gamma, beta, mean, variance = (
            tensors.pop(f"{norm}.{kind}")
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + eps)
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"] * factor
        tensors[f"{name}.bias"] = (tensors.get(f"{name}.bias", 0.0) - mean) * factor + beta
    return result, result.flatten(tensors, params.dtype)
