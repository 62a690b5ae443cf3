"""The command line: one file a verb, whose docstring is its help. Its ``add_arguments(parser)``
declares the options, and ``run(arguments)`` does the work and returns the exit status; modules here
import the standard library alone until it runs.
"""

import argparse
import importlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from minicnn import __version__
from minicnn.cli.common import INTERRUPTED
from minicnn.cli.settings import OPTION_OF, as_options
from minicnn.errors import MinicnnError, SettingError, UsageError

VERBS = (
    "train",
    "evaluate",
    "predict",
    "summary",
    "gradcheck",
    "landscape",
    "lr-find",
    "compare",
    "data",
    "plugins",
    "devices",
    "selftest",
)


class _Notes(logging.Handler):
    """Prints on stderr, a line each, what was made of the data."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"minicnn: {as_options(record.getMessage())}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage like every other error: in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `verb` is the module of the verb."""
    parser = _Parser(
        prog="minicnn",
        description="Trains and uses small convolutional networks.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"minicnn {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name in VERBS:
        module = importlib.import_module(f"minicnn.cli.{name.replace('-', '_')}")
        text = (module.__doc__ or "").strip()
        verb = verbs.add_parser(
            name, help=text.splitlines()[0], description=text, allow_abbrev=False
        )
        verb.add_argument(
            "--traceback", action="store_true", help="show where in the code an error comes from"
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's) and return the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.getLogger("minicnn").handlers = [_Notes()]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = make_parser().parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read stdout has seen enough
        _flush()
        return 1
    except KeyboardInterrupt:
        print("minicnn: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if "--traceback" in argv:
            traceback.print_exc()
        print(f"minicnn: error: {_explain(error)}", file=sys.stderr)
        _flush()
        return error.exit_status if isinstance(error, MinicnnError) else 1
    return status


def _explain(error: Exception) -> str:
    """One line about ``error``; the name of a setting at its start becomes the option that the user
    knows."""
    text = " ".join(str(error).split())
    if not isinstance(error, MinicnnError):
        return f"{type(error).__name__}: {text or 'no text'} (--traceback shows where)"
    text = as_options(text)
    if isinstance(error, SettingError):
        text = re.sub(
            r"^(\w+)(?= (?:must|is|'|\d))", lambda name: OPTION_OF.get(name[0], name[0]), text
        )
    return text


def _flush() -> None:
    """Write out what stdout holds back; if that fails, drop it, or Python would try again at the
    end and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
