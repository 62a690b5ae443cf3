"""NPZ archives with the keys of Keras (x_train, y_train, x_test, ...) or of MedMNIST (train_images,
train_labels, val_images, ...)."""

import math
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from minicnn.data.dataset import Array, Contents
from minicnn.data.reading import (
    ALONE,
    DATA_GB,
    Reader,
    ReadOptions,
    check_unpacked,
    fill,
    reading,
    slices,
)
from minicnn.errors import DataError

_KEYS = {
    kind: ((f"x_{short}", f"y_{short}"), (f"{short}_images", f"{short}_labels"))
    for kind, short in (("train", "train"), ("validation", "val"), ("test", "test"))
}


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays that ``path`` holds."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return list(archive.files)


class _Header(NamedTuple):
    """What an array's own header says, and how many bytes that has."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int

    @property
    def size(self) -> int:
        """The bytes of header and values."""
        return self.length + math.prod(self.shape) * self.dtype.itemsize


def read_arrays(
    path: Path, *wanted: str, data_gb: float = DATA_GB, reader: Reader = ALONE
) -> dict[str, Array]:
    """Read those of the ``wanted`` arrays that ``path`` holds, if they take ``data_gb`` GB at most;
    never unpickles. The ``reader`` reads what has the axes of images."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        every = {info.filename.removesuffix(".npy"): info for info in archive.zip.infolist()}
        members = {key: every[key] for key in wanted if key in every}
        headers = {key: _header(path, archive.zip, member) for key, member in members.items()}
        sizes = (max(members[key].file_size, head.size) for key, head in headers.items())
        check_unpacked(path, sum(sizes), data_gb)
        return {
            key: _read(path, archive.zip, members[key], head, reader)
            if _is_plain(members[key], head)
            else archive[members[key].filename]
            for key, head in headers.items()
        }


def _header(path: Path, archive: ZipFile, member: ZipInfo) -> _Header:
    """The header of an array; raises `DataError` for another member."""
    with archive.open(member) as file:
        if file.read(6) != b"\x93NUMPY":
            raise DataError(f"{path} is damaged: {member.filename} is not an array")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        return _Header(*read(file), file.tell())


def _is_plain(member: ZipInfo, head: _Header) -> bool:
    """Whether it is an array of numbers with the axes of images, image by image."""
    is_whole = member.file_size == head.size and not head.fortran
    return is_whole and len(head.shape) > 2 and head.dtype.kind in "buif" and head.dtype.isnative


def _read(path: Path, archive: ZipFile, member: ZipInfo, head: _Header, reader: Reader) -> Array:
    given = head.shape, head.dtype

    def unpack(array: Array) -> None:
        with archive.open(member) as stream:
            stream.read(head.length)
            fill(path, stream, array)
            stream.read(1)  # the check sum is compared at the end

    if member.compress_type != ZIP_STORED:
        return reader.fill(*given, lambda *_: unpack, split=False)
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        begin = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        file.seek(begin)
        start = file.read(head.length)
    array = reader.fill(*given, slices(path, begin + head.length, *given))
    if zlib.crc32(array.data, zlib.crc32(start)) != member.CRC:
        raise DataError(f"{path} cannot be read: Bad CRC-32 for file {member.filename!r}")
    return array


def load_npz(path: Path, options: ReadOptions) -> Contents:
    """Load the training, the validation and the test images with their labels, as far as they are
    there, and class_names.

    Images are [N, H, W] or [N, H, W, C], labels in any form that `plain_labels` takes, or values.
    """
    every = [key for pairs in _KEYS.values() for pair in pairs for key in pair]
    keys = *every, "class_names"
    arrays = read_arrays(path, *keys, data_gb=options.data_gb, reader=options.reader)
    splits = {
        kind: next((pair for pair in pairs if arrays.keys() & set(pair)), pairs[0])
        for kind, pairs in _KEYS.items()
    }
    has_images = any(images in arrays for images, _ in splits.values())
    for kind, pair in splits.items():
        missing = set(pair) - arrays.keys()
        if len(missing) == 1 or (missing and kind != "validation" and not has_images):
            found = ", ".join(npz_keys(path)) or "nothing"
            raise DataError(f"{path} has no {' and no '.join(sorted(missing))} (found: {found})")
    read = {
        kind: (arrays[images], arrays[labels])
        for kind, (images, labels) in splits.items()
        if images in arrays
    }
    classes = _class_names(path, arrays["class_names"]) if "class_names" in arrays else None
    return Contents(read.get("train"), read.get("test"), classes, read.get("validation"))


def _class_names(path: Path, array: Array) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(
            f"{path}: class_names must be one string a class, not {array.dtype} {list(array.shape)}"
        )
    return tuple(array.tolist())
