"""The built-in activations: rules like anybody's, each a value and its derivative of one
element."""

from minicnn.activations.piecewise import HARD_SIGMOID, HARD_SWISH, LEAKY_RELU, RELU, RELU6
from minicnn.activations.smooth import ELU, GELU, GELU_TANH, MISH, SIGMOID, SILU, SOFTPLUS, TANH
from minicnn.hookspecs import hookimpl
from minicnn.rules import ActivationRule

_RULES = (
    RELU,
    LEAKY_RELU,
    RELU6,
    HARD_SIGMOID,
    HARD_SWISH,
    SIGMOID,
    TANH,
    SILU,
    GELU,
    GELU_TANH,
    ELU,
    SOFTPLUS,
    MISH,
)
RULES = {rule.name: rule for rule in _RULES}


@hookimpl
def minicnn_layers() -> list[ActivationRule]:
    return list(RULES.values())
