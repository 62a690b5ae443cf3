"""Reading files, and one way to report a file that cannot be read, whatever its decoder raised."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.errors import DataError, MinicnnError, SettingError
from minicnn.kinds import FLAG, INDEX, POSITIVE, SIZE, one_of


def note(text: str) -> None:
    """Log one line about how the data were understood: on stderr unless the logger "minicnn" is
    configured."""
    logging.getLogger("minicnn").warning(text)


DATA_GB = 4.0  # what the arrays of a packed file may take, unless the user allows more
_CHUNK = 1 << 20
Job = Callable[[np.ndarray], None]  # fills an array


class Reader:
    """Reads images: by this process alone, or by several, as in `minicnn.training.shared`."""

    def fill(
        self, shape: Sequence[int], dtype: Any, part: Callable[[int, int], Job], split: bool = True
    ) -> np.ndarray:
        """An array [N, ...], filled by jobs: ``part (begin, end)`` is the one that fills the rows
        from ``begin`` to ``end``. With ``split`` there may be several, which can be pickled and
        raise `MinicnnError` alone; else there is one, ``part (0, N)``."""
        array = np.empty(shape, dtype)
        part(0, len(array))(array)
        return array


ALONE = Reader()

_KINDS = {
    "maximum": POSITIVE,
    "seed": INDEX,
    "channels": one_of("first", "last"),
    "data_gb": POSITIVE,
    "resize": SIZE,
    "grayscale": FLAG,
    "rgb": FLAG,
}


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    ``maximum`` declares the value that is scaled to 1, if the dtype does not say it. ``seed``
    chooses the test images of class folders that have none; with ``whole`` all of them are test
    images. Arrays [N, C, H, W] are read with ``channels`` "first"; what is packed may take
    ``data_gb`` GB. Images are brought to the size ``resize`` (height, width), bilinear, and to grey
    or to three channels. The ``reader`` reads them.
    """

    maximum: float | None = None
    seed: int = 0
    channels: str = "last"
    data_gb: float = DATA_GB
    resize: Sequence[int] | None = None
    grayscale: bool = False
    rgb: bool = False
    whole: bool = False
    reader: Reader = ALONE

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not getattr(ReadOptions, name):
                kind.check(name, value)
        if self.grayscale and self.rgb:
            raise SettingError("grayscale= and rgb= exclude each other")

    @property
    def converts(self) -> bool:
        """Whether images are changed in size or colour."""
        return bool(self.resize or self.grayscale or self.rgb)


DEFAULTS = ReadOptions()


def check_unpacked(path: Path, size: float, data_gb: float) -> None:
    """Raise `DataError` if ``size`` bytes, which ``path`` says that it holds, are more than
    ``data_gb`` GB."""
    if size > data_gb * 1e9:
        raise DataError(
            f"{path} would take {size / 1e9:.3g} GB unpacked, above the limit of {data_gb:g} GB; "
            "allow more with data_gb="
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while ``path`` is read into a `DataError` of one line that names it.

    Decoders of foreign bytes (zlib, pickle, Pillow, NumPy's header parser) raise nearly anything,
    so everything is caught: keep the block small.
    """
    try:
        yield
    except MinicnnError:
        raise
    except EOFError as error:
        raise DataError(f"{path} ends early: the file is truncated") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or one_line(error)}") from error
    except Exception as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def fill(path: Path, file: Any, array: np.ndarray) -> None:
    """Read the values of ``array`` from ``file``; raises `DataError` where it ends early."""
    buffer, done = array.reshape(-1).view(np.uint8).data, 0
    while done < len(buffer):
        # GzipFile.readinto makes a copy of what it reads, so it must not read everything at once.
        count = file.readinto(buffer[done : done + _CHUNK])
        if not count:
            raise DataError(
                f"{path} ends early: {done} of the {len(buffer)} bytes of {list(array.shape)} values are there"
            )
        done += count


def fill_from(path: Path, offset: int, array: np.ndarray) -> None:
    """`fill` from the byte ``offset`` of ``path`` on."""
    with reading(path), path.open("rb") as file:
        file.seek(offset)
        fill(path, file, array)


def slices(path: Path, offset: int, shape: Sequence[int], dtype: Any) -> Callable[[int, int], Job]:
    """The jobs that fill an array whose values lie in ``path`` as they are, from the byte
    ``offset`` on. They read and do not map: whoever writes a file anew cuts it off first, and a
    process that reads there in a map is killed."""
    row = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    return lambda begin, end: partial(fill_from, path, offset + begin * row)
