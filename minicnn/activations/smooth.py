"""Activations made of exponentials, written so that a large |x| gives no NaN: no ∞ / ∞, ∞ − ∞ or 0
· ∞.

σ is the logistic function, Φ and φ are the normal distribution and its density.
"""

import math

from minicnn.rules import ActivationRule, Hyperparameter

_ROOT_HALF = math.sqrt(0.5)
_DENSITY_AT_ZERO = 1.0 / math.sqrt(2.0 * math.pi)
_ROOT_TWO_BY_PI = math.sqrt(2.0 / math.pi)


def sigmoid(x):
    """σ(x) = 1 / (1 + exp(−x))."""
    return 1.0 / (1.0 + math.exp(-x))


def sigmoid_derivative(y):
    """dy/dx = y · (1 − y)."""
    return y * (1.0 - y)


def tanh(x):
    """tanh(x)."""
    return math.tanh(x)


def tanh_derivative(y):
    """dy/dx = 1 − y²."""
    return 1.0 - y * y


def silu(x):
    """x · σ(x)."""
    return x / (1.0 + math.exp(-x))


def silu_derivative(x):
    """dy/dx = σ(x) · (1 + x · (1 − σ(x)))."""
    s = sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def gelu(x):
    """x · Φ(x)."""
    return 0.5 * x * (1.0 + math.erf(x * _ROOT_HALF))


def gelu_derivative(x):
    """dy/dx = Φ(x) + x · φ(x)."""
    return 0.5 * (1.0 + math.erf(x * _ROOT_HALF)) + x * _DENSITY_AT_ZERO * math.exp(-0.5 * x * x)


def gelu_tanh(x):
    """x · (1 + tanh(u)) / 2 with u = √(2/π) · (x + 0.044715 x³)."""
    return 0.5 * x * (1.0 + math.tanh(_ROOT_TWO_BY_PI * (x + 0.044715 * x * x * x)))


def gelu_tanh_derivative(x):
    """dy/dx = (1 + tanh(u)) / 2 + x/2 · (1 − tanh²(u)) · du/dx."""
    if x > 12.0:  # beyond, it is 1 or 0 in float64, and x³ may be ∞
        return 1.0
    if x < -12.0:
        return 0.0
    t = math.tanh(_ROOT_TWO_BY_PI * (x + 0.044715 * x * x * x))
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * _ROOT_TWO_BY_PI * (1.0 + 0.134145 * x * x)


def elu(x, alpha):
    """x above 0, alpha · (exp(x) − 1) below."""
    return alpha * math.expm1(x) if x < 0.0 else x


def elu_derivative(y, alpha):
    """dy/dx = 1 above 0, y + alpha below."""
    return 1.0 if y > 0.0 else y + alpha


def softplus(x):
    """log(1 + exp(x)), with the exponential that is at most 1."""
    return math.log1p(math.exp(-x)) + x if x > 0.0 else math.log1p(math.exp(x))


def softplus_derivative(y):
    """dy/dx = σ(x) = 1 − exp(−y)."""
    return -math.expm1(-y)


def tanh_softplus(x):
    """tanh(log(1 + eˣ)) = ((1 + eˣ)² − 1) / ((1 + eˣ)² + 1), with the exponential that is at most
    1."""
    if x > 0.0:
        e = math.exp(-x)
        return (1.0 + 2.0 * e) / (1.0 + 2.0 * e + 2.0 * e * e)
    e = math.exp(x)
    return e * (e + 2.0) / (e * (e + 2.0) + 2.0)


def mish(x):
    """x · tanh(softplus(x))."""
    return x * tanh_softplus(x)


def mish_derivative(x):
    """dy/dx = t + x · (1 − t²) · σ(x) with t = tanh(softplus(x))."""
    t = tanh_softplus(x)
    return t + x * (1.0 - t * t) * sigmoid(x)


SIGMOID = ActivationRule(
    name="sigmoid",
    value=sigmoid,
    derivative=sigmoid_derivative,
    reads="y",
    equation="y = σ(x) = 1 / (1 + exp(−x))",
    source="Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, Nature 1986",
)
TANH = ActivationRule(
    name="tanh",
    value=tanh,
    derivative=tanh_derivative,
    reads="y",
    equation="y = tanh(x)",
    source="LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998",
)
SILU = ActivationRule(
    name="silu",
    value=silu,
    derivative=silu_derivative,
    rectifies=True,
    equation="y = x · σ(x)",
    source="Elfwing, Uchibe, Doya: Sigmoid-weighted linear units, Neural Networks 2018",
)
GELU = ActivationRule(
    name="gelu",
    value=gelu,
    derivative=gelu_derivative,
    rectifies=True,
    equation="y = x · Φ(x) = x / 2 · (1 + erf(x / √2))",
    source="Hendrycks, Gimpel: Gaussian error linear units, 2016",
)
GELU_TANH = ActivationRule(
    name="gelu_tanh",
    value=gelu_tanh,
    derivative=gelu_tanh_derivative,
    rectifies=True,
    equation="y = x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))",
    source="Hendrycks, Gimpel: Gaussian error linear units, 2016",
)
ELU = ActivationRule(
    name="elu",
    value=elu,
    derivative=elu_derivative,
    reads="y",
    hyperparameters=(Hyperparameter("alpha", 1.0, 0.0, meaning="−y for x = −∞"),),
    kinks=(0.0,),
    rectifies=True,
    equation="y = x above 0, alpha · (exp(x) − 1) below",
    source="Clevert, Unterthiner, Hochreiter: Fast and accurate deep network learning by exponential linear units, 2016",
)
SOFTPLUS = ActivationRule(
    name="softplus",
    value=softplus,
    derivative=softplus_derivative,
    reads="y",
    rectifies=True,
    equation="y = log(1 + exp(x))",
    source="Dugas et al.: Incorporating second-order functional knowledge for better option pricing, NIPS 2000",
)
MISH = ActivationRule(
    name="mish",
    value=mish,
    derivative=mish_derivative,
    rectifies=True,
    equation="y = x · tanh(log(1 + exp(x)))",
    source="Misra: Mish, a self regularized non-monotonic activation function, BMVC 2020",
)
