"""One way to report a file that cannot be read, whatever the decoder beneath raised."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minicnn.errors import DataError, MinicnnError, SettingError


def note(text: str) -> None:
    """Say in a line what was made of the data: on stderr, where nothing else is set up for the
    logger "minicnn"."""
    logging.getLogger("minicnn").warning(text)


DATA_GB = 4.0  # what the arrays of a packed file may take, unless the user allows more


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    ``maximum`` declares the value that is scaled to 1, if the dtype does not say it. ``seed``
    chooses the test images of class folders that have none; with ``whole`` all of them are test
    images. Arrays [N, C, H, W] are read with ``channels`` "first"; what is packed may take
    ``data_gb`` GB. Images are brought to the size ``resize`` (height, width), bilinear, and to grey
    or to three channels.
    """

    maximum: float | None = None
    seed: int = 0
    channels: str = "last"
    data_gb: float = DATA_GB
    resize: tuple[int, int] | None = None
    grayscale: bool = False
    rgb: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if self.channels not in ("first", "last"):
            raise SettingError(f"channels must be first or last, not {self.channels!r}")
        if self.grayscale and self.rgb:
            raise SettingError("grayscale= and rgb= exclude each other")
        if self.resize is not None and (
            not isinstance(self.resize, tuple | list)
            or len(self.resize) != 2
            or not all(int(side) == side > 0 for side in self.resize)
        ):
            raise SettingError(f"resize must be (height, width), not {self.resize!r}")

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
