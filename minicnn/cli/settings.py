"""The options of a training run, derived from the fields of `Settings`, and how flags, a file and a
stored run combine into settings."""

import argparse
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.cli.common import value_of
from minicnn.errors import UsageError
from minicnn.kinds import FLAG, PATTERNS, SIZE, TABLE, WEIGHTS
from minicnn.toml import read_toml
from minicnn.training.recipes import recipe
from minicnn.training.settings import BELONGS, Settings, read_settings

if TYPE_CHECKING:
    from minicnn.data import Dataset
    from minicnn.training.distributed import Ranks

# how a data set is read
DATA_OPTIONS = ("data_max", "data_gb", "channels", "resize", "grayscale", "rgb")
SHORT = ("momentum", "weight_decay")  # hyperparameters of the optimizer with an option of their own
_FIELDS = {setting.name: setting for setting in fields(Settings)}
_OPTIONS = {
    name: setting.metadata["options"] or (f"--{name.replace('_', '-')}",)
    for name, setting in _FIELDS.items()
    if setting.metadata["help"]
}
OPTION_OF = {name: options[-1] for name, options in _OPTIONS.items()}


def add_option(parser: argparse._ActionsContainer, name: str, **how: Any) -> None:
    """Add the option of a setting; what is not given is None. ``how`` replaces words of its help
    and the like."""
    metadata = _FIELDS[name].metadata
    kind = metadata["kind"]
    usual: dict[str, Any] = {"type": value_of(kind)}
    if kind is TABLE:
        readers = {"augment": augmentation, "initialization": partial(key_value, words=True)}
        read = readers.get(name, key_value)
        usual = {"type": read, "nargs": "+", "action": "extend"}
    if kind is WEIGHTS:
        usual = {"nargs": "+", "action": _ClassWeights}
    if kind is SIZE:
        usual = {"type": size}
    if kind is PATTERNS:
        usual |= {"type": str, "nargs": "+", "action": "extend"}
    if kind is FLAG:
        usual = {"action": argparse.BooleanOptionalAction}
    else:
        usual["metavar"] = kind.metavar
    usual |= {"dest": name, "help": metadata["help"]}
    parser.add_argument(*_OPTIONS[name], **(usual | how))


def add_settings(parser: argparse.ArgumentParser, left_out: Sequence[str] = ()) -> None:
    """Add an option for every setting but those ``left_out``."""
    group = parser.add_argument_group("settings of the run")
    for name in _OPTIONS:
        if name not in left_out:
            every = {"nargs": "?", "const": 0} if name == "record" else {}
            add_option(group, name, **every)
    for name in SHORT:
        if name not in left_out:
            text = f"short for --opt-kwargs {name}=X"
            group.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add how a data set is read; None is what the model or the default says."""
    for name in DATA_OPTIONS:
        add_option(parser, name)


def given(arguments: argparse.Namespace, names: Sequence[str] = tuple(OPTION_OF)) -> dict[str, Any]:
    """The settings among ``names`` that were given on the command line."""
    flags: dict[str, Any] = {name: getattr(arguments, name, None) for name in names}
    for name, pairs in flags.items():
        if pairs is not None and name in _FIELDS and _FIELDS[name].metadata["kind"] is TABLE:
            flags[name] = dict(pairs)
            if len(flags[name]) < len(pairs):
                raise UsageError(f"{OPTION_OF[name]} has the same name twice")
    if "none" in (flags.get("augment") or ()):
        if len(flags["augment"]) > 1:
            raise UsageError("--augment none excludes all others")
        flags["augment"] = {}
    return {name: value for name, value in flags.items() if value is not None}


def load_data(settings: Settings, ranks: "Ranks | None" = None) -> "Dataset":
    """The data set that the settings mean, which ``ranks`` read together."""
    from minicnn.data import load_dataset
    from minicnn.plugins import find

    options = {"loss": find("loss", settings.loss), **read_options(settings)}
    if ranks is None:
        return load_dataset(settings.data, **options)
    return ranks.share(lambda reader: load_dataset(settings.data, reader=reader, **options))


def read_options(settings: Settings) -> dict[str, Any]:
    """How the settings say that a data set is read."""
    names = {name: name for name in ("seed", *DATA_OPTIONS)} | {"data_max": "maximum"}
    return {option: getattr(settings, name) for name, option in names.items()}


def as_options(text: str) -> str:
    """``text`` with the option in the place of an argument of Python's, such as ``val_split=0.2``."""

    def option(match: re.Match[str]) -> str:
        name = OPTION_OF.get({"maximum": "data_max"}.get(match[1], match[1]))
        return match[0] if name is None else f"{name} {match[2]}".rstrip()

    return re.sub(r"\b(\w+)=([\w.]*)", option, text)


def size(text: str) -> list[int]:
    """``32x48`` as [32, 48], and ``32`` as [32, 32]."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"must be height x width, such as 32x48, not {text!r}")
    return [int(sides[0]), int(sides[-1])]


def key_value(text: str, words: bool = False) -> tuple[str, Any]:
    """``k=v`` as (k, v); v is a number, or numbers with commas between them, or with ``words`` a
    word."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"must look like name=value, not {text!r}")
    if words:
        return key, value
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{key} must be a number, not {value!r}") from None
    return key, numbers if "," in value else numbers[0]


class _ClassWeights(argparse.Action):
    """Reads the word balanced, numbers in the order of the classes, or ``class=number``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        pairs = [text.rpartition("=") for text in values]
        names = [name for name, _, _ in pairs if name]
        weights: Any = "balanced" if values == ["balanced"] else ""
        if not weights:
            with suppress(ValueError):
                weights = [float(number) for _, _, number in pairs]
                weights = dict(zip(names, weights, strict=False)) if names else weights
        if not WEIGHTS.admits(weights) or len(weights) < len(values):
            shown = " ".join(values)
            raise argparse.ArgumentError(self, f"must be {WEIGHTS.words}, not {shown!r}")
        setattr(namespace, self.dest, weights)


def augmentation(text: str) -> tuple[str, Any]:
    """``flip`` as ("flip", True), ``crop=4`` as ("crop", 4), and words as they are."""
    key, equals, value = text.partition("=")
    if not equals or value.lstrip("-").isdecimal():
        return key, int(value) if equals else True
    try:
        return key, float(value)
    except ValueError:
        return key, value


def new_settings(arguments: argparse.Namespace, usual: str | None = None) -> Settings:
    """The settings of a new run: flags win over the file of ``--config``, which wins over the
    recipe; that is ``usual`` where nothing else says what is trained, and without one the defaults
    hold."""
    flags, config, name = _flags(arguments), arguments.config, arguments.recipe
    if name is None and config is None and not flags.keys() & {"model", "init"}:
        name = usual
    base = Settings() if name is None else recipe(name)
    if config is not None:
        read_settings(config)  # so that what is wrong in it names the file
        base = _override(base, read_toml(config))
    if "epochs" in flags:
        base = replace(base, horizon=None)  # it was that of the file's epochs
    return _override(base, flags)


def resumed_settings(
    arguments: argparse.Namespace, values: Mapping[str, Any], epochs_done: int
) -> Settings:
    """The stored settings with the flags that are given."""
    settings = _override(Settings(**values), _flags(arguments))
    if settings.epochs < epochs_done:
        raise UsageError(
            f"--epochs {settings.epochs} is below the {epochs_done} epochs that are done"
        )
    return settings


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given on the command line, as fields of `Settings`."""
    flags = {f"{kind}_kwargs": {} for kind in BELONGS} | given(arguments)
    for one, other in (("epochs", "time_limit"), ("init", "model")):
        if one in flags and other in flags:
            raise UsageError(f"{OPTION_OF[one]} and {OPTION_OF[other]} exclude each other")
    for name, value in given(arguments, SHORT).items():
        if name in flags["optimizer_kwargs"]:
            raise UsageError(f"--{name.replace('_', '-')} and --opt-kwargs {name} are the same")
        flags["optimizer_kwargs"][name] = value
    return flags


def _same(setting: str, one: Any, other: Any) -> bool:
    """Whether two values mean the same; in the name of a rule ``-`` and ``_`` do."""
    if setting in BELONGS:
        one, other = one.replace("-", "_"), other.replace("-", "_")
    return bool(one == other)


def _override(base: Settings, flags: Mapping[str, Any]) -> Settings:
    """``base`` with ``flags``, without the hyperparameters, the learning rate among them, of an
    optimizer, loss or schedule that is no longer used."""
    from minicnn.data.known import KNOWN

    values = {"time_limit": None, **flags} if "epochs" in flags else dict(flags)
    for kind in BELONGS:
        before, kwargs = getattr(base, kind), f"{kind}_kwargs"
        if _same(kind, flags.get(kind, before), before):
            values[kwargs] = getattr(base, kwargs) | flags.get(kwargs, {})
            continue
        values = BELONGS[kind] | values
    settings = replace(base, **values)
    data = Path(settings.data)
    if settings.data not in KNOWN and data.exists():
        return replace(settings, data=str(data.resolve()))  # so that it is found from anywhere
    return settings
