"""A network: layers in a row, the shapes between them, and the places of their parameters in one flat vector."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from minicnn.errors import NetworkError, UnknownNameError
from minicnn.network import checks
from minicnn.network.initialization import activation_after, initial_weight
from minicnn.network.layers import Layer, Shape, layer_from_dict, layer_to_dict
from minicnn.memory import aligned_zeros, round_up


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter tensor and its place, ``flat[offset : offset + size]``, in the flat vector."""

    name: str  # conv1.weight, ...
    layer: int  # index of its layer
    shape: Shape
    offset: int
    size: int


@dataclass(frozen=True, init=False)
class Network:
    """Layers in a row, from an image (height, width, channels) to one row of logits.

    ``input_shape`` may be (height, width), which means one channel. Raises `NetworkError`, which names the layer, its
    input and what would fit, when the layers do not fit together.

    >>> from minicnn.network.layers import Conv2d, Dense, Flatten, ReLU
    >>> network = Network((28, 28), [Conv2d(6, 5), ReLU(), Flatten(), Dense(10)])
    >>> network.layer_names, network.outputs, network.parameter_count
    (('conv1', 'relu1', 'flatten1', 'dense1'), 10, 34726)
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    name: str

    def __init__(self, input_shape: Sequence[int], layers: Iterable[Layer], name: str = "network"):
        vars(self).update(input_shape=_image_shape(input_shape), layers=tuple(layers), name=name)  # the class is frozen
        for number, layer in enumerate(self.layers, 1):
            if not isinstance(layer, Layer):
                hint = f"; write {layer.__name__}(...)" if isinstance(layer, type) else ""
                raise NetworkError(f"layer {number} is {layer!r}, not a layer{hint}")
        if len(self.output_shape) != 1:
            raise NetworkError(
                f"{self.layer_names[-1] if self.layers else 'a network without layers'} gives {self.output_shape}, not "
                "one row of logits: end with Flatten or GlobalAvgPool2d and Dense(number of classes)"
            )

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """``conv1``, ``relu1``, ``conv2``, ...: the layers, numbered by kind."""
        seen: Counter[str] = Counter()
        names = []
        for layer in self.layers:
            seen[layer.label()] += 1
            names.append(f"{layer.label()}{seen[layer.label()]}")
        return tuple(names)

    @cached_property
    def shapes(self) -> list[Shape]:
        """The input's shape and every layer's output shape: ``layers[i]`` takes ``shapes[i]`` to ``shapes[i + 1]``."""
        shapes: list[Shape] = [self.input_shape]
        for number, (name, layer) in enumerate(zip(self.layer_names, self.layers, strict=True), 1):
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except NetworkError as error:
                raise NetworkError(f"layer {number} ({name}): {error}") from None
        return shapes

    @property
    def output_shape(self) -> Shape:
        """Shape of the logits of one sample, ``(outputs,)``."""
        return self.shapes[-1]

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return self.output_shape[0]

    @cached_property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """The parameter tensors in layer order, weight before bias, each at the next multiple of 16 elements."""
        specs: list[ParameterSpec] = []
        offset = 0
        for index, layer in enumerate(self.layers):
            for kind, shape in layer.parameter_shapes(self.shapes[index]).items():
                size = math.prod(shape)
                specs.append(ParameterSpec(f"{self.layer_names[index]}.{kind}", index, shape, offset, size))
                offset += round_up(size)
        return tuple(specs)

    @property
    def reads(self):
        return tuple((i,) for i in range(len(self.layers)))

    @property
    def trainable_size(self):
        return self.flat_size

    @property
    def parameter_count(self) -> int:
        """Number of parameters, gaps not counted."""
        return sum(spec.size for spec in self.parameters)

    @property
    def flat_size(self) -> int:
        """Length of the flat vector: the parameters with the gaps between and after them."""
        return sum(round_up(spec.size) for spec in self.parameters)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass on one image."""
        return sum(layer.multiply_adds(shape) for layer, shape in zip(self.layers, self.shapes[:-1], strict=True))

    def initialize(self, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """First parameters, a flat vector [flat_size]: weights as in `minicnn.network.initialization`, biases zero."""
        flat = aligned_zeros(self.flat_size, dtype)
        for spec, tensor in zip(self.parameters, self.unflatten(flat).values(), strict=True):
            if spec.name.endswith(".weight"):
                tensor[:] = initial_weight(spec.shape, activation_after(self.layers, spec.layer), rng)
        return flat

    def unflatten(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The tensors by name, as views of the flat vector [flat_size]."""
        if flat.shape != (self.flat_size,):
            raise NetworkError(f"the flat vector of {self.name!r} has the shape ({self.flat_size},), not {flat.shape}")
        return {spec.name: flat[spec.offset : spec.offset + spec.size].reshape(spec.shape) for spec in self.parameters}

    def flatten(self, tensors: Mapping[str, ArrayLike], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """A flat vector [flat_size] of the tensors by name; its gaps are zero.

        Raises `NetworkError` for a tensor that is missing, not the network's, or of another shape.
        """
        flat = aligned_zeros(self.flat_size, dtype)
        views = self.unflatten(flat)
        for name in tensors:
            if name not in views:
                raise NetworkError(f"{name!r} is no parameter of {self.name!r}, which has {', '.join(views) or 'none'}")
        for name, view in views.items():
            if name not in tensors:
                raise NetworkError(f"the parameter {name!r} of {self.name!r}, shape {view.shape}, is missing")
            tensor = np.asarray(tensors[name])
            if tensor.shape != view.shape:
                raise NetworkError(f"{name!r} of {self.name!r} has the shape {view.shape}, not {tensor.shape}")
            view[:] = tensor
        return flat

    def to_dict(self) -> dict[str, Any]:
        """The network as JSON has it; `from_dict` reads it back."""
        layers = [layer_to_dict(layer) for layer in self.layers]
        return {"name": self.name, "input_shape": list(self.input_shape), "layers": layers}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The network that `to_dict` describes.

        Raises `UnknownNameError` for an unknown layer or field, `NetworkError` or `SettingError` for what is wrong.
        """
        known = ("name", "input_shape", "layers")
        for key in description:
            if key not in known:
                raise UnknownNameError("key of a network", key, known)
        missing = [key for key in known if key not in description]
        if missing or not isinstance(description["layers"], list):
            raise NetworkError(f"a network needs {', '.join(missing) or 'layers as a list'}")
        layers = [layer_from_dict(table) for table in description["layers"]]
        return cls(description["input_shape"], layers, description["name"])


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    try:
        height, width, channels = (*shape, 1) if len(shape) == 2 else shape
    except (TypeError, ValueError):
        raise NetworkError(f"an image's shape is (height, width, channels) or (height, width), not {shape!r}") from None
    return (
        checks.integer("image", "height", height),
        checks.integer("image", "width", width),
        checks.integer("image", "channels", channels),
    )
