"""Piecewise linear activations, and hard swish, which has a parabola between its lines. They choose
between values instead of branching, so that LLVM can vectorize them. All of them propagate NaN.
"""

from minicnn.rules import ActivationRule, Hyperparameter


def relu(x):
    """max(0, x)."""
    return 0.0 if x < 0.0 else x


def relu_derivative(y):
    """dy/dx = 1 above 0, else 0."""
    return 1.0 if y > 0.0 else 0.0


def leaky_relu(x, negative_slope):
    """x above 0, negative_slope · x below."""
    return x * negative_slope if x < 0.0 else x


def leaky_relu_derivative(y, negative_slope):
    """dy/dx = 1 above 0, negative_slope below."""
    return 1.0 if y > 0.0 else negative_slope


def relu6(x):
    """min(max(0, x), 6)."""
    positive = 0.0 if x < 0.0 else x
    return 6.0 if positive > 6.0 else positive


def relu6_derivative(y):
    """dy/dx = 1 between 0 and 6, else 0."""
    positive = 1.0 if y > 0.0 else 0.0
    return positive if y < 6.0 else 0.0


def hard_sigmoid(x):
    """min(max(0, x + 3), 6) / 6."""
    return relu6(x + 3.0) * (1.0 / 6.0)


def hard_sigmoid_derivative(y):
    """dy/dx = 1/6 between y = 0 and 1, else 0."""
    positive = 1.0 / 6.0 if y > 0.0 else 0.0
    return positive if y < 1.0 else 0.0


def hard_swish(x):
    """x · hard_sigmoid(x)."""
    return x * (relu6(x + 3.0) * (1.0 / 6.0))


def hard_swish_derivative(x):
    """dy/dx = 0 below −3, x/3 + 1/2 up to 3, then 1."""
    below = 0.0 if x <= -3.0 else x * (1.0 / 3.0) + 0.5
    return 1.0 if x >= 3.0 else below


RELU = ActivationRule(
    name="relu",
    value=relu,
    derivative=relu_derivative,
    reads="y",
    kinks=(0.0,),
    rectifies=True,
    equation="y = max(0, x)",
    source="Nair, Hinton: Rectified linear units improve restricted Boltzmann machines, ICML 2010",
)
LEAKY_RELU = ActivationRule(
    name="leaky_relu",
    value=leaky_relu,
    derivative=leaky_relu_derivative,
    reads="y",
    hyperparameters=(Hyperparameter("negative_slope", 0.01, 0.0, meaning="dy/dx below zero"),),
    kinks=(0.0,),
    rectifies=True,
    equation="y = x above 0, negative_slope · x below",
    source="Maas, Hannun, Ng: Rectifier nonlinearities improve neural network acoustic models, ICML 2013",
)
RELU6 = ActivationRule(
    name="relu6",
    value=relu6,
    derivative=relu6_derivative,
    reads="y",
    kinks=(0.0, 6.0),
    rectifies=True,
    equation="y = min(max(0, x), 6)",
    source="Krizhevsky: Convolutional deep belief networks on CIFAR-10, 2010",
)
HARD_SIGMOID = ActivationRule(
    name="hard_sigmoid",
    value=hard_sigmoid,
    derivative=hard_sigmoid_derivative,
    reads="y",
    kinks=(-3.0, 3.0),
    equation="y = min(max(0, x + 3), 6) / 6",
    source="Howard et al.: Searching for MobileNetV3, ICCV 2019",
)
HARD_SWISH = ActivationRule(
    name="hard_swish",
    value=hard_swish,
    derivative=hard_swish_derivative,
    kinks=(-3.0, 3.0),
    rectifies=True,
    equation="y = x · min(max(0, x + 3), 6) / 6",
    source="Howard et al.: Searching for MobileNetV3, ICCV 2019",
)
