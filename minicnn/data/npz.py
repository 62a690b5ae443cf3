"""NPZ archives with the keys that Keras uses: x_train, y_train, x_test, y_test."""

import math
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import numpy as np

from minicnn.data.dataset import Array, Contents
from minicnn.data.reading import DATA_GB, check_unpacked, reading
from minicnn.errors import DataError

ZIP_MAGIC = b"PK\x03\x04"


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays that ``path`` holds."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return list(archive.files)


def read_arrays(path: Path, *wanted: str, data_gb: float = DATA_GB) -> dict[str, Array]:
    """Read those of the ``wanted`` arrays that ``path`` holds, if they take ``data_gb`` GB at most;
    never unpickles."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        members = [
            member
            for member in archive.zip.infolist()
            if member.filename.removesuffix(".npy") in wanted
        ]
        check_unpacked(
            path,
            sum(max(member.file_size, _promised(archive.zip, member)) for member in members),
            data_gb,
        )
        arrays = {key: archive[key] for key in wanted if key in archive.files}
    for key, array in arrays.items():
        if not isinstance(
            array, np.ndarray
        ):  # NumPy hands out members that are not arrays as bytes
            raise DataError(f"{path} is damaged: {key} is not an array")
    return arrays


def _promised(archive: ZipFile, member: ZipInfo) -> int:
    """The bytes that the header of an array says, for which NumPy asks before it reads; 0 for
    another member."""
    with archive.open(member) as file:
        if file.read(6) != b"\x93NUMPY":
            return 0
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        return math.prod(shape) * dtype.itemsize


def load_npz(path: Path, data_gb: float = DATA_GB) -> Contents:
    """Load x_train with y_train, x_test with y_test, or both, and class_names if they are there.

    Images are [N, H, W] or [N, H, W, C], labels [N] or [N, 1].
    """
    arrays = read_arrays(
        path, "x_train", "y_train", "x_test", "y_test", "class_names", data_gb=data_gb
    )
    for images, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        missing = {images, labels} - arrays.keys()
        if missing and (len(missing) == 1 or not arrays.keys() & {"x_train", "x_test"}):
            found = ", ".join(npz_keys(path)) or "nothing"
            raise DataError(f"{path} has no {' and no '.join(sorted(missing))} (found: {found})")
    classes = _class_names(path, arrays["class_names"]) if "class_names" in arrays else None
    return Contents(
        (arrays["x_train"], arrays["y_train"]) if "x_train" in arrays else None,
        (arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else None,
        classes,
    )


def _class_names(path: Path, array: Array) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(
            f"{path}: class_names must be one string a class, not {array.dtype} {list(array.shape)}"
        )
    return tuple(array.tolist())
