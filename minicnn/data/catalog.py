"""From a name or a path to a data set."""

import os
from pathlib import Path

import numpy as np

from minicnn.data.cifar10 import is_cifar10, load_cifar10
from minicnn.data.dataset import (
    Arrays,
    Contents,
    Dataset,
    Split,
    as_images,
    build_dataset,
    natural_maximum,
)
from minicnn.data.folder import is_class_folders, load_class_folders
from minicnn.data.idx import is_idx_folder, load_idx_folder
from minicnn.data.known import EMBEDDED, KNOWN, candidates
from minicnn.data.labels import Classes, listing, plain_labels
from minicnn.data.npz import ZIP_MAGIC, load_npz
from minicnn.data.reading import DATA_GB, reading
from minicnn.errors import DataError, UnknownNameError

_LOADERS = {"idx": load_idx_folder, "npz": load_npz}


def load_dataset(
    name_or_path: str | Path,
    *,
    maximum: float | None = None,
    seed: int = 0,
    channels: str = "last",
    data_gb: float = DATA_GB,
) -> Dataset:
    """Load a known set by its name, or any set by its path; the content of the path decides what it
    is.

    ``maximum`` declares the value that is scaled to 1, if the dtype does not say it. ``seed``
    chooses the test images of class folders that have none. Arrays [N, C, H, W] are read with
    ``channels`` "first"; packed ones may take ``data_gb`` GB. Raises `UnknownNameError` for a name
    that is neither, `DataError` for a set that is not here or is damaged.

    >>> load_dataset("fashion-mnist-12k").image_shape
    (28, 28, 1)
    """
    name = str(name_or_path)
    contents = _read(name, seed, data_gb)
    if contents.train is None:
        raise DataError(f"{name} holds no training images")
    return build_dataset(
        name,
        contents.train,
        contents.test,
        classes=contents.classes,
        maximum=maximum,
        validation=contents.validation,
        channels=channels,
    )


def load_judged(
    name: str,
    known: Classes,
    *,
    maximum: float | None = None,
    seed: int = 0,
    channels: str = "last",
    data_gb: float = DATA_GB,
    whole: bool = False,
) -> Dataset:
    """Load the test images of a set, with labels that count the ``known`` classes of a model.

    Training images may be missing. Classes that have names are matched by them, and may be fewer
    than ``known``; else labels are matched. With ``whole`` all images of class folders are test
    images. Raises `DataError` for a class that the model does not know.
    """
    contents = _read(name, seed, data_gb, whole)
    if contents.test is None:
        raise DataError(f"{name} has no test split to evaluate on")

    def split(kind: str, arrays: Arrays) -> Split:
        labels = plain_labels(name, arrays[1])
        if contents.classes is not None:
            labels = np.array(contents.classes)[
                Classes(contents.classes).numbers(name, labels, kind)
            ]
        return Split(as_images(name, arrays[0], channels), known.numbers(name, labels, kind))

    strange = [each for each in contents.classes or () if each not in known.names]
    if strange:
        raise DataError(
            f"{name} has {len(contents.classes or ())} classes, and the model does not know {listing(strange)}; "
            f"it knows {len(known.names)}: {listing(known.names)}"
        )
    if maximum is None:
        maximum = natural_maximum(name, contents.test[0].dtype)
    test = split("test ", contents.test)
    return Dataset(
        name,
        split("training ", contents.train) if contents.train else test,
        test,
        known.names,
        float(maximum),
    )


def _read(name: str, seed: int, data_gb: float, whole: bool = False) -> Contents:
    path = locate(name)
    kind = _recognise(path)
    if kind is None:
        raise DataError(
            f"{path} is no data set: expected a folder with IDX files, CIFAR-10 batches or class folders, "
            "an NPZ file, or a CIFAR-10 .tar.gz"
        )
    if kind == "folder":
        contents = load_class_folders(path, seed, whole)
    else:
        contents = load_cifar10(path) if kind == "cifar10" else _LOADERS[kind](path, data_gb)
    return (
        contents._replace(classes=KNOWN[name].classes)
        if contents.classes is None and name in KNOWN
        else contents
    )


def list_datasets() -> list[dict[str, str | None]]:
    """Every known set by name, state ("embedded", "found" or "not here"), path (None for the last)
    and licence."""
    states = []
    for name, known in KNOWN.items():
        path = _find(name)
        state = "not here" if path is None else "found" if known.files else "embedded"
        states.append(
            {
                "name": name,
                "state": state,
                "path": str(path) if path else None,
                "licence": known.licence,
            }
        )
    return states


def locate(name: str) -> Path:
    """Where the known set, or the file or folder, of that name is; raises as `load_dataset`."""
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
