"""The activations: layers that are one function of one element (and, for two of them, of its
channel or its row)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from minicnn.errors import NetworkError, SettingError
from minicnn.network import checks
from minicnn.network.layers import Layer, Shape


class _Activation(Layer):
    """Base of the activations."""

    rectifies = False


class ReLU(_Activation):
    """``max(x, 0)``. Nair, Hinton: Rectified linear units improve restricted Boltzmann machines,
    2010."""

    rectifies = True


class ReLU6(_Activation):
    """``min(max(x, 0), 6)``. Krizhevsky: Convolutional deep belief networks on CIFAR-10, 2010."""

    rectifies = True


@dataclass(frozen=True)
class LeakyReLU(_Activation):
    """``x`` above zero, ``negative_slope · x`` below. Maas, Hannun, Ng: Rectifier nonlinearities,
    2013."""

    negative_slope: float = 0.01
    rectifies = True

    def __post_init__(self) -> None:
        super().__post_init__()
        value = checks.number("LeakyReLU", "negative_slope", self.negative_slope)
        if value < 0:  # the backward pass knows the side of x by the sign of y
            raise SettingError(
                f"LeakyReLU: negative_slope must be a number from 0 on, not {value:g}"
            )
        vars(self).update(negative_slope=value)

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {"f0": self.negative_slope}


class PReLU(_Activation):
    """``x`` above zero, ``w[c] · x`` below, with one weight a channel that is trained, 0.25 at
    first: weight (C,).

    He, Zhang, Ren, Sun: Delving deep into rectifiers, 2015.
    """

    rectifies = True
    kinds: ClassVar[Mapping[str, str]] = {"weight": "scale"}

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        return {"weight": input_shapes[0][-1:]}


@dataclass(frozen=True)
class ELU(_Activation):
    """``x`` above zero, ``alpha · (exp(x) − 1)`` below. Clevert, Unterthiner, Hochreiter: ELU,
    2016."""

    alpha: float = 1.0
    rectifies = True

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha = checks.number("ELU", "alpha", self.alpha)
        if alpha < 0:  # the backward pass knows the side of x by the sign of y
            raise SettingError(f"ELU: alpha must be a number from 0 on, not {alpha:g}")
        vars(self).update(alpha=alpha)

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        return {"f0": self.alpha}


class Sigmoid(_Activation):
    """``1 / (1 + exp(−x))``."""


class HardSigmoid(_Activation):
    """``min(max(x / 6 + 1/2, 0), 1)``. Howard et al.: Searching for MobileNetV3, 2019."""


class Tanh(_Activation):
    """The hyperbolic tangent."""


class SiLU(_Activation):
    """``x / (1 + exp(−x))``. Elfwing, Uchibe, Doya: Sigmoid-weighted linear units, 2018."""

    rectifies = True


class HardSwish(_Activation):
    """``x · min(max(x / 6 + 1/2, 0), 1)``. Howard et al.: Searching for MobileNetV3, 2019."""

    rectifies = True


class Mish(_Activation):
    """``x · tanh(log(1 + exp(x)))``. Misra: Mish: a self regularized non-monotonic activation
    function, 2020."""

    rectifies = True


class Softplus(_Activation):
    """``log(1 + exp(x))``. Dugas et al.: Incorporating second-order functional knowledge, 2001."""

    rectifies = True


@dataclass(frozen=True)
class GELU(_Activation):
    """``x · Φ(x) = x / 2 · (1 + erf(x / √2))``; with ``approximate="tanh"`` Φ(x) ≈ (1 + tanh(√(2/π)
    (x + 0.044715 x³))) / 2.

    Hendrycks, Gimpel: Gaussian error linear units, 2016.
    """

    approximate: Literal["none", "tanh"] = "none"
    rectifies = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.approximate not in ("none", "tanh"):
            raise SettingError(
                f'GELU: approximate must be "none" or "tanh", not {self.approximate!r}'
            )


class Softmax(Layer):
    """``exp(x_k) / Σ_j exp(x_j)``, as the last layer of networks made elsewhere: a loss has a
    softmax of its own.

    A network that ends with it gives probabilities where others give logits.
    """

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if len(input_shapes[0]) != 1:
            raise NetworkError(
                f"{self} needs one row of logits, but its input is {input_shapes[0]}; put Flatten before it"
            )
        return input_shapes[0]
