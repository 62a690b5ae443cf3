"""A folder of class folders with images, or an archive of them."""

import hashlib
from pathlib import Path

import numpy as np

from minicnn.data.dataset import Arrays, Contents
from minicnn.data.images import list_images, read_images
from minicnn.data.reading import ReadOptions, note, reading
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


def load_class_folders(path: Path, options: ReadOptions) -> Contents:
    """Load ``train/<class>/*`` and, if they are there, ``val/<class>/*`` and ``test/<class>/*``; or
    ``<class>/*``.

    The splits may also be called training; valid, validation, dev; testing. Without them about a
    fifth of the images is the test set, chosen by the seed and the files' names, so that another
    image changes the place of no other. All of it may lie in one more folder. The folders' names,
    sorted, are the classes. Raises `DataError` for a class folder without an image, a class that is
    not in training, and images that differ in size or in grey and colour, naming the file or
    folder.
    """
    splits = _find_splits(path)
    inside = _subfolders(path)
    if not splits and len(inside) == 1 and len(_subfolders(inside[0])) > 1:
        return load_class_folders(inside[0], options)
    if not splits:
        classes = tuple(folder.name for folder in inside)
        files, labels = _list_files(path, classes)
        in_test = (
            np.ones(len(files), bool)
            if options.whole
            else _choose_test(path, files, labels, options.seed)
        )
        train, test = ([files[i] for i in np.flatnonzero(chosen)] for chosen in (~in_test, in_test))
        return Contents(
            (read_images(train, options), labels[~in_test]) if train else None,
            (read_images(test, options), labels[in_test]) if test else None,
            classes,
        )
    others = [folder.name for folder in inside if folder not in splits.values()]
    if others:
        known = " and ".join(folder.name for folder in splits.values())
        note(f"{path}: folders beside {known} that are no split are left out: {', '.join(others)}")
    classes = tuple(folder.name for folder in _subfolders(splits.get("train") or splits["test"]))
    read: dict[str, Arrays] = {}
    for kind, folder in splits.items():
        files, labels = _list_files(folder, classes)
        read[kind] = read_images(files, options), labels
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


def _subfolders(path: Path) -> list[Path]:
    with reading(path):
        return sorted(
            folder
            for folder in path.iterdir()
            if folder.is_dir() and not folder.name.startswith((".", "__MACOSX"))
        )


def _list_files(path: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    folders = _subfolders(path)
    for folder in folders:
        if folder.name not in classes:
            raise DataError(f"{folder} is a class that the training images do not have")
    if not folders:
        raise DataError(f"{path} holds no class folder")
    images = list_images(*folders)
    labels = [classes.index(folder.name) for folder in folders]
    counts = [len(files) for files in images]
    return [file for files in images for file in files], np.repeat(np.array(labels), counts)
