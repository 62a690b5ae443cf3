"""Reads the pickles of CIFAR-10 without running what they ask for.

A pickle names the functions that build its objects, and loading it calls them. Here every name that
these files need stands for a harmless function of this module, and every other name is refused: not
even NumPy is called by the file. The opcodes are looked at first: those that make plain values and
arrays, and not so many that values nest beyond what C's stack holds.
"""

import io
import pickle
import pickletools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.data.dataset import Array
from minicnn.data.reading import reading
from minicnn.errors import DataError

_MOST_OPCODES = 200_000  # a batch has 10,000 labels and 10,000 names, each with a few
_MOST_NESTING = (
    25_000  # opcodes that put values into another one; bytes that Python 2 can read take one each
)
_CONTAINERS = "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE LIST EMPTY_LIST DICT EMPTY_DICT"
_OTHERS = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "
    "LONG1 STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE BINUNICODE8 SHORT_BINUNICODE "
    "BINBYTES BINBYTES8 SHORT_BINBYTES BYTEARRAY8 APPEND APPENDS SETITEM SETITEMS PUT BINPUT "
    "LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD"
)
_NESTING = set(_CONTAINERS.split())
_OPCODES = _NESTING.union(_OTHERS.split())


class _Dtype:
    """Stands for numpy.dtype; remembers the type's code."""

    __slots__ = ("code",)

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which mean nothing for single bytes."""


class _Array:
    """Stands for numpy.ndarray; remembers what makes it up."""

    __slots__ = ("content", "dtype", "fortran", "shape")

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def to_numpy(self) -> Array:
        if self.dtype.code != "u1":
            raise ValueError(f"an array of type {self.dtype.code!r} instead of uint8")
        return np.frombuffer(self.content, np.uint8).reshape(
            self.shape, order="F" if self.fortran else "C"
        )


class _Function:
    """A function that a pickle may call; unlike a Python function it has no attributes that the
    pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("it sets attributes of a function")


def _from_buffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


_ADMITTED = {
    "numpy ndarray": _Array,
    "numpy dtype": _Dtype,
    "numpy.core.multiarray _reconstruct": _Function(lambda *_: _Array()),  # NumPy 1
    "numpy._core.multiarray _reconstruct": _Function(lambda *_: _Array()),  # NumPy 2
    "numpy.core.numeric _frombuffer": _Function(_from_buffer),  # pickle protocol 5
    "numpy._core.numeric _frombuffer": _Function(_from_buffer),
    "_codecs encode": _Function(
        lambda text, _: text.encode("latin-1")
    ),  # how Python 3 writes bytes that Python 2 can read
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, where: Path, content: bytes) -> None:
        super().__init__(
            io.BytesIO(content), encoding="bytes"
        )  # Python 2 wrote the values as its str
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[f"{module} {name}"]
        except KeyError:
            raise DataError(
                f"{self.where} is refused: its pickle asks for {module}.{name}, not only data"
            ) from None


def unpickle(where: Path, content: bytes) -> dict[str, object]:
    """Return the dict that a batch holds, its keys as str and its arrays as uint8 arrays.

    Raises `DataError`, naming ``where``, for a pickle that asks for anything but plain values and
    arrays.
    """
    with reading(where):
        counts, largest = Counter[str](), 0
        for opcode, argument, _ in pickletools.genops(content):
            counts[opcode.name] += 1
            if opcode.name.endswith("PUT") and isinstance(
                argument, int
            ):  # the place in a table, which would grow to it
                largest = max(largest, argument)
        strange = counts.keys() - _OPCODES
        if strange:
            raise DataError(
                f"{where} is refused: its pickle does {', '.join(sorted(strange))}, not only data"
            )
        nesting = sum(counts[name] for name in _NESTING)
        if max(counts.total(), largest) > _MOST_OPCODES or nesting > _MOST_NESTING:
            raise DataError(f"{where} is refused: its pickle has more steps than a batch needs")
        batch = _Unpickler(where, content).load()
        if not isinstance(batch, dict):
            raise DataError(
                f"{where} is not a CIFAR-10 batch: it holds a {type(batch).__name__}, not a dict"
            )
        plain = {
            key.decode() if isinstance(key, bytes) else str(key): value
            for key, value in batch.items()
        }
        return {
            key: value.to_numpy() if isinstance(value, _Array) else value
            for key, value in plain.items()
        }
