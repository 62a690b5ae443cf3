"""From a name or a path to a data set."""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile, is_zipfile

import numpy as np

from minicnn.data.archive import ZIP_MAGIC, is_archive, read_archive
from minicnn.data.cifar10 import is_cifar10, load_cifar10
from minicnn.data.dataset import (
    ARRAYS,
    Arrays,
    Contents,
    Dataset,
    Split,
    as_images,
    build_dataset,
    channels_last,
    natural_maximum,
)
from minicnn.data.folder import is_class_folders, load_class_folders
from minicnn.data.idx import is_idx_folder, load_idx_folder
from minicnn.data.images import SUFFIXES, convert_images
from minicnn.data.known import EMBEDDED, KNOWN, candidates
from minicnn.data.labels import Classes, listing
from minicnn.data.npz import load_npz
from minicnn.data.reading import ReadOptions, reading
from minicnn.errors import DataError, UnknownNameError, check_known
from minicnn.rules import LossRule

_LOADERS = {"idx": load_idx_folder, "npz": load_npz, "cifar10": load_cifar10}


def load_dataset(
    name_or_path: str | Path, *, loss: LossRule | None = None, **options: Any
) -> Dataset:
    """Load a known set by its name, or any set by its path; the content of the path decides what it
    is.

    ``options`` are the fields of `ReadOptions`: maximum, seed, channels, data_gb, resize, grayscale,
    rgb and reader. For a ``loss`` on values the labels may be values. Raises `UnknownNameError` for a name
    that is neither, `DataError` for a set that is not here or is damaged.

    >>> load_dataset("fashion-mnist-12k").image_shape
    (28, 28, 1)
    """
    name, how = str(name_or_path), read_options(options)
    contents = _read(name, how)
    if contents.train is None:
        raise DataError(f"{name} holds no training images")
    return build_dataset(
        name,
        contents.train,
        contents.test,
        classes=contents.classes,
        maximum=how.maximum,
        validation=contents.validation,
        loss=loss,
    )


def read_options(options: Mapping[str, Any]) -> ReadOptions:
    """The options by name; raises `UnknownNameError` for one that there is not."""
    known = [option.name for option in fields(ReadOptions)]
    check_known("option of load_dataset", options, known)
    return ReadOptions(**options)


def load_judged(
    name: str,
    known: Classes,
    seen: tuple[float, float] | None = None,
    **options: Any,
) -> Dataset:
    """Load the test images of a set, with labels that count the ``known`` classes of a model, or
    with values; ``options`` and ``seen`` are as for `load_dataset` and `Dataset`.

    Training images may be missing. Classes that have names are matched by them, and may be fewer
    than ``known``; else labels are matched. Raises `DataError` for a class that the model does not
    know.
    """
    how = read_options(options)
    contents = _read(name, how)
    if contents.test is None:
        raise DataError(f"{name} has no test split to evaluate on")
    has_classes = known.task == "classification"

    def split(kind: str, arrays: Arrays) -> Split:
        labels = arrays[1]
        if contents.classes is not None and has_classes:
            numbers = Classes(contents.classes).targets(name, labels, kind)
            labels = np.array(contents.classes)[numbers]
        return Split(as_images(name, arrays[0]), known.targets(name, labels, kind))

    strange = [each for each in contents.classes or () if each not in known.names]
    if strange and has_classes:
        raise DataError(
            f"{name} has {len(contents.classes or ())} classes, and the model does not know {listing(strange)}; "
            f"it knows {len(known.names)}: {listing(known.names)}"
        )
    maximum = how.maximum
    if maximum is None:
        maximum = natural_maximum(name, contents.test[0].dtype)
    test = split("test ", contents.test)
    return Dataset(
        name,
        split("training ", contents.train) if contents.train else test,
        test,
        known.names,
        float(maximum),
        task=known.task,
        seen=seen,
    )


def _read(name: str, how: ReadOptions) -> Contents:
    path = locate(name)
    kind = _recognise(path)
    if kind is None:
        raise DataError(
            f"{path} is not a data set: expected a folder with IDX files, CIFAR-10 batches or class folders, "
            "an NPZ file, a CIFAR-10 .tar.gz, or a ZIP or tar file of class folders"
        )
    if kind in ("folder", "archive"):
        root = read_archive(path, how.data_gb) if kind == "archive" else path
        contents = load_class_folders(cast(Path, root), how)
    else:
        contents = _LOADERS[kind](path, how)

        def converted(arrays: Arrays | None) -> Arrays | None:
            if arrays is None:
                return None
            return convert_images(channels_last(arrays[0], how.channels), how), *arrays[1:]

        train, test, classes, validation = contents
        contents = Contents(converted(train), converted(test), classes, converted(validation))
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
    if name == ARRAYS:
        raise DataError(
            "the model was trained on arrays of a Python program, which are in no file: name a data set with data="
        )
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
                if file.read(4) == ZIP_MAGIC:  # what is cut off has no list of names
                    names = ZipFile(file).namelist() if is_zipfile(file) else []
                    has_images = any(name.lower().endswith(SUFFIXES) for name in names)
                    return "archive" if has_images else "npz"
            return "cifar10" if is_cifar10(path) else "archive" if is_archive(path) else None
    if is_idx_folder(path):
        return "idx"
    if is_cifar10(path):
        return "cifar10"
    return "folder" if is_class_folders(path) else None
