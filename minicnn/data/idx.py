"""IDX, the format of MNIST: two zero bytes, a type, the number of axes, the axes as big-endian
uint32, the values.

Source: the description at the foot of yann.lecun.com/exdb/mnist.
"""

import gzip
import math
import os
import re
import struct
from functools import partial
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from minicnn.data.dataset import Array, Arrays, Contents
from minicnn.data.reading import (
    ALONE,
    DATA_GB,
    Reader,
    ReadOptions,
    check_unpacked,
    fill,
    note,
    reading,
    slices,
)
from minicnn.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
_DEFLATE_LIMIT = 1032  # zlib's technical notes: no stream of its grows by more when unpacked


def read_idx(path: str | Path, data_gb: float = DATA_GB, reader: Reader = ALONE) -> Array:
    """Read an IDX file, packed by gzip or not (its first bytes tell, not its name), in native byte
    order.

    The ``reader`` reads the values straight into the array that is returned; images of a file with
    EMNIST's name (`is_emnist`) are set upright. Raises `DataError`, naming the file, for a wrong
    magic number, a file that ends early, bytes that are left over, or a packed one of more than
    ``data_gb`` GB.
    """
    path = Path(path)
    with reading(path), path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if packed:
            return _read(path, gzip.open(file), size * _DEFLATE_LIMIT, data_gb, reader)
        return _read(path, file, size, None, reader)


def is_emnist(path: Path) -> bool:
    """Whether the file has the name of EMNIST's images, which are stored transposed."""
    return re.match(r"emnist-\w+-\w+-images-idx[34]", path.name) is not None


def say_upright(path: Path) -> None:
    """Report in one line that EMNIST's images are transposed."""
    note(f"{path}: EMNIST's images, which its files hold transposed, are set upright")


def _read(
    path: Path, stream: BufferedIOBase, limit: int, data_gb: float | None, reader: Reader
) -> Array:
    """The array in ``stream``, of ``limit`` bytes at most: the file itself, where ``data_gb`` is
    None."""
    magic = _read_exactly(path, stream, 4)
    if magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise DataError(f"{path} is not an IDX file: it starts with {magic.hex(' ')}")
    dtype = np.dtype(_DTYPES[magic[2]])
    shape = struct.unpack(f">{magic[3]}I", _read_exactly(path, stream, 4 * magic[3]))
    if math.prod(shape) * dtype.itemsize > limit:  # before any memory is asked for
        raise DataError(f"{path} ends early: its header promises {list(shape)} values")
    if data_gb is None:
        begin = stream.tell()
        array = reader.fill(shape, dtype, slices(path, begin, shape, dtype))
        stream.seek(begin + array.nbytes)
    else:
        check_unpacked(path, math.prod(shape) * dtype.itemsize, data_gb)
        array = reader.fill(shape, dtype, lambda *_: partial(fill, path, stream), split=False)
    if stream.read(1):
        raise DataError(f"{path} goes on after the {list(shape)} values that its header promises")
    if dtype.itemsize > 1 and np.little_endian:
        array.byteswap(inplace=True)
    return np.ascontiguousarray(array.swapaxes(1, 2)) if is_emnist(path) else array


def _read_exactly(path: Path, stream: BufferedIOBase, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise DataError(f"{path} ends early: it has no whole IDX header")
    return data


def is_idx_folder(folder: Path) -> bool:
    """Whether ``folder`` holds training or test images in IDX."""
    return bool(_find(folder, "train|t10k|test", "images"))


def load_idx_folder(folder: Path, options: ReadOptions) -> Contents:
    """Load ``train-images-idx3-ubyte`` and its three companions (or ``train-images.idx3-ubyte``;
    with ``.gz`` or not).

    EMNIST's names begin with that of one of its sets, ``emnist-letters-train-...``; a folder must
    hold one of them alone. Its images lie on their side in the files and are set upright, which is
    said. Images are grey [N, H, W] or have channels [N, H, W, C]. The test files
    (``t10k-…`` or ``test-…``) may be missing, or the training files.
    """
    sets = sorted({name for name, _ in _find(folder, "train|t10k|test", "images")})
    if len(sets) > 1:
        names = ", ".join(name.rstrip("-") or "one without a name" for name in sets)
        raise DataError(f"{folder} holds several sets ({names}): put one in a folder of its own")
    if sets and sets[0]:
        say_upright(folder)
    return Contents(
        _load_split(folder, "train", options), _load_split(folder, "t10k|test", options)
    )


def _load_split(folder: Path, prefix: str, options: ReadOptions) -> Arrays | None:
    images, labels = (_find(folder, prefix, kind) for kind in ("images", "labels"))
    if not images:
        return None
    if not labels:
        name = f"{images[0][0]}{prefix[:5].strip('|')}-labels-idx1-ubyte"
        raise DataError(f"{images[0][1]} has no companion with the labels, such as {name}")
    limit = options.data_gb
    return read_idx(images[0][1], limit, options.reader), read_idx(labels[0][1], limit)


def _find(folder: Path, prefix: str, kind: str) -> list[tuple[str, Path]]:
    """(name of EMNIST's set or "", path) of each file; a plain file comes before its packed
    twin."""
    pattern = re.compile(rf"(emnist-\w+-|)({prefix})-{kind}[-.]idx\d-\w+(\.gz)?")
    with reading(folder):
        files = [(pattern.fullmatch(path.name), path) for path in sorted(folder.iterdir())]
    return [(match[1], path) for match, path in files if match]
