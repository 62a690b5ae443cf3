"""From a name or a path to a data set."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minicnn.data.cifar10 import is_cifar10, load_cifar10
from minicnn.data.dataset import Dataset, Split
from minicnn.data.folder import is_class_folders, load_class_folders
from minicnn.data.idx import is_idx_folder, load_idx_folder
from minicnn.data.images import convert_images
from minicnn.data.known import EMBEDDED, KNOWN, candidates
from minicnn.data.npz import ZIP_MAGIC, load_npz
from minicnn.data.reading import reading
from minicnn.errors import DataError, UnknownNameError


@dataclass(frozen=True)
class DatasetState:
    """A known set and where it is: ``state`` is "embedded", "found" or "not here", ``path`` None for the last."""

    name: str
    state: str
    path: str | None
    licence: str


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set holds. ``images`` and ``per_class`` are numbers by split: training, validation, test."""

    name: str
    path: str
    licence: str
    image_shape: tuple[int, int, int]
    dtype: str
    maximum: float
    classes: tuple[str, ...]
    images: dict[str, int]
    per_class: dict[str, list[int]]


def load_dataset(
    name_or_path: str | Path,
    *,
    maximum: float | None = None,
    seed: int = 0,
    resize: tuple[int, int] | None = None,
    grayscale: bool = False,
) -> Dataset:
    """Load a known set by its name, or any set by its path; the content of the path decides what it is.

    ``maximum`` declares the value that is scaled to 1, if the dtype does not say it. ``seed`` chooses the test images
    of class folders that have none. Images are converted to the size ``resize`` (height, width) and to grey only if
    asked to. Raises `UnknownNameError` for a name that is neither,
    `DataError` for a set that is not here or is damaged.

    >>> load_dataset("fashion-mnist-12k").image_shape
    (28, 28, 1)
    """
    name = str(name_or_path)
    path = _locate(name)
    kind = _recognise(path)
    if kind == "folder":
        return load_class_folders(path, name, maximum=maximum, seed=seed, resize=resize, grayscale=grayscale)
    classes = KNOWN[name].classes if name in KNOWN else None
    if kind == "idx":
        dataset = load_idx_folder(path, name, classes=classes, maximum=maximum)
    elif kind == "npz":
        dataset = load_npz(path, name, classes=classes, maximum=maximum)
    elif kind == "cifar10":
        dataset = load_cifar10(path, name, maximum=maximum)
    else:
        raise DataError(
            f"{path} is no data set: expected a folder with IDX files, CIFAR-10 batches or class folders, "
            "an NPZ file, or a CIFAR-10 .tar.gz"
        )
    return _convert(dataset, resize, grayscale) if resize or grayscale else dataset


def list_datasets() -> list[DatasetState]:
    """Return every known set and whether it is here."""
    states = []
    for name, known in KNOWN.items():
        path = _find(name)
        state = "not here" if path is None else "found" if known.files else "embedded"
        states.append(DatasetState(name, state, str(path) if path else None, known.licence))
    return states


def dataset_info(name_or_path: str | Path, *, maximum: float | None = None) -> DatasetInfo:
    """Load a set and say what it holds; raises as `load_dataset`."""
    dataset = load_dataset(name_or_path, maximum=maximum)
    licence = KNOWN[dataset.name].licence if dataset.name in KNOWN else "unknown"
    return DatasetInfo(
        name=dataset.name,
        path=str(_locate(dataset.name)),
        licence=licence,
        image_shape=dataset.image_shape,
        dtype=str(dataset.train.images.dtype),
        maximum=dataset.maximum,
        classes=dataset.classes,
        images={kind: len(split) for kind, split in dataset.splits.items()},
        per_class={
            kind: np.bincount(split.labels, minlength=len(dataset.classes)).tolist()
            for kind, split in dataset.splits.items()
        },
    )


def _locate(name: str) -> Path:
    if name in KNOWN:
        found = _find(name)
        if found is None:
            looked = ", ".join(map(str, candidates(name)))
            raise DataError(
                f"data set {name} is not here; get it with 'minicnn data fetch {name}' (looked for {looked})"
            )
        return found
    path = Path(name).expanduser()
    if path.exists():
        return path
    if os.sep in name or path.suffix:
        raise DataError(f"{name}: no such file or folder")
    raise UnknownNameError("data set", name, KNOWN, "or give the path of a file or folder")


def _find(name: str) -> Path | None:
    if not KNOWN[name].files:
        return EMBEDDED / f"{name}.npz"
    for path in candidates(name):
        if path.exists() and _recognise(path) in ("idx", "npz", "cifar10"):
            return path
    return None


def _recognise(path: Path) -> str | None:
    with reading(path):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) == ZIP_MAGIC:
                    return "npz"
            return "cifar10" if is_cifar10(path) else None
    if is_idx_folder(path):
        return "idx"
    if is_cifar10(path):
        return "cifar10"
    return "folder" if is_class_folders(path) else None


def _convert(dataset: Dataset, resize: tuple[int, int] | None, grayscale: bool) -> Dataset:
    def convert(split: Split) -> Split:
        return replace(split, images=convert_images(split.images, resize, grayscale))

    return replace(dataset, train=convert(dataset.train), test=convert(dataset.test) if dataset.test else None)
