"""Networks of the benchmarks as models of Keras, in minicnn's own layouts: NHWC, filters HWIO, dense
weights [in, out]."""

import keras
import numpy as np
from keras import layers as k

from minicnn import Network
from minicnn.network import activations as a
from minicnn.network import layers as of
from minicnn.network import normalization as norm
from minicnn.network.layers import Layer, Shape

_ACTIVATIONS = {
    a.ReLU: "relu",
    a.ReLU6: "relu6",
    a.Sigmoid: "sigmoid",
    a.Tanh: "tanh",
    a.SiLU: "silu",
    a.HardSwish: "hard_swish",
    a.Mish: "mish",
    a.Softplus: "softplus",
}


def _convolution(layer: of.Conv2d, shape: Shape) -> k.Layer:
    channels, (top, bottom, left, right) = shape[2], layer.resolved_padding(shape)
    padding = "same" if layer.padding == "same" else "valid"
    said = {"strides": layer.stride, "dilation_rate": layer.dilation, "use_bias": layer.bias}
    if layer.groups == 1:
        made = k.Conv2D(layer.filters, layer.kernel_size, padding=padding, **said)
    elif layer.groups == channels:
        multiplier = layer.filters // channels
        made = k.DepthwiseConv2D(
            layer.kernel_size, padding=padding, depth_multiplier=multiplier, **said
        )
    else:
        raise TypeError(f"{layer}: TensorFlow has no gradient of groups on the CPU")
    if padding == "same" or not any((top, bottom, left, right)):
        return made
    return keras.Sequential([k.ZeroPadding2D(((top, bottom), (left, right))), made])


def _pooling(layer: of.MaxPool2d | of.AvgPool2d) -> k.Layer:
    kind = k.MaxPooling2D if isinstance(layer, of.MaxPool2d) else k.AveragePooling2D
    if layer.padding not in (0, (0, 0), "valid") or layer.ceil_mode:
        raise TypeError(f"{layer} has no counterpart here")
    return kind(layer.kernel_size, layer.stride)


def _layer(layer: Layer, shape: Shape) -> k.Layer:
    """The layer for an input of ``shape``, that of one sample."""
    match layer:
        case of.Conv2d():
            return _convolution(layer, shape)
        case of.MaxPool2d() | of.AvgPool2d():
            return _pooling(layer)
        case of.Dense():
            return k.Dense(layer.units, use_bias=layer.bias)
        case of.Flatten():
            return k.Flatten()
        case of.GlobalAvgPool2d():
            return k.GlobalAveragePooling2D()
        case of.GlobalMaxPool2d():
            return k.GlobalMaxPooling2D()
        case of.Add():
            return k.Add()
        case of.Concat():
            return k.Concatenate()
        case norm.BatchNorm2d():
            return k.BatchNormalization(momentum=1 - layer.momentum, epsilon=layer.eps)
        case a.GELU():
            tanh = layer.approximate == "tanh"
            return k.Activation(lambda x: keras.activations.gelu(x, approximate=tanh))
    if type(layer) in _ACTIVATIONS:
        return k.Activation(_ACTIVATIONS[type(layer)])
    raise TypeError(f"{layer} has no counterpart here")


def to_keras(network: Network, params: np.ndarray) -> keras.Model:
    """The same network with the same weights, from [N, H, W, C] to logits; raises TypeError for a
    layer that has no counterpart."""
    values, tensors = [keras.Input(network.input_shape)], network.unflatten(params)
    for name, layer, reads in zip(network.layer_names, network.layers, network.reads, strict=True):
        made, inputs = _layer(layer, network.shapes[reads[0]]), [values[number] for number in reads]
        values.append(made(inputs if len(inputs) > 1 else inputs[0]))
        kinds = ("weight", "bias", "running_mean", "running_var")
        own = [tensors[f"{name}.{kind}"] for kind in kinds if f"{name}.{kind}" in tensors]
        if own:
            shapes = [weight.shape for weight in made.get_weights()]  # of a depthwise: [R, S, C, 1]
            made.set_weights([one.reshape(to) for one, to in zip(own, shapes, strict=True)])
    return keras.Model(values[0], values[-1])
