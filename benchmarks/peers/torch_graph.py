"""Any network of minicnn's as a module of PyTorch, for NCHW images: a Sequential, or a graph where
layers have branches."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from minicnn import Network
from minicnn.network import activations as a
from minicnn.network import layers as of
from minicnn.network import normalization as norm
from minicnn.network.layers import Layer, Shape
from peers.layout import channels_first, flattens_channels_first

ACTIVATIONS = {
    a.ReLU: nn.ReLU,
    a.ReLU6: nn.ReLU6,
    a.Sigmoid: nn.Sigmoid,
    a.HardSigmoid: nn.Hardsigmoid,
    a.Tanh: nn.Tanh,
    a.SiLU: nn.SiLU,
    a.HardSwish: nn.Hardswish,
    a.Mish: nn.Mish,
    a.Softplus: nn.Softplus,
}


class _Function(nn.Module):
    """A function of values as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.function(*values)


def _added(*values: torch.Tensor) -> torch.Tensor:
    return sum(values[1:], values[0])


def _joined(*values: torch.Tensor) -> torch.Tensor:
    return torch.cat(values, dim=1)


def _multiplied(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return x * (gate if gate.ndim == x.ndim else gate[:, :, None, None])


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Flattened in minicnn's order (H, W, C)."""
    return x.movedim(1, -1).flatten(1)


def _largest(x: torch.Tensor) -> torch.Tensor:
    return functional.adaptive_max_pool2d(x, 1).flatten(1)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return functional.adaptive_avg_pool2d(x, 1).flatten(1)


def _convolution(layer: of.Conv2d, shape: Shape) -> nn.Module:
    top, bottom, left, right = layer.resolved_padding(shape)
    even = (top, left) == (bottom, right)
    module = nn.Conv2d(
        shape[2],
        layer.filters,
        layer.kernel_size,
        layer.stride,
        (top, left) if even else 0,
        layer.dilation,
        layer.groups,
        layer.bias,
    )
    if not even:
        module.register_forward_pre_hook(
            lambda _, xs: (functional.pad(xs[0], (left, right, top, bottom)),)
        )
    return module


def _pooling(layer: of.MaxPool2d | of.AvgPool2d, shape: Shape) -> nn.Module:
    top, bottom, left, right = layer.resolved_padding(shape)
    if (
        (top, left) != (bottom, right)
        or top > layer.kernel_size[0] // 2
        or left > layer.kernel_size[1] // 2
    ):
        raise TypeError(f"{layer} pads as PyTorch does not, and has no counterpart here")
    geometry = layer.kernel_size, layer.stride, (top, left)
    if isinstance(layer, of.MaxPool2d):
        return nn.MaxPool2d(*geometry, layer.dilation, ceil_mode=layer.ceil_mode)
    return nn.AvgPool2d(*geometry, layer.ceil_mode, layer.count_include_pad)


def _module(layer: Layer, shape: Shape, flat: nn.Module) -> nn.Module:
    """The layer for an input of ``shape``, that of one sample; its tensors are not filled in."""
    channels = shape[-1]
    match layer:
        case of.Conv2d():
            return _convolution(layer, shape)
        case of.MaxPool2d() | of.AvgPool2d():
            return _pooling(layer, shape)
        case of.Dense():
            return nn.Linear(channels, layer.units, layer.bias)
        case of.Flatten():
            return flat
        case of.GlobalAvgPool2d():
            return _Function(_mean)
        case of.GlobalMaxPool2d():
            return _Function(_largest)
        case of.Add():
            return _Function(_added)
        case of.Concat():
            return _Function(_joined)
        case of.Multiply():
            return _Function(_multiplied)
        case norm.BatchNorm2d():
            kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
            return kind(channels, layer.eps, layer.momentum)
        case norm.GroupNorm():
            return nn.GroupNorm(layer.groups, channels, layer.eps)
        case norm.LayerNorm():
            return nn.LayerNorm((channels, *shape[:-1]), layer.eps)
        case a.LeakyReLU():
            return nn.LeakyReLU(layer.negative_slope)
        case a.ELU():
            return nn.ELU(layer.alpha)
        case a.GELU():
            return nn.GELU(layer.approximate)
        case a.PReLU():
            return nn.PReLU(channels)
        case a.Softmax():
            return nn.Softmax(dim=1)
    if type(layer) in ACTIVATIONS:
        return ACTIVATIONS[type(layer)]()
    raise TypeError(
        f"{layer} has no counterpart here"
    )  # dropout's random numbers are PyTorch's own


class Graph(nn.Module):
    """Modules that read the values which ``reads`` names: 0 is the image, i + 1 the output of
    module i."""

    def __init__(self, modules: list[nn.Module], reads: tuple[tuple[int, ...], ...]):
        super().__init__()
        self.layers, self.reads = nn.ModuleList(modules), reads
        last = {value: number for number, values in enumerate(reads) for value in values}
        self.done = [
            [value for value in set(values) if last[value] == number]
            for number, values in enumerate(reads)
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {0: x}
        for number, (module, reads, done) in enumerate(
            zip(self.layers, self.reads, self.done, strict=True)
        ):
            values[number + 1] = module(*(values[value] for value in reads))
            for value in done:  # nobody reads it any more
                del values[value]
        return values[len(self.layers)]


def to_torch(network: Network, params: np.ndarray) -> nn.Module:
    """The same network with the same weights, for NCHW images, in the dtype of ``params``; raises
    TypeError for a layer that has no counterpart."""
    flat, modules = nn.Flatten() if flattens_channels_first(network) else _Function(_rows), []
    for reads, (layer, tensors) in zip(network.reads, channels_first(network, params), strict=True):
        module = _module(layer, network.shapes[reads[0]], flat)
        module.to(torch.from_numpy(params[:0]).dtype)
        for name, tensor in tensors.items():
            with torch.no_grad():
                getattr(module, name).copy_(torch.from_numpy(tensor))
        modules.append(module)
    chain = network.reads == tuple((number,) for number in range(len(modules)))
    return nn.Sequential(*modules) if chain else Graph(modules, network.reads)
