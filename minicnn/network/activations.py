"""The activations: layers that are one function of one element (and, for two of them, of its
channel or its row)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from minicnn.activations import RULES, piecewise, smooth
from minicnn.errors import NetworkError, SettingError
from minicnn.network import checks
from minicnn.network.layer import Layer, Shape
from minicnn.rules import ActivationRule

__all__ = [
    "ELU",
    "GELU",
    "HardSigmoid",
    "HardSwish",
    "LeakyReLU",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class _Activation(Layer):
    """Base of the activations that a rule computes. A class says which rule, and has its
    hyperparameters as fields."""

    rule: ClassVar[ActivationRule]

    def __init_subclass__(cls, **admitted: Callable[[str, str, Any], Any]) -> None:
        if vars(cls).get("rule") in RULES.values():
            cls.operation = cls.rule.name
        super().__init_subclass__(**admitted)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = type(self).__name__
        for hyper in self.rule.hyperparameters:
            value = checks.number(own, hyper.name, getattr(self, hyper.name))
            vars(self)[hyper.name] = hyper.check(own, value)

    @property
    def rectifies(self) -> bool:  # type: ignore[override]
        """Whether the weights before it begin as before a ReLU."""
        return self.rule.rectifies

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        values = (getattr(self, hyper.name) for hyper in self.rule.hyperparameters)
        return dict(zip(("f0", "f1"), values, strict=False))


class ReLU(_Activation):
    """``max(x, 0)``. Nair, Hinton: Rectified linear units improve restricted Boltzmann machines,
    2010."""

    rule = piecewise.RELU


class ReLU6(_Activation):
    """``min(max(x, 0), 6)``. Krizhevsky: Convolutional deep belief networks on CIFAR-10, 2010."""

    rule = piecewise.RELU6


@dataclass(frozen=True)
class LeakyReLU(_Activation):
    """``x`` above zero, ``negative_slope · x`` below. Maas, Hannun, Ng: Rectifier nonlinearities,
    2013."""

    rule = piecewise.LEAKY_RELU
    negative_slope: float = 0.01


class PReLU(Layer):
    """``x`` above zero, ``w[c] · x`` below, with one weight per channel that is trained, 0.25 at
    first: weight (C,).

    He, Zhang, Ren, Sun: Delving deep into rectifiers, 2015.
    """

    operation = "prelu"
    rectifies = True
    kinds: ClassVar[Mapping[str, str]] = {"weight": "scale"}

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        return {"weight": input_shapes[0][-1:]}


@dataclass(frozen=True)
class ELU(_Activation):
    """``x`` above zero, ``alpha · (exp(x) − 1)`` below. Clevert, Unterthiner, Hochreiter: ELU,
    2016."""

    rule = smooth.ELU
    alpha: float = 1.0


class Sigmoid(_Activation):
    """``1 / (1 + exp(−x))``. Rumelhart, Hinton, Williams: Learning representations by
    back-propagating errors, 1986."""

    rule = smooth.SIGMOID


class HardSigmoid(_Activation):
    """``min(max(x / 6 + 1/2, 0), 1)``. Howard et al.: Searching for MobileNetV3, 2019."""

    rule = piecewise.HARD_SIGMOID


class Tanh(_Activation):
    """``tanh(x)``, the hyperbolic tangent. LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998."""

    rule = smooth.TANH


class SiLU(_Activation):
    """``x / (1 + exp(−x))``. Elfwing, Uchibe, Doya: Sigmoid-weighted linear units, 2018."""

    rule = smooth.SILU


class HardSwish(_Activation):
    """``x · min(max(x / 6 + 1/2, 0), 1)``. Howard et al.: Searching for MobileNetV3, 2019."""

    rule = piecewise.HARD_SWISH


class Mish(_Activation):
    """``x · tanh(log(1 + exp(x)))``. Misra: Mish: a self regularized non-monotonic activation
    function, 2020."""

    rule = smooth.MISH


class Softplus(_Activation):
    """``log(1 + exp(x))``. Dugas et al.: Incorporating second-order functional knowledge, 2001."""

    rule = smooth.SOFTPLUS


@dataclass(frozen=True)
class GELU(_Activation):
    """``x · Φ(x) = x / 2 · (1 + erf(x / √2))``; with ``approximate="tanh"`` Φ(x) ≈ (1 + tanh(√(2/π)
    (x + 0.044715 x³))) / 2.

    Hendrycks, Gimpel: Gaussian error linear units, 2016.
    """

    approximate: Literal["none", "tanh"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.approximate not in ("none", "tanh"):
            raise SettingError(
                f'GELU: approximate must be "none" or "tanh", not {self.approximate!r}'
            )

    @property
    def rule(self) -> ActivationRule:  # type: ignore[override]
        """That of the form that was asked for."""
        return smooth.GELU_TANH if self.approximate == "tanh" else smooth.GELU

    @property
    def operation(self) -> str:  # type: ignore[override]
        """That of its rule."""
        return self.rule.name


class Softmax(Layer):
    """``exp(x_k) / Σ_j exp(x_j)``, as the last layer of networks made elsewhere: a loss has a
    softmax of its own.

    A network that ends with it gives probabilities where others give logits. Bridle: Probabilistic
    interpretation of feedforward classification network outputs, 1990.
    """

    operation = "softmax"

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if len(input_shapes[0]) != 1:
            raise NetworkError(
                f"{self} needs one row of logits, but its input is {input_shapes[0]}; put Flatten before it"
            )
        return input_shapes[0]
