"""A layer described by a rule, which comes from a plugin or from the user's code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minicnn.errors import NetworkError, PluginError
from minicnn.network.layer import LAYERS, Layer, Shape
from minicnn.rules import ActivationRule, AnyLayer, LayerRule


@dataclass(frozen=True)
class RuleLayer(Layer):
    """The layer of a rule with these hyperparameters; made by `minicnn.network.tables.layer`."""

    operation = "rule"
    rule: AnyLayer
    hyperparameters: tuple[float, ...] = ()  # in the rule's order
    # whose rule it is, such as ``minicnn-snake 0.1.0``; empty for a rule at hand
    plugin: str = field(default="", compare=False)

    @property
    def type_name(self) -> str:
        return self.rule.name

    @property
    def rectifies(self) -> bool | None:  # type: ignore[override]
        """Whether the weights before it begin as before a ReLU; None for what is no activation."""
        return self.rule.rectifies if isinstance(self.rule, ActivationRule) else None

    def parameter_kinds(self, *input_shapes: Shape) -> Mapping[str, str]:
        """By the first value: what begins with 0 is a shift, with another number a scale."""
        return {
            name: "weight" if first == "weight" else "scale" if first else "shift"
            for name, (_, first) in self.parameters(input_shapes[0]).items()
        }

    @property
    def _by_name(self) -> dict[str, float]:
        return {
            hyper.name: value
            for hyper, value in zip(self.rule.hyperparameters, self.hyperparameters, strict=True)
        }

    def values(self) -> dict[str, Any]:
        return self._by_name | ({"plugin": self.plugin} if self.plugin else {})

    def output_shape(self, *input_shapes: Shape) -> Shape:
        if isinstance(self.rule, ActivationRule):
            return input_shapes[0]
        try:
            shape = tuple(map(int, self.rule.output_shape(input_shapes[0], **self._by_name)))
        except ValueError as error:
            raise NetworkError(f"{self}: {error}") from None
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise PluginError(
                f"layer {self.rule.name!r}: its output shape {shape} is neither (height, width, channels) nor "
                "(features,)"
            )
        return shape

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        return {name: tuple(shape) for name, (shape, _) in self.parameters(input_shapes[0]).items()}

    def parameters(self, input_shape: Shape) -> Mapping[str, tuple[Shape, float | str]]:
        """{name: (shape, first value, a number or "weight")}."""
        if isinstance(self.rule, ActivationRule):
            return {}
        found = self.rule.parameters(input_shape, **self._by_name)
        for name, (shape, first) in found.items():
            if first == "weight" and len(shape) < 2:
                raise PluginError(
                    f"layer {self.rule.name!r}: {name} of shape {shape} has no inputs and outputs: give a "
                    "number as its first value"
                )
        return found

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        if isinstance(self.rule, LayerRule):
            return {}
        return dict(zip(("f0", "f1"), self.hyperparameters, strict=False))

    def __str__(self) -> str:
        shown = [f"{name}={value:g}" for name, value in self._by_name.items()]
        return f"{self.rule.name}({', '.join(shown)})"


del LAYERS["rulelayer"]  # its name is the rule's
