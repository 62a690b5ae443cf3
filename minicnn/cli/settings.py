"""The options of a training run, and the settings that they, a file or a stored run amount to."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.cli.common import at_least_one
from minicnn.errors import SettingError, UsageError
from minicnn.training.settings import Settings, check_names, read_settings

if TYPE_CHECKING:
    from minicnn.data import Dataset


def size(text: str) -> list[int]:
    """``32x48`` as [32, 48], and ``32`` as [32, 32]."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH, such as 32x32, not {text!r}")
    return [int(sides[0]), int(sides[-1])]


def _how(kind: Any, metavar: str) -> dict[str, Any]:
    if kind is bool:
        return {"action": "store_true", "default": None}
    return {"type": kind, "metavar": metavar}


# field of Settings: (option strings, type, metavar, help)
OPTIONS: dict[str, tuple[tuple[str, ...], Any, str, str]] = {
    "data": (
        ("--data",),
        str,
        "NAME|PATH",
        f"data set (default: {Settings.data}; see minicnn data list)",
    ),
    "data_max": (
        ("--data-max",),
        float,
        "X",
        "image value that is scaled to 1 (default: 255 for bytes, 1 for floats)",
    ),
    "data_gb": (
        ("--data-gb",),
        float,
        "X",
        f"what packed arrays may take in memory, in GB (default: {Settings.data_gb:g})",
    ),
    "channels": (
        ("--channels",),
        str,
        "first|last",
        f"axis of the channels in arrays (default: {Settings.channels})",
    ),
    "resize": (("--resize",), size, "HxW", "size that images are brought to (default: their own)"),
    "grayscale": (("--grayscale",), bool, "", "turn colours to grey"),
    "rgb": (("--rgb",), bool, "", "give grey images three channels"),
    "init": (
        ("--init",),
        str,
        "MODEL",
        "model file or run folder whose weights, classes and scale training goes on from",
    ),
    "model": (
        ("--model",),
        str,
        "NAME|FILE.toml",
        f"a preset such as lenet5, or a file (default: {Settings.model})",
    ),
    "epochs": (
        ("--epochs",),
        int,
        "N",
        f"epochs in all, those before --resume included (default: {Settings.epochs})",
    ),
    "batch_size": (
        ("-b", "--batch-size"),
        int,
        "N",
        "images a step (default: 64, or all of a smaller set)",
    ),
    "optimizer": (("--opt",), str, "NAME", f"optimizer (default: {Settings.optimizer})"),
    "learning_rate": (("--lr",), float, "X", "learning rate (default: the optimizer's)"),
    "decay": (
        ("--decay",),
        str,
        "all|weights",
        "what weight decay pulls: weights leaves biases, scales and shifts alone "
        f"(default: {Settings.decay})",
    ),
    "loss": (("--loss",), str, "NAME", f"loss (default: {Settings.loss})"),
    "schedule": (("--sched",), str, "NAME", f"schedule (default: {Settings.schedule})"),
    "schedule_of": (
        ("--sched-of",),
        str,
        "NAME",
        f"hyperparameter it multiplies (default: {Settings.schedule_of})",
    ),
    "warmup_epochs": (
        ("--warmup-epochs",),
        float,
        "X",
        "epochs in which the learning rate grows from 0 (default: 0)",
    ),
    "clip_grad": (
        ("--clip-grad",),
        float,
        "X",
        "greatest global L2 norm of the gradient (default: no limit)",
    ),
    "clip_grad_value": (
        ("--clip-grad-value",),
        float,
        "X",
        "greatest gradient of a weight (default: no limit)",
    ),
    "seed": (
        ("--seed",),
        int,
        "N",
        f"seed of first weights, order and validation split (default: {Settings.seed})",
    ),
    "threads": (("--threads",), int, "N", "threads to compute with (default: all cores)"),
    "device": (("--device",), str, "cpu|cuda", f"where to compute (default: {Settings.device})"),
    "val_split": (
        ("--val-split",),
        float,
        "X",
        f"share of the images that validates (default: {Settings.val_split})",
    ),
    "patience": (
        ("--patience",),
        int,
        "N",
        "stop after N epochs without a better loss (default: never)",
    ),
    "min_delta": (
        ("--min-delta",),
        float,
        "X",
        "what --patience takes for better: a loss lower by X (default: 0)",
    ),
    "tol": (
        ("--tol",),
        float,
        "X",
        "stop when the training loss changes by less in an epoch (default: never)",
    ),
    "limit": (
        ("--limit",),
        int,
        "N",
        "use N training images alone, of every class its share (default: all)",
    ),
}
KWARGS = {
    "optimizer_kwargs": ("--opt-kwargs", "hyperparameters of the optimizer (default: its own)"),
    "loss_kwargs": (
        "--loss-kwargs",
        "hyperparameters of the loss; class_weights=balanced or 1,2,3 (default: its own)",
    ),
    "schedule_kwargs": ("--sched-kwargs", "hyperparameters of the schedule (default: its own)"),
}
_RECORD = (
    "keep the way of the weights, the norms of gradients and updates and the activations of the layers, a line an "
    "epoch, or every EVERY batches (default: keep nothing)"
)
DATA_OPTIONS = (
    "data_max",
    "data_gb",
    "channels",
    "resize",
    "grayscale",
    "rgb",
)  # how a data set is read
SHORT = ("momentum", "weight_decay")  # hyperparameters of the optimizer with an option of their own

OPTION_OF = {name: option for name, ((*_, option), *_) in OPTIONS.items()} | {"record": "--record"}


def as_options(text: str) -> str:
    """``text`` with the option in the place of an argument of Python's, such as ``val_split=0.2``."""

    def option(match: re.Match[str]) -> str:
        name = OPTION_OF.get({"maximum": "data_max"}.get(match[1], match[1]))
        return match[0] if name is None else f"{name} {match[2]}".rstrip()

    return re.sub(r"\b(\w+)=([\w.]*)", option, text)


# What a run is: with another value of these, it would not be the same run that goes on.
_FIXED = (
    "data_max",
    "resize",
    "grayscale",
    "rgb",
    "model",
    "init",
    "batch_size",
    "optimizer",
    "seed",
    "val_split",
    "limit",
)


def add_settings(parser: argparse.ArgumentParser, left_out: Sequence[str] = ()) -> None:
    """Add an option for every setting but those ``left_out``; what is not given is None."""
    group = parser.add_argument_group("settings of the run")

    def add(name: str, *strings: str, **how: Any) -> None:
        if name not in left_out:
            group.add_argument(*strings, dest=name, **how)

    parser.set_defaults(**dict.fromkeys(left_out))
    for name, (strings, kind, metavar, text) in OPTIONS.items():
        add(name, *strings, help=text, **_how(kind, metavar))
    for name, (option, text) in KWARGS.items():
        add(name, option, type=key_value, nargs="+", action="extend", metavar="K=V", help=text)
    add("record", "--record", type=at_least_one, nargs="?", const=0, metavar="EVERY", help=_RECORD)
    for name in SHORT:
        add(
            name,
            f"--{name.replace('_', '-')}",
            type=float,
            metavar="X",
            help=f"short for --opt-kwargs {name}=X",
        )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add how a data set is read, by the words of `train`; None is what the model or the default
    says."""
    for name in DATA_OPTIONS:
        (option,), kind, metavar, text = OPTIONS[name]
        parser.add_argument(option, help=text, **_how(kind, metavar))


def data_settings(arguments: argparse.Namespace, base: Settings) -> Settings:
    """``base`` with those of `add_data_options` that are given."""
    given = {
        name: getattr(arguments, name)
        for name in DATA_OPTIONS
        if getattr(arguments, name) is not None
    }
    return replace(base, **given)


def load_data(settings: Settings) -> "Dataset":
    """The data set that the settings mean."""
    from minicnn.data import load_dataset
    from minicnn.plugins import find

    return load_dataset(settings.data, loss=find("loss", settings.loss), **read_options(settings))


def read_options(settings: Settings) -> dict[str, Any]:
    """How the settings say that a data set is read."""
    names = {name: name for name in ("seed", *DATA_OPTIONS)} | {"data_max": "maximum"}
    return {option: getattr(settings, name) for name, option in names.items()}


def key_value(text: str) -> tuple[str, Any]:
    """``k=v`` as (k, v); v is a number, numbers with commas between them, or the word balanced."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"must look like name=value, not {text!r}")
    if value == "balanced":
        return key, value
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{key} must be a number, not {value!r}") from None
    return key, numbers if "," in value else numbers[0]


def new_settings(arguments: argparse.Namespace) -> Settings:
    """The settings of a new run: flags win over the file of ``--config``, which wins over the
    defaults."""
    base, flags = Settings(), _flags(arguments)
    if arguments.config:
        values = read_settings(Path(arguments.config))
        if "epochs" in flags:
            values.pop("horizon", None)  # it was that of the file's epochs
        try:
            base = Settings(**values)
        except SettingError as error:
            raise SettingError(f"{arguments.config}: {error}") from None
    return _override(base, flags)


def resumed_settings(
    arguments: argparse.Namespace, values: Mapping[str, Any], epochs_done: int
) -> Settings:
    """The stored settings with the flags that are given; `UsageError` for a flag that would make it
    another run."""
    check_names(values, "stored setting")
    stored, flags = Settings(**values), _flags(arguments)
    for name in _FIXED:
        if name in flags and not _same(name, flags[name], getattr(stored, name)):
            raise UsageError(
                f"{OPTION_OF[name]} cannot change when a run is resumed: it is {getattr(stored, name)}"
            )
    settings = _override(stored, flags)
    if settings.epochs < epochs_done:
        raise UsageError(
            f"--epochs {settings.epochs} is below the {epochs_done} epochs that are done"
        )
    return settings


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given on the command line, as fields of `Settings`."""
    flags = {
        name: getattr(arguments, name)
        for name in (*OPTIONS, "record")
        if getattr(arguments, name) is not None
    }
    for name, (option, _) in KWARGS.items():
        pairs = getattr(arguments, name) or []
        flags[name] = dict(pairs)
        if len(flags[name]) < len(pairs):
            raise UsageError(f"{option} has the same name twice")
    for name in SHORT:
        if getattr(arguments, name) is not None:
            if name in flags["optimizer_kwargs"]:
                raise UsageError(f"--{name.replace('_', '-')} and --opt-kwargs {name} are the same")
            flags["optimizer_kwargs"][name] = getattr(arguments, name)
    return flags


def _same(setting: str, one: Any, other: Any) -> bool:
    """Whether two values mean the same; in the name of a rule ``-`` and ``_`` do."""
    if setting in ("optimizer", "loss", "schedule"):
        return bool(one.replace("-", "_") == other.replace("-", "_"))
    return bool(one == other)


def _override(base: Settings, flags: Mapping[str, Any]) -> Settings:
    """``base`` with ``flags``, without the hyperparameters of an optimizer, loss or schedule that
    is no longer used."""
    values = dict(flags)
    for kind in ("optimizer", "loss", "schedule"):
        same = _same(kind, flags.get(kind, getattr(base, kind)), getattr(base, kind))
        values[f"{kind}_kwargs"] = (getattr(base, f"{kind}_kwargs") if same else {}) | flags[
            f"{kind}_kwargs"
        ]
        if kind == "schedule" and not same:
            values["horizon"] = None
    from minicnn.data.known import KNOWN

    settings = replace(base, **values)
    if (
        settings.data not in KNOWN and Path(settings.data).exists()
    ):  # so that evaluate and --resume find it from anywhere
        return replace(settings, data=str(Path(settings.data).resolve()))
    return settings
