"""What several verbs share: common options, JSON on stdout, warnings on stderr."""

import argparse
import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.errors import PluginError, UsageError, literal
from minicnn.kinds import DURATION, Kind
from minicnn.training.recipes import recipes
from minicnn.training.settings import seconds

if TYPE_CHECKING:
    from minicnn.data import Dataset
    from minicnn.evaluation.metrics import Evaluation
    from minicnn.evaluation.profile import Profile
    from minicnn.inference import Model
    from minicnn.network.network import Network
    from minicnn.report.plots import Figure
    from minicnn.training.settings import Settings

Tables = dict[str, tuple[Sequence[str], Iterable[Sequence[object]]]]  # name: (columns, rows)
Pictures = dict[str, Callable[[], "Figure"]]  # name: what draws it
INTERRUPTED = 128 + signal.SIGINT  # the exit status after Ctrl-C


def add_flag(parser: argparse._ActionsContainer, option: str, text: str) -> None:
    """Add an option without a value."""
    parser.add_argument(option, action="store_true", help=text)


def add_model(parser: argparse._ActionsContainer) -> None:
    """Add ``MODEL``, a trained one."""
    parser.add_argument("model", metavar="MODEL", help="model file, or run folder")


def add_trained(parser: argparse._ActionsContainer) -> None:
    """Add ``MODEL`` for a verb that also takes ``--model``."""
    text = "model file, or run folder (default: see --model)"
    parser.add_argument("trained", metavar="MODEL", nargs="?", help=text)


def add_json(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--json``, which prints ``what`` as one object."""
    add_flag(parser, "--json", f"print {what} as one JSON object on stdout")


def add_number(
    parser: argparse._ActionsContainer,
    option: str,
    kind: Kind,
    default: float | None,
    text: str,
) -> None:
    """Add an option for a number of that kind; where its default is None, ``text`` says what that
    means."""
    text = text if default is None else f"{text} (default: {default:g})"
    read = value_of(kind)
    parser.add_argument(option, type=read, default=default, metavar=kind.metavar, help=text)


def add_output(parser: argparse._ActionsContainer, text: str, metavar: str = "DIR") -> None:
    """Add ``--output``."""
    parser.add_argument("--output", type=path, metavar=metavar, help=text)


def add_tta(parser: argparse._ActionsContainer) -> None:
    """Add ``--tta``, of `minicnn.data.tta`; alone it means auto."""
    parser.add_argument(
        "--tta",
        nargs="?",
        const="auto",
        choices=("auto", "flip", "shift", "both"),
        help="average over views of each image: its mirror image, it moved by a pixel, both, or, if "
        "no word is given, both where training mirrored images, and else shift (default: the image alone)",
    )


def add_profile(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--profile``."""
    add_flag(parser, "--profile", f"{what} goes, on one thread; nothing is written")


def show_profile(found: "Profile", as_json: bool) -> None:
    """Print where the time went: a row for each pass of each operation."""
    if as_json:
        print_json(asdict(found))
        return
    from minicnn.report.tables import profile_table

    profile_table(found)


def add_config(parser: argparse._ActionsContainer) -> None:
    """Add ``--recipe`` and ``--config``."""
    names = ", ".join(recipes())
    text = f"a network and how it is trained: {names} (default: default, unless --model, --init or --config is given)"
    parser.add_argument("--recipe", metavar="NAME", help=text)
    text = "settings, such as a run's config.toml; they win over a recipe, and flags over both"
    parser.add_argument("--config", type=path, metavar="FILE.toml", help=text)


def add_plugins(parser: argparse._ActionsContainer) -> None:
    """Add the options that say which plugins there are."""
    parser.add_argument(
        "--plugin",
        type=path,
        metavar="FILE.py",
        action="append",
        default=[],
        help="also take the rules of this file, which is not packaged yet; may be repeated",
    )
    add_flag(
        parser,
        "--strict-plugins",
        "any broken plugin is an error (default: only one that is asked for)",
    )


def use_plugins(arguments: argparse.Namespace) -> None:
    """Take in the files of ``--plugin``; with ``--strict-plugins`` raise `PluginError` for any
    plugin that is broken."""
    from minicnn import plugins

    plugins.use_files(arguments.plugin)
    if arguments.strict_plugins:
        entries = plugins.entries()
        for entry in entries:
            state = entry.state(entries)
            if state not in ("ok", "off"):
                raise PluginError(f"--strict-plugins: {state}")


def is_alone(instead: str) -> bool:
    """Whether this is the only process; for all that ``mpirun`` started rank 0 raises `UsageError`,
    which says what to do ``instead``."""
    from minicnn.training.watch import launched

    rank, size = launched()
    if size > 1 and rank == 0:
        raise UsageError(
            f"{size} processes were started that would write the same files: {instead}"
        )
    return size == 1


def warn_of_plugins() -> None:
    """Print a warning for each name that is offered twice and each entry point of an unknown kind,
    without importing any plugin."""
    from minicnn import plugins

    entries = plugins.entries()
    for problem in dict.fromkeys(entry.conflict(entries) for entry in entries):
        if problem is not None:
            warn(problem)


def value_of(kind: Kind) -> Callable[[str], Any]:
    """A function that reads a value of ``kind`` for argparse."""

    def read(text: str) -> Any:
        try:
            value = seconds(text) if kind is DURATION else kind.type(text)
        except ValueError:
            value = None
        if not kind.admits(value):
            raise argparse.ArgumentTypeError(f"must be {kind.words}, not {text!r}")
        return value

    return read


def path(text: str) -> Path:
    """A path for argparse; the shell leaves the ``~`` of ``--output=~/run`` alone."""
    return Path(os.path.expanduser(text))


def release_closed_streams() -> None:
    """Flush stdout and stderr. What cannot be written is dropped from then on, so that Python does
    not complain about it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())


def print_json(value: object) -> None:
    """Print ``value`` as one JSON object on stdout."""
    from minicnn.report.jsonl import json_ready

    print(json.dumps(json_ready(value), allow_nan=False))


def warn(text: str) -> None:
    """Print a warning on stderr."""
    tell(f"warning: {text}")


def tell(text: str) -> None:
    """Print a line on stderr, without control characters; broken between words on a terminal."""
    text = literal(f"minicnn: {text}")
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns
        text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)


def folders(model: str, output: Path | None) -> tuple[Path, Path]:
    """(the folder that a model is in, the folder to write to: ``output``, made if it is not there,
    or the same)."""
    from minicnn.storage import make_folder

    place = Path(model) if Path(model).is_dir() else Path(model).parent
    return place, make_folder(output or place)


def write_results(folder: Path, tables: "Tables", pictures: "Pictures") -> list[str]:
    """Write the tables to ``folder`` as CSV, the pictures as PNG and SVG, and make it if it is not
    there; return the files' names.

    Without matplotlib there are no pictures, and a warning.
    """
    from minicnn.report import plots
    from minicnn.storage import make_folder, write_csv

    make_folder(folder)
    for name, (columns, rows) in tables.items():
        write_csv(folder / f"{name}.csv", columns, rows)
    if pictures and not plots.available():
        warn("no pictures are drawn without matplotlib: pip install 'minicnn-numba[plots]'")
        pictures = {}
    drawn = [
        path.name for name, draw in pictures.items() for path in plots.save(draw(), folder / name)
    ]
    return [*(f"{name}.csv" for name in tables), *drawn]


def plain(evaluation: "Evaluation") -> dict[str, Any]:
    """An `Evaluation` as plain data for JSON, with F1 and images per second."""
    return {
        **asdict(evaluation),
        "f1": evaluation.f1,
        "images_per_second": evaluation.images_per_second,
    }


def build_network(name: str, input_shape: tuple[int, ...], outputs: int) -> "Network":
    """The network that ``--model`` means: a TOML file, or a preset by its name."""
    from minicnn.network.description import network_from_toml
    from minicnn.network.presets import preset

    file = path(name)
    if file.suffix == ".toml" or file.is_file():
        return network_from_toml(file, input_shape, outputs)
    return preset(name, input_shape, outputs)


def begin(settings: "Settings", dataset: "Dataset") -> "Network | Model":
    """What a run begins with: the trained model of ``--init``, or the network of ``--model``."""
    if settings.init is None:
        return build_network(settings.model, dataset.image_shape, len(dataset.classes))
    from minicnn.model_file import load

    return load(settings.init, settings.threads)


def check_trained(name: str) -> None:
    """Raise `UsageError` if ``name``, given as that of a model file, is what ``--model`` takes."""
    from minicnn.network.presets import PRESETS

    if name.endswith(".toml") or (name in PRESETS and not Path(name).exists()):
        raise UsageError(f"{name} is not a trained model; did you mean --model {name}?")
