"""The built-in activations, found through entry points like those of third-party plugins. Each is
the value and the derivative of one element."""

from minicnn.activations import piecewise, smooth
from minicnn.hookspecs import hookimpl
from minicnn.rules import ActivationRule

RULES = {
    rule.name: rule
    for module in (piecewise, smooth)
    for rule in vars(module).values()
    if isinstance(rule, ActivationRule)
}


@hookimpl
def minicnn_layers() -> list[ActivationRule]:
    """The built-in activations."""
    return list(RULES.values())
