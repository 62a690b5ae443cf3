"""Reads the pickles of CIFAR-10 without running what they ask for.

A pickle names the functions that build its objects, and loading it calls them. Here every name that these files need
stands for a harmless function of this module, and every other name is refused: not even NumPy is called by the file.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.data.dataset import Array
from minicnn.data.reading import reading
from minicnn.errors import DataError


class _Dtype:
    """Stands for numpy.dtype; remembers the type's code."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which mean nothing for single bytes."""


class _Array:
    """Stands for numpy.ndarray; remembers what makes it up."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def to_numpy(self) -> Array:
        if self.dtype.code != "u1":
            raise ValueError(f"an array of type {self.dtype.code!r} instead of uint8")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape, order="F" if self.fortran else "C")


def _from_buffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


_ADMITTED = {
    "numpy ndarray": _Array,
    "numpy dtype": _Dtype,
    "numpy.core.multiarray _reconstruct": lambda *_: _Array(),  # NumPy 1
    "numpy._core.multiarray _reconstruct": lambda *_: _Array(),  # NumPy 2
    "numpy.core.numeric _frombuffer": _from_buffer,  # pickle protocol 5
    "numpy._core.numeric _frombuffer": _from_buffer,
    "_codecs encode": lambda text, _: text.encode("latin-1"),  # how Python 3 writes bytes that Python 2 can read
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, where: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")  # Python 2 wrote the values as its str
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[f"{module} {name}"]
        except KeyError:
            raise DataError(f"{self.where} is refused: its pickle asks for {module}.{name}, not only data") from None


def unpickle(where: Path, content: bytes) -> dict[str, object]:
    """Return the dict that a batch holds, its keys as str and its arrays as uint8 arrays.

    Raises `DataError`, naming ``where``, for a pickle that asks for anything but plain values and arrays.
    """
    with reading(where):
        batch = _Unpickler(where, content).load()
        if not isinstance(batch, dict):
            raise DataError(f"{where} is no CIFAR-10 batch: it holds a {type(batch).__name__}, not a dict")
        plain = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in batch.items()}
        return {key: value.to_numpy() if isinstance(value, _Array) else value for key, value in plain.items()}
