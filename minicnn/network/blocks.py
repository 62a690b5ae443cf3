"""Blocks: layers with branches, written as a nest and expanded into a flat list of layers with
names and inputs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minicnn.errors import MinicnnError, NetworkError, SettingError, check_known, short
from minicnn.network.layer import Layer
from minicnn.network.layers import Add, Concat
from minicnn.network.tables import layer_from_dict


@dataclass(frozen=True, init=False)
class Branches:
    """Several lists of layers that read the same value, and a layer that reads all of their ends.

    A branch without layers passes the value on.

    >>> from minicnn.network.layers import Conv2d
    >>> Branches([Conv2d(8, 1)], [Conv2d(8, 3, padding="same")]).join
    Concat(name=None, inputs=())
    """

    branches: tuple[tuple["Layer | Branches", ...], ...]
    join: Layer

    def __init__(self, *branches: Sequence["Layer | Branches"], join: Layer | None = None):
        join, own = Concat() if join is None else join, type(self).__name__
        if len(branches) < 2:
            raise NetworkError(f"{own} needs at least two branches, not {len(branches)}")
        for branch in branches:
            if not isinstance(branch, Iterable):
                raise NetworkError(f"{own} needs lists of layers, not {short(branch)}")
        if not isinstance(join, Layer) or join.inputs:
            raise NetworkError(
                f"{own}: join must be a layer without inputs, since it reads the ends of the branches, "
                f"not {short(join)}"
            )
        vars(self).update(branches=tuple(map(tuple, branches)), join=join)  # the class is frozen


class Residual(Branches):
    """``layers`` and a shortcut around them, which are added: y = layers(x) + shortcut(x).

    He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016.
    """

    def __init__(
        self, layers: Sequence[Layer | Branches], shortcut: Sequence[Layer | Branches] = ()
    ):
        super().__init__(layers, shortcut, join=Add())


@dataclass
class _Expansion:
    """The flat list as it grows, and the name of each layer."""

    taken: frozenset[str]  # names that the user gave
    layers: list[Layer] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, layer: Layer) -> None:
        name = layer.name
        while name is None or (layer.name is None and name in self.taken):
            self.seen[layer.label()] += 1
            name = f"{layer.label()}{self.seen[layer.label()]}"
        if "operation" not in vars(type(layer)):
            raise NetworkError(
                f"layer {len(self.layers) + 1} ({name}): no operation computes a layer of the class "
                f"{type(layer).__name__}; write a rule for it, plugins/README.md: Your own layer"
            )
        self.layers.append(layer)
        self.names.append(name)

    def expand(self, layers: Iterable[Layer | Branches], source: str | None = None) -> str:
        """Add ``layers``, the first of which reads ``source`` (None: the layer before); return the
        name of the last."""
        for layer in layers:
            if isinstance(layer, Branches):
                source = self._branches(layer, source or self._last)
            elif isinstance(layer, Layer):
                given = (
                    layer
                    if source in (None, self._last) or layer.inputs
                    else replace(layer, inputs=(source,))
                )
                self.add(given)
                source = None
            else:
                hint = f"; write {layer.__name__}(...)" if isinstance(layer, type) else ""
                raise NetworkError(f"layer {len(self.layers) + 1} is {layer!r}, not a layer{hint}")
        return source or self._last

    @property
    def _last(self) -> str:
        return self.names[-1] if self.names else "input"

    def _branches(self, block: Branches, source: str) -> str | None:
        ends = tuple(self.expand(branch, source) for branch in block.branches)
        self.add(replace(block.join, inputs=ends))
        return None


def expand(layers: Iterable[Layer | Branches]) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The flat list of layers, and the name of each: the user's, or its kind and a number: conv1,
    relu1, conv2, ..."""
    layers = list(layers)
    result = _Expansion(frozenset(_given_names(layers)))
    result.expand(layers)
    return tuple(result.layers), tuple(result.names)


def _given_names(layers: Iterable[Layer | Branches]) -> Iterable[str]:
    for layer in layers:
        if isinstance(layer, Branches):
            yield from _given_names(
                [*(one for branch in layer.branches for one in branch), layer.join]
            )
        elif isinstance(layer, Layer) and layer.name is not None:
            yield layer.name


def layers_from_tables(tables: Iterable[Mapping[str, Any]]) -> list[Layer | Branches]:
    """The layers and blocks that tables of JSON or TOML describe
    (`minicnn.network.tables.layer_from_dict`).

    A block is ``{"type": "Residual", "layers": [...], "shortcut": [...]}`` or ``{"type":
    "Branches", "branches": [[...], ...], "join": {...}}``. An error says which layer of which list
    is wrong.
    """
    return [_numbered(number, table) for number, table in enumerate(tables, 1)]


def _numbered(number: int, table: Mapping[str, Any]) -> Layer | Branches:
    try:
        return _block_or_layer(table)
    except MinicnnError as error:
        error.args = (f"layer {number}: {error}",)
        raise


def _block_or_layer(table: Mapping[str, Any]) -> Layer | Branches:
    kind = str(table.get("type")).lower() if isinstance(table, Mapping) else ""
    fields = {"residual": ("layers", "shortcut"), "branches": ("branches", "join")}.get(kind)
    if fields is None:
        return layer_from_dict(table)
    first, second = fields
    check_known(f"field of {kind.capitalize()}", table, ("type", *fields))
    lists = [table.get(first), table.get(second, [])] if kind == "residual" else table.get(first)
    if not isinstance(lists, list) or not all(isinstance(one, list) for one in lists):
        wanted = "lists of layers" if kind == "residual" else "a list of lists of layers"
        raise SettingError(f"{kind.capitalize()}: {first} must be {wanted}")
    if kind == "residual":
        return Residual(*map(layers_from_tables, lists))
    join = layer_from_dict(table["join"]) if "join" in table else None
    return Branches(*map(layers_from_tables, lists), join=join)
