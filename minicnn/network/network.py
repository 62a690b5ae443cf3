"""A network: layers and what each of them reads, the shapes between, and the places of the
parameters in one flat vector."""

import copy
import math
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from minicnn.errors import NetworkError, SettingError, UnknownNameError, check_known, short
from minicnn.memory import aligned_zeros, round_up
from minicnn.network import checks
from minicnn.network.activations import PReLU, Softmax
from minicnn.network.blocks import Branches, expand, layers_from_tables
from minicnn.network.initialization import (
    METHODS,
    activation_after,
    initial_weight,
    methods_of,
)
from minicnn.network.layer import Layer, Shape
from minicnn.network.rule_layer import RuleLayer
from minicnn.network.tables import layer_to_dict

_MOST_NUMBERS = 2**31  # in a tensor; places in memory are counted with 64 bits


@dataclass(frozen=True)
class ParameterSpec:
    """A tensor of parameters, or of state, and its place, ``flat[offset : offset + size]``, in the
    flat vector."""

    name: str  # conv1.weight, ...
    layer: int  # index of its layer
    shape: Shape
    offset: int
    size: int
    kind: str  # weight, bias, scale or shift; state is not trained


@dataclass(frozen=True, init=False)
class Network:
    """Layers from an image (height, width, channels) to one row of logits, each of which reads the
    one before or what it names.

    ``input_shape`` may be (height, width), which means one channel; blocks
    (`minicnn.network.blocks`) are expanded. Raises `NetworkError`, which names the layer, its
    inputs and what would fit, when the layers do not fit together.

    >>> from minicnn.network.layers import Add, Conv2d, Dense, Flatten
    >>> from minicnn.network.activations import ReLU
    >>> network = Network((28, 28), [Conv2d(6, 5), ReLU(), Flatten(), Dense(10)])
    >>> network.layer_names, network.outputs, network.parameter_count
    (('conv1', 'relu1', 'flatten1', 'dense1'), 10, 34726)
    >>> Network((8, 8), [Conv2d(1, 3, padding=1), Add(inputs=("conv1", "input")), Flatten()]).reads
    ((0,), (1, 0), (2,))
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    name: str
    layer_names: tuple[str, ...] = field(
        compare=False, repr=False
    )  # the user's, or kind and number: conv1, relu1, ...
    frozen: frozenset[int] = field(compare=False, repr=False)  # indices of layers, see `freeze`

    def __init__(
        self, input_shape: Sequence[int], layers: Iterable[Layer | Branches], name: str = "network"
    ):
        if not isinstance(layers, Iterable):
            raise NetworkError(f"layers must be a list of layers, not {short(layers)}")
        if not isinstance(name, str):
            raise SettingError(f"name must be a text, not {short(name)}")
        flat, names = expand(layers)
        vars(self).update(
            input_shape=_image_shape(input_shape),
            layers=flat,
            name=name,
            layer_names=names,
            frozen=frozenset(),
        )  # the class is frozen
        if len(self.output_shape) != 1:
            raise NetworkError(
                f"{self.layer_names[-1] if self.layers else 'a network without layers'} gives {self.output_shape}, not "
                "one row of logits: end with Flatten or GlobalAvgPool2d and Dense(number of classes)"
            )
        for index, one in enumerate(self.layer_names):
            tensors = (spec.shape for spec in self.parameters if spec.layer == index)
            for shape in (self.shapes[index + 1], *tensors):
                if math.prod(shape) > _MOST_NUMBERS:
                    raise NetworkError(
                        f"layer {index + 1} ({one}): {'×'.join(map(str, shape))} numbers are more "
                        "than 2³¹, the most that a tensor may have"
                    )
        read = {value for values in self.reads for value in values}
        for value, one in enumerate(self.layer_names[:-1], 1):
            if isinstance(self.layers[value - 1], Softmax):
                raise NetworkError(
                    f"layer {value} ({one}): Softmax must be the last layer; a loss has a softmax of its own"
                )
            if value not in read:
                raise NetworkError(
                    f"layer {value} ({one}): nobody reads its output; name it in the inputs of a later "
                    "layer, or leave it out"
                )

    @cached_property
    def reads(self) -> tuple[tuple[int, ...], ...]:
        """The values that each layer reads: 0 is the image, i + 1 the output of ``layers[i]``."""
        value_of = {"input": 0}
        reads = []
        for number, (name, layer) in enumerate(zip(self.layer_names, self.layers, strict=True), 1):
            own = f"layer {number} ({name})"
            if name in value_of:
                raise NetworkError(
                    f"{own}: the name is used twice, for layer {value_of[name]} as well"
                )
            for wanted in layer.inputs:
                if wanted in value_of:
                    continue
                if wanted in self.layer_names[number - 1 :]:
                    raise NetworkError(
                        f"{own} reads {wanted!r}, which does not come before it: that would be a cycle"
                    )
                raise NetworkError(f"{own}: {UnknownNameError('input', wanted, value_of)}")
            values = tuple(value_of[wanted] for wanted in layer.inputs) or (number - 1,)
            least, most = layer.arity
            if len(values) < least or (most is not None and len(values) > most):
                wanted = "1 value" if most == 1 else f"{least}{'' if most else ' or more'} values"
                raise NetworkError(
                    f"{own}: {layer} reads {wanted}, not {len(values)}: give inputs=(name, ...)"
                )
            reads.append(values)
            value_of[name] = number
        return tuple(reads)

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shape of every value of one sample: 0 is the image, i + 1 the output of
        ``layers[i]``."""
        shapes: list[Shape] = [self.input_shape]
        every = zip(self.layer_names, self.layers, self.reads, strict=True)
        for number, (name, layer, values) in enumerate(every, 1):
            try:
                shapes.append(layer.output_shape(*(shapes[value] for value in values)))
            except NetworkError as error:
                raise NetworkError(f"layer {number} ({name}): {error}") from None
        return shapes

    def inputs_of(self, index: int) -> list[Shape]:
        """The shapes of what ``layers[index]`` reads."""
        return [self.shapes[value] for value in self.reads[index]]

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
        """The tensors in layer order, weight before bias, each at the next multiple of 16 elements;
        after them the state."""
        specs: list[ParameterSpec] = []
        offset = 0
        for state in (False, True):
            for index, layer in enumerate(self.layers):
                kinds = layer.parameter_kinds(*self.inputs_of(index))
                shapes = (layer.state_shapes if state else layer.parameter_shapes)(
                    *self.inputs_of(index)
                )
                for name, shape in shapes.items():
                    kind, size = "state" if state else kinds[name], math.prod(shape)
                    specs.append(
                        ParameterSpec(
                            f"{self.layer_names[index]}.{name}", index, shape, offset, size, kind
                        )
                    )
                    offset += round_up(size)
        return tuple(specs)

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters, gaps not counted."""
        return sum(spec.size for spec in self.parameters if spec.kind != "state")

    @cached_property
    def trainable_size(self) -> int:
        """Where in the flat vector the state begins: what lies before is trained."""
        return sum(round_up(spec.size) for spec in self.parameters if spec.kind != "state")

    @property
    def flat_size(self) -> int:
        """Length of the flat vector: parameters and state with the gaps between and after them."""
        return sum(round_up(spec.size) for spec in self.parameters)

    @property
    def trained_count(self) -> int:
        """Number of those parameters that are not frozen."""
        return sum(
            spec.size
            for spec in self.parameters
            if spec.kind != "state" and spec.layer not in self.frozen
        )

    def freeze(self, patterns: Iterable[str]) -> Self:
        """This network with the layers frozen that have parameters and a name that one of
        ``patterns`` matches, such as ``conv*`` (`fnmatch`), and no others.

        In training their parameters take no step, and a batch normalization among them uses its
        running statistics and keeps them, as in inference (and as in Keras). Raises
        `UnknownNameError` for a pattern that matches none, and `NetworkError` where nothing is left
        to train.

        >>> from minicnn import Conv2d, Dense, Flatten
        >>> network = Network((8, 8), [Conv2d(4, 3), Flatten(), Dense(10)])
        >>> network.freeze(["conv*"]).trained_count, network.trained_count
        (1450, 1490)
        """
        owners = {self.layer_names[spec.layer]: spec.layer for spec in self.parameters}
        frozen: set[int] = set()
        for pattern in patterns:
            found = {layer for name, layer in owners.items() if fnmatchcase(name, pattern)}
            if not found:
                raise UnknownNameError("layer to freeze", pattern, owners)
            frozen |= found
        network = copy.copy(self)
        vars(network)["frozen"] = frozenset(frozen)
        if not network.trained_count:
            raise NetworkError(f"no parameter of the network {self.name} is left to train")
        return network

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass on one image."""
        return sum(
            layer.multiply_adds(*self.inputs_of(index)) for index, layer in enumerate(self.layers)
        )

    def initialize(
        self,
        rng: np.random.Generator,
        dtype: DTypeLike = np.float32,
        methods: Mapping[str, str] | None = None,
        images: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """First parameters, a flat vector [flat_size]: weights as in
        `minicnn.network.initialization`, scales and running variances one, a PReLU's slopes a
        quarter, the rest zero.

        ``methods`` name layers that begin otherwise, such as ``{"conv1": "whitening"}``, see
        `methods_of`, by training ``images`` [N, H, W, C] as the network reads them.
        """
        if not isinstance(rng, np.random.Generator):
            raise SettingError(f"rng must be np.random.default_rng(seed), not {short(rng)}")
        flat = aligned_zeros(self.flat_size, dtype)
        chosen = methods_of(self, methods or {})
        for spec, tensor in zip(self.parameters, self.unflatten(flat).values(), strict=True):
            layer = self.layers[spec.layer]
            if spec.kind == "weight":
                tensor[:] = initial_weight(spec.shape, activation_after(self, spec.layer), rng)
                if spec.layer in chosen:
                    METHODS[chosen[spec.layer]](layer, tensor, images)
            elif isinstance(layer, RuleLayer):
                _, tensor[:] = layer.parameters(*self.inputs_of(spec.layer))[
                    spec.name.rpartition(".")[2]
                ]
            elif spec.kind == "scale":
                tensor[:] = 0.25 if isinstance(layer, PReLU) else 1.0
            elif spec.name.endswith(".running_var"):
                tensor[:] = 1.0
        return flat

    def unflatten(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The tensors by name, as views of the flat vector [flat_size]."""
        if flat.shape != (self.flat_size,):
            raise NetworkError(
                f"the flat vector of {self.name!r} has the shape ({self.flat_size},), not {flat.shape}"
            )
        return {
            spec.name: flat[spec.offset : spec.offset + spec.size].reshape(spec.shape)
            for spec in self.parameters
        }

    def flatten(
        self, tensors: Mapping[str, ArrayLike], dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """A flat vector [flat_size] of the tensors by name; its gaps are zero.

        Raises `NetworkError` for a tensor that is missing, not the network's, or of another shape.
        """
        shapes = {spec.name: spec.shape for spec in self.parameters}
        for name in tensors:
            if name not in shapes:
                raise NetworkError(
                    f"{name!r} is no parameter of {self.name!r}, which has {', '.join(shapes) or 'none'}"
                )
        for name, shape in shapes.items():
            if name not in tensors:
                raise NetworkError(
                    f"the parameter {name!r} of {self.name!r}, shape {shape}, is missing"
                )
            if (given := np.shape(tensors[name])) != shape:
                raise NetworkError(f"{name!r} of {self.name!r} has the shape {shape}, not {given}")
        flat = aligned_zeros(self.flat_size, dtype)  # now that it is known to be of use
        for name, view in self.unflatten(flat).items():
            view[:] = tensors[name]
        return flat

    def to_dict(self) -> dict[str, Any]:
        """The network as JSON has it; `from_dict` reads it back."""
        layers = [layer_to_dict(layer) for layer in self.layers]
        return {"name": self.name, "input_shape": list(self.input_shape), "layers": layers}

    def _repr_html_(self) -> str:
        html: str = pkgutil.resolve_name("minicnn.report.notebook:network_html")(self)
        return html

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The network that `to_dict` describes.

        Raises `UnknownNameError` for an unknown layer or field, `NetworkError` or `SettingError`
        for what is wrong.
        """
        known = ("name", "input_shape", "layers")
        check_known("key of a network", description, known)
        missing = [key for key in known if key not in description]
        if missing or not isinstance(description["layers"], list):
            raise NetworkError(f"a network needs {', '.join(missing) or 'layers as a list'}")
        return cls(
            description["input_shape"],
            layers_from_tables(description["layers"]),
            description["name"],
        )


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    try:
        height, width, channels = (*shape, 1) if len(shape) == 2 else shape
    except (TypeError, ValueError):
        raise NetworkError(
            f"an image's shape is (height, width, channels) or (height, width), not {shape!r}"
        ) from None
    return (
        checks.integer("image", "height", height),
        checks.integer("image", "width", width),
        checks.integer("image", "channels", channels),
    )


def check_network(network: object) -> None:
    """Raise `SettingError` unless the argument is a `Network`."""
    if not isinstance(network, Network):
        raise SettingError(f"network must be a Network, not {short(network)}")
