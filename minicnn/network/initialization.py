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

`METHODS` are for layers that ask for another.
"""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from minicnn.errors import NetworkError, UnknownNameError
from minicnn.network import checks
from minicnn.network.activations import LeakyReLU
from minicnn.network.layer import Layer, Shape
from minicnn.network.layers import Conv2d, Dense

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


def dirac(layer: Conv2d, weight: NDArray[Any], images: NDArray[Any] | None) -> None:
    """Let the first filters of each group, as many as it has input channels, give one channel each
    as it is; the others keep their values.

    ``w[r, s, c, k] = 1 if k = c and (r, s) is the middle, else 0``. Zagoruyko, Komodakis:
    DiracNets, 2017; of some filters alone as in Jordan's airbench94.
    """
    channels, filters = weight.shape[2], weight.shape[3] // layer.groups
    for channel in range(min(channels, filters)):
        same = weight[..., channel::filters]
        same[:] = 0.0
        same[weight.shape[0] // 2, weight.shape[1] // 2, channel] = 1.0


def whitening(layer: Conv2d, weight: NDArray[Any], images: NDArray[Any] | None) -> None:
    """Make the outputs on ``images`` uncorrelated and of variance one: the filters are the
    eigenvectors v of the images' patches p [R·S·C], those of the greatest eigenvalues λ first, and
    after them their opposites. Filters beyond the 2·R·S·C that this gives keep their values.

    ``E[p pᵀ] v = λ v,  w = ± v / √(λ + ε),  ε = 5·10⁻⁴``. Page: How to train your ResNet, part 8,
    2019; with the opposites Jordan: 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024, §3.2.
    Raises `NetworkError` without images.
    """
    if images is None or len(images) == 0:
        raise NetworkError("initialization: whitening is by training images, which are missing")
    height, width, channels, filters = weight.shape
    rows, columns = checks.pair("Conv2d", "dilation", layer.dilation)
    size = height * width * channels
    second_moment, count = np.zeros((size, size)), 0
    for i in range(0, len(images), 256):
        views = sliding_window_view(images[i : i + 256].astype(np.float64), layer.extent, (1, 2))
        patches = views[..., ::rows, ::columns].transpose(0, 1, 2, 4, 5, 3).reshape(-1, size)
        second_moment += patches.T @ patches
        count += len(patches)
    values, vectors = np.linalg.eigh(second_moment / count)
    half = min(filters // 2, size)
    vectors = (vectors / np.sqrt(values.clip(0) + 5e-4))[:, ::-1][:, :half]
    weight[..., :half] = vectors.reshape(height, width, channels, half)
    weight[..., half : 2 * half] = -weight[..., :half]


def zeros(layer: Layer, weight: NDArray[Any], images: NDArray[Any] | None) -> None:
    """Let an output layer begin with the same logits for all."""
    weight[:] = 0.0


# To add one: a function of a layer, its weight [R, S, C/G, K] or [in, out], which it changes, and
# training images [N, H, W, C] as the network reads them.
METHODS: dict[str, Callable[[Any, NDArray[Any], NDArray[Any] | None], None]] = {
    "dirac": dirac,
    "whitening": whitening,
    "zeros": zeros,
}


def methods_of(network: "Network", wanted: Mapping[str, str]) -> dict[int, str]:
    """The method of each convolution and dense layer that a pattern in ``wanted``, such as
    ``{"conv1": "whitening", "conv*": "dirac"}``, names (`fnmatch`; of several the first).

    Raises `UnknownNameError` for a pattern that names none of them and for an unknown method, and
    `NetworkError` for a method but zeros of a dense layer, and for whitening by a convolution that
    does not read the images, or is in groups, or larger than they are.
    """
    layers = {
        number: layer
        for number, layer in enumerate(network.layers)
        if isinstance(layer, Conv2d | Dense)
    }
    names = {network.layer_names[number]: number for number in layers}
    methods: dict[int, str] = {}
    for pattern, method in wanted.items():
        if str(method) not in METHODS:
            raise UnknownNameError("initialization", str(method), METHODS)
        found = [number for name, number in names.items() if fnmatchcase(name, pattern)]
        if not found:
            raise UnknownNameError("layer to initialize", pattern, names)
        methods |= {number: method for number in found if number not in methods}
    for number, method in methods.items():
        layer, name = layers[number], network.layer_names[number]
        if method != "zeros" and not isinstance(layer, Conv2d):
            raise NetworkError(f"initialization: {method} is for convolutions, and {name} is none")
        reads_images = network.reads[number] == (0,)
        if method == "whitening" and not (reads_images and _whitens(layer, network.input_shape)):
            raise NetworkError(
                f"initialization: {name} cannot whiten: that takes a convolution of the images, without "
                "groups and no larger than they are"
            )
    return methods


def _whitens(layer: Any, shape: Shape) -> bool:
    (high, wide), (height, width) = layer.extent, shape[:2]
    return layer.groups == 1 and high <= height and wide <= width
