"""Layers as tables of JSON, TOML and the model file, those of plugins as well."""

import inspect
from collections.abc import Mapping
from typing import Any

from minicnn import plugins
from minicnn.activations import RULES
from minicnn.errors import PluginError, SettingError, UnknownNameError, check_known, short
from minicnn.network.layer import LAYERS, Layer
from minicnn.network.rule_layer import RuleLayer
from minicnn.rules import AnyLayer, resolve


def layer(kind: str | AnyLayer, **fields: Any) -> Layer:
    """The layer of that name with those fields: one of minicnn's own or a plugin's. Or the layer
    that a rule at hand makes.

    A rule's fields are its hyperparameters, ``name`` and ``inputs``.

    >>> layer("leaky-relu", negative_slope=0.2)
    LeakyReLU(name=None, inputs=(), negative_slope=0.2)
    """
    if isinstance(kind, str):
        return layer_from_dict({**fields, "type": kind})
    if not isinstance(kind, AnyLayer):
        raise SettingError(f"a layer is a name or a rule, not {short(kind)}")
    own = own_layer(kind.name)
    if own and RULES.get(kind.name) is kind:
        return own(**fields)
    return _of_rule(kind, "", fields)


def own_layer(name: str) -> Any:
    """The class of minicnn's own layers with that name, or None."""
    return LAYERS.get(name.lower().replace("-", "").replace("_", ""))


def layer_to_dict(layer: Layer) -> dict[str, Any]:
    """The layer as JSON has it: ``{"type": "Conv2d", "filters": 6, "kernel_size": [5, 5],
    ...}``."""
    named = {name: getattr(layer, name) for name in ("name", "inputs") if getattr(layer, name)}
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in (named | layer.values()).items()
    }
    return {"type": layer.type_name} | values


def layer_from_dict(table: Mapping[str, Any]) -> Layer:
    """The layer that `layer_to_dict` or a TOML table describes; neither case nor ``-`` and ``_`` in
    the type matter.

    Raises `UnknownNameError` for an unknown type or field, `SettingError` for a missing or a wrong
    value, and `PluginError` if the table says of which plugin the layer is, and that is not
    installed.
    """
    if not isinstance(table, Mapping) or not isinstance(table.get("type"), str):
        raise SettingError(
            f'a layer is a table with a type, such as type = "Conv2d", not {table!r}'
        )
    name = table["type"]
    values = {field: value for field, value in table.items() if field != "type"}
    kind = own_layer(name)
    if kind is None:
        return _of_plugin(name, values)
    parameters = inspect.signature(kind).parameters
    check_known(f"field of {kind.__name__}", values, parameters)
    for field, parameter in parameters.items():
        if parameter.default is parameter.empty and field not in values:
            raise SettingError(f"{kind.__name__}: {field} is missing")
    return kind(**values)


def _of_plugin(name: str, values: dict[str, Any]) -> Layer:
    """The layer of a plugin's rule; ``values`` may say where the plugin came from when the table
    was written."""
    plugin = values.pop("plugin", "")
    found = [entry for entry in plugins.entries() if entry.kind == "layer"]
    if plugins.canonical_name(name) not in {entry.name for entry in found}:
        if plugin:
            raise PluginError(
                f"the layer {name!r} is of {plugin}, which is not here: install it, or give its file with "
                "--plugin"
            )
        known = [layer.__name__ for layer in LAYERS.values()] + [
            entry.name for entry in found if entry.enabled and not own_layer(entry.name)
        ]
        raise UnknownNameError("layer", name, known)
    entry = plugins.select(found, "layer", name)
    rule: Any = entry.get()
    return _of_rule(rule, entry.owner, values)


def _of_rule(rule: AnyLayer, plugin: str, values: Mapping[str, Any]) -> RuleLayer:
    common = {name: values[name] for name in ("name", "inputs") if name in values}
    given = {name: value for name, value in values.items() if name not in common}
    hyperparameters = resolve(rule.name, rule.hyperparameters, given)
    return RuleLayer(rule, tuple(hyperparameters.values()), plugin, **common)
