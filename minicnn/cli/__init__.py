"""The command line: one file per verb. Its ``add_arguments(parser)`` declares the options, and
``run(arguments)`` does the work and returns the exit status; modules here import the standard
library alone until it runs.
"""

import argparse
import difflib
import importlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from minicnn import __version__
from minicnn.cli.common import INTERRUPTED, add_flag, release_closed_streams, tell
from minicnn.cli.settings import OPTION_OF, as_options
from minicnn.errors import MinicnnError, SettingError, UnknownNameError, UsageError

VERBS = {
    "train": "train a network, validate each epoch, evaluate at the end, and write a run folder",
    "evaluate": "evaluate a model on labelled images: loss, accuracy, precision and recall, confusion "
    "matrix, images per second",
    "predict": "predict the classes of images: image files, folders of them, NPY, NPZ and IDX files",
    "export": "write a model for other programs: as ONNX, as Python with NumPy alone, or as C",
    "import": "make a model of an ONNX file, or of the weights that PyTorch saved",
    "summary": "summarize a network: layer, output shape, parameters, multiply-adds, bytes",
    "gradcheck": "check the explicit gradients against numeric partial derivatives, tensor by tensor, or "
    "walk one back through the layers",
    "landscape": "see the loss around a model's weights: the surface over two directions and the "
    "trajectories down, or a slice along one",
    "lr-find": "find a learning rate: train while it grows, and look where the loss falls and where it "
    "rises again",
    "search": "search for good settings: many trainings, chosen and pruned by Optuna, that can be resumed",
    "compare": "compare runs, or optimizers that are trained here from one start: curves on one picture, "
    "and a table",
    "data": "list the data sets that have a name, say what one holds, and download them",
    "plugins": "list the optimizers, losses, schedules and layers there are, describe one, check one, and "
    "start a new one",
    "warmup": "compile ahead what a network needs, as for a container: the options are those of train",
    "devices": "list the devices that minicnn can compute on, and why one cannot be used",
    "selftest": "check every kernel of a device against the CPU, train with it, time it, and write a "
    "report to send back",
}


class _Notes(logging.Handler):
    """Prints notes about the data on stderr, one per line."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(as_options(record.getMessage()))


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviations, and reports wrong usage like every other error: in one line."""

    def __init__(self, **how: Any):
        super().__init__(**how, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (?:\S+/)?(\S+): must", r"\1 must", message)
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            own = self._option_string_actions
            known = {option.lstrip("-"): option for option in own}
            other = {name.replace("_", "-"): option for name, option in OPTION_OF.items()}
            known |= {name: option for name, option in other.items() if option in own}
            is_option = name.startswith("-")
            near = difflib.get_close_matches(name.lstrip("-"), known, n=1) if is_option else []
            self.error(
                f"unknown option {name}; did you mean {known[near[0]]}?"
                if near
                else f"unrecognized arguments: {' '.join(unknown)}"
            )
        return namespace, unknown


def make_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the whole command line, with the options of the verb in ``argv`` alone."""
    parser = _Parser(prog="minicnn", description="Trains and uses small convolutional networks.")
    parser.add_argument("--version", action="version", version=f"minicnn {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), "")
    if chosen and chosen not in VERBS:
        raise UnknownNameError("verb", chosen, VERBS, "see minicnn --help")
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        if name == chosen:
            module = importlib.import_module(f"minicnn.cli.{name.replace('-', '_')}")
            add_flag(verb, "--traceback", "show where in the code an error comes from")
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's) and return the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.getLogger("minicnn").handlers = [_Notes()]
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        parser = make_parser(argv)
        if not argv:
            parser.print_help(sys.stderr)
            return UsageError.exit_status
        arguments = parser.parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read stdout has seen enough
        release_closed_streams()
        return 1
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED
    except Exception as error:
        if "--traceback" in argv:
            traceback.print_exc()
        if not _is_silent(argv):
            tell(f"error: {_explain(error)}")
        release_closed_streams()
        return error.exit_status if isinstance(error, MinicnnError) else 1
    return status


def _is_silent(argv: Sequence[str]) -> bool:
    """Whether this rank leaves it to rank 0 to report errors."""
    from minicnn.training.watch import launched

    return "--distributed" in argv and launched()[0] > 0


def _explain(error: Exception) -> str:
    """One line about ``error``; the name of a setting at its start becomes the option that the user
    knows."""
    text = " ".join(str(error).split())
    if not isinstance(error, MinicnnError):
        return f"{type(error).__name__}: {text or 'no text'} (--traceback shows where)"
    text = as_options(text)
    if isinstance(error, SettingError):
        text = re.sub(
            r"^(\w+)(?= (?:must|cannot|is|'|\d))",
            lambda name: OPTION_OF.get(name[0], name[0]),
            text,
        )
    return text
