"""Finding optimizers, losses and schedules by name, the built-in ones by the same road as anybody's.

What exists is read from the metadata of the installed distributions; only the module that is asked for is imported,
and what goes wrong in it is reported with the name of its distribution. ``-`` and ``_`` are the same in a name.
"""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, overload

import pluggy

from minicnn import hookspecs
from minicnn.errors import PluginError, SettingError, UnknownNameError
from minicnn.rules import LossRule, OptimizerRule, ScheduleRule

Kind = Literal["optimizer", "loss", "schedule"]
Rule = OptimizerRule | LossRule | ScheduleRule

# kind: (the hook that offers rules of it, their type)
_KINDS: dict[str, tuple[str, type[Any]]] = {
    "optimizer": ("minicnn_optimizers", OptimizerRule),
    "loss": ("minicnn_losses", LossRule),
    "schedule": ("minicnn_schedules", ScheduleRule),
}


def names(kind: Kind) -> list[str]:
    """Return the sorted names that the installed distributions offer for ``kind``, with ``_`` for every ``-``.

    It reads their metadata only and imports nothing of theirs.
    """
    return sorted({_name(entry) for entry in _entries(kind)})


@overload
def find(kind: Literal["optimizer"], name: str | OptimizerRule) -> OptimizerRule: ...
@overload
def find(kind: Literal["loss"], name: str | LossRule) -> LossRule: ...
@overload
def find(kind: Literal["schedule"], name: str | ScheduleRule) -> ScheduleRule: ...
def find(kind: Kind, name: str | Rule) -> Rule:
    """Return the rule of that kind and name, importing only the module that offers it; a rule is returned as it is.

    Raises `UnknownNameError` for a name that nobody offers, and `PluginError`, naming the distribution and its
    version, if the plugin raises, hands over something else than it announced, or shares its name with another's.
    """
    hook, rule_type = _KINDS[kind]
    if not isinstance(name, str):
        if not isinstance(name, rule_type):
            raise SettingError(f"{kind} must be a name or of type {rule_type.__name__}, not {type(name).__name__}")
        return name
    found = [entry for entry in _entries(kind) if _name(entry) == _normal(name)]
    if not found:
        raise UnknownNameError(kind, name, names(kind), hint="a plugin is installed with: pip install PACKAGE")
    if len(found) > 1:
        owners = " and ".join(sorted(_owner(entry) for entry in found))
        raise PluginError(f"{kind} {name!r} is offered by {owners}; uninstall all but one")
    for rule in _offered(found[0], hook, rule_type):
        if _normal(rule.name) == _normal(name):
            return rule
    raise PluginError(f"{_blame(found[0])} does not offer what its entry point announces (hook {hook})")


def _entries(kind: str) -> list[EntryPoint]:
    return [entry for entry in entry_points(group=hookspecs.GROUP) if entry.name.startswith(kind + ".")]


def _normal(name: str) -> str:
    return name.replace("-", "_")


def _name(entry: EntryPoint) -> str:
    return _normal(entry.name.partition(".")[2])


def _owner(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _blame(entry: EntryPoint) -> str:
    """What an error about a plugin starts with, such as ``optimizer 'adan' of minicnn-adan 0.1.0``."""
    return f"{entry.name.partition('.')[0]} {_name(entry)!r} of {_owner(entry)}"


def _offered(entry: EntryPoint, hook: str, rule_type: type[Any]) -> list[Any]:
    """Import one plugin and return the rules that it offers through ``hook``."""
    try:
        manager = pluggy.PluginManager(hookspecs.GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(entry.load())
        manager.check_pending()  # a misspelt hook
        offers = getattr(manager.hook, hook)()
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise PluginError(f"{_blame(entry)} cannot be loaded: {type(error).__name__}: {reason}") from error
    rules = []
    for offer in offers:
        for rule in offer if isinstance(offer, Sequence) else [offer]:
            if not isinstance(rule, rule_type):
                raise PluginError(f"{_blame(entry)}: {hook} must return a list of {rule_type.__name__}, not {rule!r}")
            rules.append(rule)
    return rules
