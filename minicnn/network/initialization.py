"""First values of the weights, by the activation that follows the layer.

The aim of both formulas is a signal whose variance neither dies out nor explodes from layer to
layer. ``fan_in`` is the number of inputs that one output reads (R·S·C, or the inputs of a dense
layer), ``fan_out`` the number of outputs that read one input (R·S·K, or the units).

- He normal, before ReLU and what looks like it (LeakyReLU, SiLU, GELU, ...): ``w ~ N(0, gain² /
fan_in)``, ``gain² = 2``, and
  ``2 / (1 + negative_slope²)`` for LeakyReLU. He, Zhang, Ren, Sun: Delving Deep into Rectifiers,
  2015, eq. 10 and 15.
- Glorot uniform, before Sigmoid and Tanh, and where no activation follows, as in the output layer:
  ``w ~ U(−limit, limit)``, ``limit² = 6 / (fan_in + fan_out)``. Glorot, Bengio: Understanding the
  difficulty of training deep feedforward neural networks, 2010, eq. 16.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minicnn.network.activations import LeakyReLU
from minicnn.network.layers import Conv2d, Dense, Layer, Shape

if TYPE_CHECKING:
    from minicnn.network.network import Network


def activation_after(network: "Network", index: int) -> Layer | None:
    """The activation that layer ``index`` feeds first, past pooling, normalization and joins; None
    if there is none."""
    fed = {index + 1}
    for number in range(index + 1, len(network.layers)):
        layer = network.layers[number]
        if fed.intersection(network.reads[number]):
            if layer.rectifies is not None:
                return layer
            if not isinstance(layer, Conv2d | Dense):
                fed.add(number + 1)
    return None


def initial_weight(
    shape: Shape, activation: Layer | None, rng: np.random.Generator
) -> NDArray[Any]:
    """First values, float64, of a weight of ``shape`` (R, S, C, K) or (in, out) that feeds
    ``activation``.

    They are drawn in float64 for every dtype, so that float32 and float64 networks of one seed
    start alike.
    """
    *receptive_field, inputs, outputs = shape
    fan_in, fan_out = inputs * math.prod(receptive_field), outputs * math.prod(receptive_field)
    if activation is not None and activation.rectifies:
        negative_slope = activation.negative_slope if isinstance(activation, LeakyReLU) else 0.0
        return rng.normal(0.0, math.sqrt(2 / ((1 + negative_slope**2) * fan_in)), shape)
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)
