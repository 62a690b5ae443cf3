"""A folder of class folders with PNG and JPEG files."""

from pathlib import Path

import numpy as np

from minicnn.data.dataset import Contents, stratified_split
from minicnn.data.images import list_images, read_images
from minicnn.data.reading import reading
from minicnn.errors import DataError

_TEST_FRACTION = 0.2


def is_class_folders(path: Path) -> bool:
    """Whether ``path`` is a folder with folders in it."""
    return path.is_dir() and bool(_subfolders(path))


def load_class_folders(path: Path, seed: int = 0) -> Contents:
    """Load ``train/<class>/*`` and, if it is there, ``test/<class>/*``; or ``<class>/*``.

    Of the latter a fifth of each class, chosen by ``seed``, becomes the test set. The folders' names, sorted, are the
    classes. Raises `DataError` for a class folder without an image, a class of the test set that is not in training,
    and images that differ in size or in grey and colour, naming the file or folder.
    """
    classes = tuple(folder.name for folder in _subfolders(path))
    if "train" in classes and _subfolders(path / "train"):  # else "train" is a class, beside a "bus" and a "car"
        classes = tuple(folder.name for folder in _subfolders(path / "train"))
        train_files, train_labels = _list_files(path / "train", classes)
        has_test = (path / "test").is_dir()
        test_files, test_labels = _list_files(path / "test", classes) if has_test else ([], train_labels[:0])
    else:
        files, labels = _list_files(path, classes)
        in_train, in_test = stratified_split(labels, _TEST_FRACTION, seed)
        train_files, train_labels = [files[i] for i in in_train], labels[in_train]
        test_files, test_labels = [files[i] for i in in_test], labels[in_test]
    test = (read_images(test_files), test_labels) if test_files else None
    return (read_images(train_files), train_labels), test, classes


def _subfolders(path: Path) -> list[Path]:
    with reading(path):
        return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


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
