"""What a layer is: a frozen dataclass that gives shapes and parameters; its computation is in the
kernels.

Shapes are those of one sample: an image ``(height, width, channels)``, or ``(features,)``. A layer
says which shape it gives for which inputs (`Layer.output_shape`), which parameters it has
(`Layer.parameter_shapes`), and how many multiply-adds its forward pass takes. A value that a field
does not admit raises `SettingError`.

Every layer may have a ``name`` and, where it does not read the layer before it alone, ``inputs``:
the names of the layers that it reads; the network's image is called ``input``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from minicnn.errors import NetworkError
from minicnn.network import checks
from minicnn.network.checks import times

Shape = tuple[int, ...]

LAYERS: dict[str, "type[Layer]"] = {}  # by their names in lower case


@dataclass(frozen=True)
class Layer:
    """Base of all layers. By itself a layer reads one value, keeps its shape and has no
    parameters."""

    name: str | None = field(default=None, kw_only=True)
    inputs: tuple[str, ...] = field(default=(), kw_only=True)

    # The row of `minicnn.program.operations` that computes it. Each class says its own: one that is
    # derived may mean something else.
    operation: ClassVar[str]
    arity: ClassVar[tuple[int, int | None]] = (1, 1)  # least and most inputs; None: any number
    # of the parameters, by name
    kinds: ClassVar[Mapping[str, str]] = {"weight": "weight", "bias": "bias"}
    # What checks a field's value and returns what is stored (`minicnn.network.checks`): a class
    # says it for its own fields beside its bases.
    admitted: ClassVar[Mapping[str, Callable[[str, str, Any], Any]]] = {}

    def __init_subclass__(cls, **admitted: Callable[[str, str, Any], Any]) -> None:
        cls.admitted = {**cls.admitted, **admitted}
        if "operation" in vars(cls):
            LAYERS[cls.__name__.lower()] = cls

    def __post_init__(self) -> None:
        own = type(self).__name__
        checks.name(own, self.name)
        vars(self)["inputs"] = checks.names(own, self.inputs)  # the class is frozen
        for name, check in self.admitted.items():
            vars(self)[name] = check(own, name, getattr(self, name))

    # Of an activation: it is about 0 below 0 and x above, and weights before it begin as He et al.
    # 2015 say.
    rectifies: ClassVar[bool | None] = None

    @property
    def type_name(self) -> str:
        """Its name in JSON and TOML."""
        return type(self).__name__

    def label(self) -> str:
        """The beginning of its name in a network, before a number: conv1, conv2, ..."""
        return self.type_name.lower().removesuffix("2d")

    def values(self) -> dict[str, Any]:
        """The values of the fields that its class adds."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in ("name", "inputs")
        }

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Shape of the output; raises `NetworkError`, which says what would fit, for inputs that do
        not."""
        return input_shapes[0]

    def parameter_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        """Shapes of the parameters by name, ``weight`` before ``bias``; empty for a layer that has
        none."""
        return {}

    def parameter_kinds(self, *input_shapes: Shape) -> Mapping[str, str]:
        """What each parameter is: weight, bias, scale or shift."""
        return self.kinds

    def state_shapes(self, *input_shapes: Shape) -> dict[str, Shape]:
        """Shapes of the state, which is kept but not trained, by name; empty for a layer without
        state."""
        return {}

    def multiply_adds(self, *input_shapes: Shape) -> int:
        """Multiply-adds of the forward pass on one sample, those of convolutions and dense layers
        alone."""
        return 0

    def attributes(self, *input_shapes: Shape) -> dict[str, float]:
        """The values that its kernels need, by the fields of a plan's record
        (`minicnn.program.plan`)."""
        return {}

    def __str__(self) -> str:
        """The type with the fields that differ from their defaults: ``Conv2d(filters=6,
        kernel_size=5×5)``."""
        parameters = inspect.signature(type(self)).parameters
        shown = []
        for name, value in self.values().items():
            default = parameters[name].default
            if value not in (default, (default, default)):
                shown.append(f"{name}={times(value) if isinstance(value, tuple) else value}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _image(self, input_shape: Shape) -> tuple[int, int, int]:
        if len(input_shape) != 3:
            raise NetworkError(
                f"{self} needs an image (height, width, channels), but its input is {input_shape}; "
                "put it before Flatten, GlobalAvgPool2d and Dense"
            )
        height, width, channels = input_shape
        return height, width, channels
