"""NPZ archives with the keys of Keras (x_train, y_train, x_test, ...) or of MedMNIST (train_images,
train_labels, val_images, ...)."""

import math
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import numpy as np

from minicnn.data.dataset import Array, Contents
from minicnn.data.reading import DATA_GB, check_unpacked, reading
from minicnn.errors import DataError

_KEYS = {
    kind: ((f"x_{short}", f"y_{short}"), (f"{short}_images", f"{short}_labels"))
    for kind, short in (("train", "train"), ("validation", "val"), ("test", "test"))
}


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
    """Load the training, the validation and the test images with their labels, as far as they are
    there, and class_names.

    Images are [N, H, W] or [N, H, W, C], labels in any form that `plain_labels` takes, or values.
    """
    every = [key for pairs in _KEYS.values() for pair in pairs for key in pair]
    arrays = read_arrays(path, *every, "class_names", data_gb=data_gb)
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
