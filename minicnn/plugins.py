"""Finding optimizers, losses, schedules and layers by name. Built-in rules use the same entry
points as third-party plugins.

What exists is read from the metadata of the installed distributions; only the module that is asked
for is imported, and what goes wrong in it is reported with the name of its distribution. ``-`` and
``_`` are the same in a name.

``MINICNN_PLUGINS`` says which plugins of other distributions count: unset all, empty none, else
those in its comma list of distributions or names of rules. `use_files` adds rules that are not
packaged yet.
"""

import contextlib
import functools
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import pluggy

from minicnn import __version__, hookspecs
from minicnn.errors import PluginError, SettingError, UnknownNameError
from minicnn.rules import AnyLayer, AnyOptimizer, LossRule, ScheduleRule

Kind = Literal["optimizer", "loss", "schedule", "layer"]
Rule = AnyOptimizer | LossRule | ScheduleRule | AnyLayer

# kind: (the hook that offers rules of it, their type)
_KINDS: dict[str, tuple[str, Any]] = {
    "optimizer": ("minicnn_optimizers", AnyOptimizer),
    "loss": ("minicnn_losses", LossRule),
    "schedule": ("minicnn_schedules", ScheduleRule),
    "layer": ("minicnn_layers", AnyLayer),
}
_BUILT_IN = "minicnn_numba"
_INSTALL = "a plugin is installed with: pip install PACKAGE, or given with: --plugin FILE.py"


@dataclass(frozen=True)
class Entry:
    """A rule that a distribution or a file offers, as known before anything of it is imported."""

    kind: str
    name: str  # with _ for every -
    distribution: str  # or the path of the file
    version: str  # "" for a file
    get: Callable[[], Rule]  # imports it; raises PluginError

    @property
    def owner(self) -> str:
        """Name and version of its distribution, such as ``minicnn-adan 0.1.0``."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def enabled(self) -> bool:
        """Whether it is enabled: built-in rules and files always are, others as ``MINICNN_PLUGINS``
        says."""
        wanted = os.environ.get("MINICNN_PLUGINS")
        distribution = canonical_name(self.distribution)
        if wanted is None or not self.version or distribution == _BUILT_IN:
            return True
        return not {distribution, self.name, f"{self.kind}.{self.name}"}.isdisjoint(
            map(canonical_name, wanted.split(","))
        )

    def conflict(self, entries: "Sequence[Entry]") -> str | None:
        """What is wrong as far as the metadata tell: a name that is offered twice, or an unknown
        kind."""
        if self.version and self.kind not in _KINDS:
            return f"entry point {self.kind}.{self.name} of {self.owner}: the kinds are {', '.join(_KINDS)}"
        same = [
            entry
            for entry in entries
            if (entry.kind, entry.name) == (self.kind, self.name) and entry.enabled
        ]
        if not self.enabled or len(same) < 2:
            return None
        owners = " and ".join(sorted(entry.owner for entry in same))
        return f"{self.kind} {self.name!r} is offered by {owners}; uninstall all but one, or choose with MINICNN_PLUGINS"

    def state(self, entries: "Sequence[Entry]") -> str:
        """``ok``, ``off`` if it is disabled, or what is wrong, for which the module is imported."""
        problem = self.conflict(entries)
        if problem is not None or not self.enabled:
            return problem or "off"
        try:
            self.get()
        except PluginError as error:
            return str(error)
        return "ok"


def canonical_name(name: str) -> str:
    """A name as it is compared: in lower case, with ``_`` for every ``-``."""
    return name.strip().lower().replace("-", "_")


def names(kind: Kind) -> list[str]:
    """Return the sorted names that the installed distributions offer for ``kind``, with ``_`` for
    every ``-``.

    It reads their metadata only and imports nothing of theirs.
    """
    return sorted({entry.name for entry in entries() if entry.kind == kind and entry.enabled})


def find(kind: Kind, name: str | Rule) -> Any:
    """Return the rule of that kind and name, importing only the module that offers it; a rule is
    returned as it is.

    Raises `UnknownNameError` for a name that nobody offers, and `PluginError`, naming the
    distribution and its version, if the plugin raises, hands over something else than it announced,
    or shares its name with another's.
    """
    rule_type = _KINDS[kind][1]
    if not isinstance(name, str):
        if not isinstance(name, rule_type):
            raise SettingError(
                f"{kind} must be a name or of type {_type_name(rule_type)}, not {type(name).__name__}"
            )
        return name
    among = [entry for entry in entries() if entry.kind == kind]
    if not among and kind != "layer":
        raise PluginError(
            "minicnn is not installed, and finds its own rules by what an installation writes: "
            "pip install it, in a checkout by pip install ."
        )
    return select(among, kind, name).get()


def select(among: Sequence[Entry], kind: str, name: str) -> Entry:
    """The one enabled entry of that name; raises what `find` raises, without importing anything."""
    found = [entry for entry in among if entry.name == canonical_name(name)]
    if not found:
        known = {entry.name for entry in among if entry.enabled}
        raise UnknownNameError(kind, name, known, hint=_INSTALL)
    enabled = [entry for entry in found if entry.enabled]
    if not enabled:
        raise PluginError(f"{kind} {name!r} of {found[0].owner} is switched off by MINICNN_PLUGINS")
    if problem := enabled[0].conflict(among):
        raise PluginError(problem)
    return enabled[0]


def entries() -> list[Entry]:
    """All that the installed distributions announce, sorted, and what the files of `use_files`
    offer."""
    announced, owner_of = [], functools.cache(_distribution)  # reads a distribution's metadata once
    for point in entry_points(group=hookspecs.GROUP):
        kind, _, name = point.name.partition(".")
        kind, name = kind.strip(), canonical_name(name)
        owner = owner_of(point.dist) or (point.value, "?")
        get = partial(_rule_of_point, point, kind, name, " ".join(owner))
        announced.append(Entry(kind, name, *owner, get))
    announced.sort(key=lambda entry: (entry.kind, entry.name, entry.owner))
    return announced + [entry for path in _files for entry in _entries_of_file(path)]


# --- files ----------------------------------------------------------------------------------------

_files: list[Path] = []


def use_files(paths: Iterable[str | Path]) -> None:
    """From now on the rules in these files are offered like those of distributions; files named
    before no longer are.

    Raises `PluginError` for the first of them that cannot be loaded or offers nothing.
    """
    _files[:] = dict.fromkeys(Path(path).resolve() for path in paths)
    for path in _files:
        for entry in _entries_of_file(path):
            entry.get()


def _entries_of_file(path: Path) -> list[Entry]:
    prefix = f"plugin {path}"
    try:
        module = _module_of_file(path, prefix)
        found = [(kind, rule) for kind in _KINDS for rule in _rules(module, kind, prefix)]
        if not found:
            raise PluginError(
                f"{prefix} offers nothing: it needs a function such as minicnn_optimizers marked @hookimpl"
            )
    except PluginError as error:
        return [Entry("file", canonical_name(path.stem), str(path), "", partial(_raise, error))]
    return [
        Entry(kind, canonical_name(rule.name), str(path), "", partial(_same, rule))
        for kind, rule in found
    ]


def _module_of_file(path: Path, prefix: str) -> ModuleType:
    """The module of a file, executed once a process."""
    name = "minicnn_plugin_" + re.sub(r"\W", "_", str(path))
    if name not in sys.modules:
        if not path.is_file():
            raise PluginError(f"{prefix}: no such file")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError(f"{prefix} must be a Python file, FILE.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            with _guarded(prefix):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _raise(error: PluginError) -> Rule:
    raise error


def _same(rule: Rule) -> Rule:
    return rule


# --- loading --------------------------------------------------------------------------------------


def _distribution(distribution: Distribution | None) -> tuple[str, str] | None:
    """(name, version) as the metadata say; None where an install that was cut off left none."""
    try:
        assert distribution is not None
        metadata = distribution.metadata
        return (metadata["Name"], metadata["Version"] or "?") if metadata["Name"] else None
    except Exception:
        return None


def _rule_of_point(point: EntryPoint, kind: str, name: str, owner: str) -> Rule:
    prefix = f"{kind} {name!r} of {owner}"
    for requirement in point.dist.requires or [] if point.dist else []:
        needed = re.match(r"minicnn[-_.]numba\b[^;]*?>=?\s*([\d.]+)", requirement, re.IGNORECASE)
        if needed and _release(needed[1]) > _release(__version__):
            raise PluginError(
                f"{prefix} needs minicnn-numba {needed[1]}, this is {__version__}: update minicnn-numba"
            )
    with _guarded(prefix):
        module = point.load()
    for rule in _rules(module, kind, prefix):
        if canonical_name(rule.name) == name:
            return rule
    raise PluginError(
        f"{prefix} does not offer what its entry point announces (hook {_KINDS[kind][0]})"
    )


def _rules(module: Any, kind: str, prefix: str) -> list[Any]:
    """The rules of ``kind`` that a module offers, their type checked."""
    hook, rule_type = _KINDS[kind]
    wanted = getattr(module, "minicnn_api", hookspecs.API_VERSION)
    if not isinstance(wanted, int) or wanted > hookspecs.API_VERSION:
        raise PluginError(
            f"{prefix} is written for plugin API {wanted}, this minicnn has {hookspecs.API_VERSION}: "
            "update minicnn-numba"
        )
    with _guarded(prefix):
        manager = pluggy.PluginManager(hookspecs.GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module)
        manager.check_pending()  # a misspelt hook
        handed_over = getattr(manager.hook, hook)()
    rules = []
    for entry in handed_over:
        for rule in entry if isinstance(entry, Sequence) else [entry]:
            if not isinstance(rule, rule_type):
                raise PluginError(
                    f"{prefix}: {hook} must return a list of {_type_name(rule_type)}, not {rule!r}"
                )
            rules.append(rule)
    return rules


_stdout_is_moved = threading.RLock()  # of two threads, the second would not put it back


@contextlib.contextmanager
def _guarded(prefix: str) -> Iterator[None]:
    """Run code of a plugin: whatever it raises becomes a `PluginError` of one line, and stdout
    stays the command's."""
    try:
        with _stdout_is_moved, contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise PluginError(f"{prefix} cannot be loaded: {type(error).__name__}: {reason}") from error


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version without zeros at the end, to compare."""
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _type_name(rule_type: Any) -> str:
    return " or ".join(kind.__name__ for kind in get_args(rule_type) or (rule_type,))
