"""The normalizations: layers that give each channel, or sample, one mean and deviation, and a scale
and a shift to learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from minicnn.errors import NetworkError
from minicnn.network import checks
from minicnn.network.layer import Layer, Shape

__all__ = ["BatchNorm2d", "GroupNorm", "LayerNorm"]


class _Normalization(Layer, eps=partial(checks.number, minimum=0)):
    """Base of the normalizations: ``y = γ · (x − μ) / √(σ² + eps) + β``; γ is called weight and
    begins at 1, β bias, at 0."""

    eps: float
    kinds: ClassVar[Mapping[str, str]] = {"weight": "scale", "bias": "shift"}

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        return {"weight": input_shapes[0][-1:], "bias": input_shapes[0][-1:]}

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {"f0": self.eps}


@dataclass(frozen=True)
class BatchNorm2d(_Normalization, momentum=partial(checks.number, minimum=0, below=1, closed=True)):
    """Batch normalization of each channel, of an image or of a row of features: weight, bias (C,).

    ``y[h,w,c] = γ[c] · (x[h,w,c] − μ[c]) / √(σ²[c] + eps) + β[c]``

    μ and σ² are mean and (biased) variance over the whole batch and all pixels in training;
    otherwise the running ones, which are kept with the weights: running ← (1 − momentum) · running
    + momentum · batch, the variance unbiased. PyTorch's convention. Ioffe, Szegedy: Batch
    normalization, 2015.
    """

    operation = "batch_norm"

    eps: float = 1e-5
    momentum: float = 0.1

    def state_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        return {"running_mean": input_shapes[0][-1:], "running_var": input_shapes[0][-1:]}

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {"f0": self.eps, "f1": self.momentum}


@dataclass(frozen=True)
class GroupNorm(_Normalization, groups=checks.integer):
    """Normalization of each sample over all pixels and the channels of each of ``groups`` groups:
    weight, bias (C,).

    ``y[h,w,c] = γ[c] · (x[h,w,c] − μ) / √(σ² + eps) + β[c]``, μ and σ² of the group of c

    Wu, He: Group normalization, 2018.
    """

    operation = "group_norm"

    groups: int
    eps: float = 1e-5

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if input_shapes[0][-1] % self.groups:
            raise NetworkError(f"{self}: groups must divide its {input_shapes[0][-1]} channels")
        return input_shapes[0]

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {"f0": self.eps, "groups": self.groups}


@dataclass(frozen=True)
class LayerNorm(_Normalization):
    """Normalization of each sample over all of its numbers: weight and bias have the sample's
    shape.

    ``y[h,w,c] = γ[h,w,c] · (x[h,w,c] − μ) / √(σ² + eps) + β[h,w,c]``

    Ba, Kiros, Hinton: Layer normalization, 2016.
    """

    operation = "layer_norm"

    eps: float = 1e-5

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        return {"weight": input_shapes[0], "bias": input_shapes[0]}
