"""What several verbs share: options of the same words, JSON on stdout, warnings on stderr."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.errors import MinicnnError, PluginError

if TYPE_CHECKING:
    from minicnn.network.network import Network
    from minicnn.report.plots import Figure
    from minicnn.training.events import Evaluation

Tables = dict[str, tuple[Sequence[str], Iterable[Sequence[object]]]]  # name: (columns, rows)
Pictures = dict[str, Callable[[], "Figure"]]  # name: what draws it
INTERRUPTED = 128 + signal.SIGINT  # the exit status after Ctrl-C


def add_json(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--json``, which prints ``what`` as one object."""
    parser.add_argument(
        "--json", action="store_true", help=f"print {what} as one JSON object on stdout"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|cuda", help="where to compute (default: cpu)"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads`` for inference."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads to compute with (default: all cores)"
    )


def add_plugins(parser: argparse._ActionsContainer) -> None:
    """Add the options that say which plugins there are."""
    parser.add_argument(
        "--plugin",
        metavar="FILE.py",
        action="append",
        default=[],
        help="also take the rules of this file, which is not packaged yet; may be repeated",
    )
    parser.add_argument(
        "--strict-plugins",
        action="store_true",
        help="any broken plugin is an error (default: only one that is asked for)",
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


def warn_of_plugins() -> None:
    """Print a line for each name that is offered twice and each entry point of no kind; nothing is
    imported to know."""
    from minicnn import plugins

    entries = plugins.entries()
    for problem in dict.fromkeys(entry.conflict(entries) for entry in entries):
        if problem is not None:
            warn(problem)


def at_least_one(text: str) -> int:
    """A whole number from 1 on, as argparse wants it."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return number


def print_json(value: object) -> None:
    """Print ``value`` as one JSON object on stdout."""
    from minicnn.report.jsonl import json_ready

    print(json.dumps(json_ready(value), allow_nan=False))


def warn(text: str) -> None:
    """Print a warning, one line, on stderr."""
    print(f"minicnn: warning: {text}", file=sys.stderr)


def folders(model: str, output: Path | None) -> tuple[Path, Path]:
    """(the folder that a model is in, the folder to write to: ``output``, made if it is not there,
    or the same)."""
    place = Path(model) if Path(model).is_dir() else Path(model).parent
    return place, make_folder(output or place)


def make_folder(folder: Path) -> Path:
    """Make ``folder`` if it is not there; raises `MinicnnError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MinicnnError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder


def write_results(folder: Path, tables: "Tables", pictures: "Pictures") -> list[str]:
    """Write the tables to ``folder`` as CSV, the pictures as PNG and SVG; return the files' names.

    Without matplotlib there are no pictures, and a warning.
    """
    from minicnn.report import plots
    from minicnn.storage import write_csv

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
    """An `Evaluation` as JSON has it, F1 and images a second included."""
    return {
        **asdict(evaluation),
        "f1": evaluation.f1,
        "images_per_second": evaluation.images_per_second,
    }


def build_network(name: str, input_shape: tuple[int, ...], outputs: int) -> "Network":
    """The network that ``--model`` means: a TOML file, or a preset by its name."""
    from minicnn.network.description import network_from_toml
    from minicnn.network.presets import preset

    if name.endswith(".toml") or Path(name).is_file():
        return network_from_toml(name, input_shape, outputs)
    return preset(name, input_shape, outputs)
