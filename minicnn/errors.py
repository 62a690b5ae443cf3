"""Every error that minicnn raises on purpose, in one tree.

MinicnnError                 the work failed; its text is one clear line        (exit status 1)
├── UsageError               a wrong option, name or value, before any work     (exit status 2)
│   ├── UnknownNameError     no such optimizer, loss, layer, data set, ...; lists near matches
│   └── SettingError         a value outside what the setting admits
├── DataError                an unreadable, damaged or inconsistent data set
├── NetworkError             layers that do not fit together, or do not fit the data
├── ModelFileError           a damaged, truncated or foreign model or checkpoint
├── PluginError              a plugin that cannot be loaded or hands over something wrong
├── MissingExtraError        an optional dependency is not installed; says which extra to install
├── DeviceError              a device that cannot be used; says what is missing and how to get it
└── DivergedError            the loss or the gradient is no longer finite
"""

import difflib
from collections.abc import Iterable


def literal(text: str) -> str:
    """``text`` on one line, with control characters and undecodable bytes written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(value: object) -> str:
    """``value`` as Python writes it, on one line; of a long text the beginning."""
    return literal(f"{value!r:.40}")


class MinicnnError(Exception):
    """Base of all errors that minicnn raises on purpose. Its text is one line, meant for the
    user."""

    exit_status = 1


class UsageError(MinicnnError):
    """A wrong option, name or value: found before any work was done."""

    exit_status = 2


class SettingError(UsageError, ValueError):
    """A value outside what the setting admits; the text names the setting and what would be
    right."""


class UnknownNameError(UsageError, LookupError):
    """No such name. The text lists near matches, else all known names, and a hint if there is one.

    >>> str(UnknownNameError("optimizer", "adm", ["adam", "sgd"]))
    "unknown optimizer 'adm'; did you mean 'adam'? (known: adam, sgd)"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = ""):
        known = sorted(known)
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        guess = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ";"
        listing = (
            f" (known: {', '.join(known)})" if near else f" known: {', '.join(known) or 'none'}"
        )
        super().__init__(f"unknown {kind} {name!r}{guess}{listing}{'; ' + hint if hint else ''}")


def check_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UnknownNameError` for the first of ``names`` that is not among ``known``."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)


class DataError(MinicnnError, ValueError):
    """A data set that cannot be read or contradicts itself; the text names the file."""


class NetworkError(MinicnnError, ValueError):
    """Layers that do not fit together or do not fit the data; the text names the layer and its
    input."""


class ModelFileError(MinicnnError):
    """A model or checkpoint file that is damaged, truncated, or not minicnn's; the text names the
    file."""


class PluginError(MinicnnError):
    """A plugin that cannot be loaded or hands over something wrong; the text names the
    distribution."""


class MissingExtraError(MinicnnError, ImportError):
    """An optional dependency is missing; the text says which extra to install."""

    def __init__(self, purpose: str, package: str, extra: str):
        super().__init__(f"{purpose} needs {package}: pip install 'minicnn-numba[{extra}]'")


class DeviceError(MinicnnError):
    """A device that cannot be used; the text says what is missing and how to get it."""


class DivergedError(MinicnnError, ArithmeticError):
    """The loss or the gradient is not a finite number any more; the text says what to try."""
