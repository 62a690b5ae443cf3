"""A folder of class folders with images."""

import hashlib
from pathlib import Path

import numpy as np

from minicnn.data.dataset import Arrays, Contents
from minicnn.data.images import list_images, read_images
from minicnn.data.reading import note, reading
from minicnn.errors import DataError

_TEST_FRACTION = 0.2
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def is_class_folders(path: Path) -> bool:
    """Whether ``path`` is a folder with folders in it."""
    return path.is_dir() and bool(_subfolders(path))


def load_class_folders(path: Path, seed: int = 0, whole: bool = False) -> Contents:
    """Load ``train/<class>/*`` and, if they are there, ``val/<class>/*`` and ``test/<class>/*``; or
    ``<class>/*``.

    The splits may also be called training; valid, validation, dev; testing. Without them about a
    fifth of the images is the test set, chosen by ``seed`` and the files' names, so that another
    image changes the place of no other; if ``whole``, all are. The folders' names, sorted, are the
    classes. Raises `DataError` for a class folder without an image, a class that is not in
    training, and images that differ in size or in grey and colour, naming the file or folder.
    """
    splits = _find_splits(path)
    if not splits:
        classes = tuple(folder.name for folder in _subfolders(path))
        files, labels = _list_files(path, classes)
        in_test = np.ones(len(files), bool) if whole else _choose_test(path, files, labels, seed)
        train, test = ([files[i] for i in np.flatnonzero(chosen)] for chosen in (~in_test, in_test))
        return Contents(
            (read_images(train), labels[~in_test]) if train else None,
            (read_images(test), labels[in_test]) if test else None,
            classes,
        )
    others = [folder.name for folder in _subfolders(path) if folder not in splits.values()]
    if others:
        known = " and ".join(folder.name for folder in splits.values())
        note(f"{path}: folders beside {known} that are no split are left out: {', '.join(others)}")
    classes = tuple(folder.name for folder in _subfolders(splits.get("train") or splits["test"]))
    read = {kind: _read(folder, classes) for kind, folder in splits.items()}
    return Contents(read.get("train"), read.get("test"), classes, read.get("validation"))


def _find_splits(path: Path) -> dict[str, Path]:
    """The folders of the splits, by kind; none where these names are classes themselves, "train"
    beside "bus" and "car"."""
    splits: dict[str, Path] = {}
    for folder in _subfolders(path):
        kind = next((kind for kind, names in _SPLITS.items() if folder.name.lower() in names), None)
        if kind and (kind != "train" or _subfolders(folder)):
            if kind in splits:
                raise DataError(
                    f"{path} holds {splits[kind].name} and {folder.name}: which of them is the {kind} split?"
                )
            splits[kind] = folder
    return (
        splits
        if "train" in splits or (set(splits) == {"test"} and _subfolders(splits["test"]))
        else {}
    )


def _choose_test(path: Path, files: list[Path], labels: np.ndarray, seed: int) -> np.ndarray:
    """Which files are the test set: a fifth of all hashes of seed and name, but never all of a
    class."""

    def place(file: Path) -> int:
        name = "/".join(
            file.relative_to(path).parts[1:]
        )  # without the class: whose label is mended stays where it is
        return int.from_bytes(
            hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()[:8]
        )

    places = np.array([place(file) for file in files], np.uint64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        places[of_class[places[of_class].argmax()]] = 2**64 - 1
    return places < _TEST_FRACTION * 2.0**64


def _read(folder: Path, classes: tuple[str, ...]) -> Arrays:
    files, labels = _list_files(folder, classes)
    return read_images(files), labels


def _subfolders(path: Path) -> list[Path]:
    with reading(path):
        return sorted(
            folder
            for folder in path.iterdir()
            if folder.is_dir() and not folder.name.startswith(".")
        )


def _list_files(path: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    files: list[Path] = []
    labels: list[int] = []
    for folder in _subfolders(path):
        if folder.name not in classes:
            raise DataError(f"{folder} is a class that the training images do not have")
        images = list_images(folder)
        files += images
        labels += [classes.index(folder.name)] * len(images)
    if not files:
        raise DataError(f"{path} holds no class folder")
    return files, np.array(labels, np.int64)
