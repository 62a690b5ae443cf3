"""A whole network by the oracle: forward through a graph of layers, and back. Layers are plain
tuples here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.reference import layers as oracle

JOINS = {"add", "concat", "multiply"}  # take a list of inputs


class Step(NamedTuple):
    """A layer: the oracle's name for it, the keyword arguments, and which values it reads.

    Value 0 is the image, value i + 1 the output of step i.
    """

    name: str
    options: Mapping[str, Any]
    reads: tuple[int, ...]

    def given(self, values):
        """Its inputs as the oracle's function takes them."""
        xs = [values[value] for value in self.reads]
        return (xs,) if self.name in JOINS else xs


def forward(steps, x, tensors):
    """Run ``steps``; return every value, x first.

    ``tensors[i]`` are the tensors of step i where it has any: (weight, bias or None), after them
    what is not trained.
    """
    values = [x]
    for index, step in enumerate(steps):
        function = getattr(oracle, f"{step.name}_forward")
        values.append(function(*step.given(values), *tensors.get(index, ()), **step.options))
    return values


def backward(steps, values, tensors, dlogits):
    """Gradients {step: (dw, ...)} of the parameters, and dx, from the gradient of the last value.

    The gradient of a value that several steps read is the sum of what they hand back.
    """
    gradients: dict[int, tuple] = {}
    d = [0.0] * len(steps) + [dlogits]
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        own = tensors.get(index, ())
        function = getattr(oracle, f"{step.name}_backward")
        result = function(
            *step.given(values), d[index + 1], *own[:1], *own[2:], **step.options
        )  # no need of a bias
        if step.name in JOINS:
            handed_back = result
        elif own:
            handed_back, gradients[index] = result[:1], tuple(result[1:])
        else:
            handed_back = (result,)
        for value, dx in zip(step.reads, handed_back, strict=True):
            d[value] = d[value] + dx
    return gradients, d[0]
