"""NPZ archives with the keys that Keras uses: x_train, y_train, x_test, y_test."""

from pathlib import Path

import numpy as np

from minicnn.data.dataset import Array, Contents
from minicnn.data.reading import reading
from minicnn.errors import DataError

ZIP_MAGIC = b"PK\x03\x04"


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays that ``path`` holds."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return list(archive.files)


def read_arrays(path: Path, *wanted: str) -> dict[str, Array]:
    """Read those of the ``wanted`` arrays that ``path`` holds; never unpickles."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in wanted if key in archive.files}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy hands out members that are not arrays as bytes
            raise DataError(f"{path} is damaged: {key} is not an array")
    return arrays


def load_npz(path: Path) -> Contents:
    """Load x_train with y_train, x_test with y_test, or both, and class_names if they are there.

    Images are [N, H, W] or [N, H, W, C], labels [N] or [N, 1].
    """
    arrays = read_arrays(path, "x_train", "y_train", "x_test", "y_test", "class_names")
    for images, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        missing = {images, labels} - arrays.keys()
        if missing and (len(missing) == 1 or not arrays.keys() & {"x_train", "x_test"}):
            found = ", ".join(npz_keys(path)) or "nothing"
            raise DataError(f"{path} has no {' and no '.join(sorted(missing))} (found: {found})")
    classes = _class_names(path, arrays["class_names"]) if "class_names" in arrays else None
    return Contents((arrays["x_train"], arrays["y_train"]) if "x_train" in arrays else None,
                    (arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else None, classes)  # fmt: skip


def _class_names(path: Path, array: Array) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(f"{path}: class_names must be one string a class, not {array.dtype} {list(array.shape)}")
    return tuple(array.tolist())
