"""CIFAR-10, in its binary and its Python batches, as a folder or as the published .tar.gz.

A binary batch is a row of records: one byte with the label, then 32 x 32 red, green and blue
values, plane by plane. A Python batch is a pickled dict with the same values in ``data`` [N, 3072]
and a list ``labels``. Source: www.cs.toronto.edu/~kriz/cifar.html
"""

import gzip
import io
import itertools
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minicnn.data.cifar_pickle import unpickle
from minicnn.data.dataset import Array, Arrays, Contents
from minicnn.data.idx import GZIP_MAGIC
from minicnn.data.reading import ReadOptions, fill_from, reading
from minicnn.errors import DataError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
_VALUES = 3 * 32 * 32
_MOST_BYTES = (
    32 << 20
)  # of a batch, 10,000 images of 3,072 bytes with their labels and names; an archive has seven
_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
_BATCHES = [*_TRAIN, "test_batch"]
_WANTED = {*_BATCHES, *(f"{name}.bin" for name in _BATCHES), "batches.meta", "batches.meta.txt"}


class _Batch(NamedTuple):
    labels: Array
    source: Path | Array  # a file of records, or the planes [N, 3072]


def is_cifar10(path: Path) -> bool:
    """Whether ``path`` is a folder with batches, a folder with the published archive, or an archive
    itself."""
    with reading(path):
        if path.is_dir():
            return any(
                (path / name).is_file() for name in (_TRAIN[0], f"{_TRAIN[0]}.bin", *ARCHIVES)
            )
        if not tarfile.is_tarfile(path):
            return False
        with tarfile.open(path) as archive:  # its batches are among the first files
            first = itertools.islice(archive, len(_WANTED))
            return any(member.name.rpartition("/")[2] in _WANTED for member in first)


def load_cifar10(path: Path, options: ReadOptions) -> Contents:
    """Load all five training batches and the test batch; nothing is unpacked to disk.

    Raises `DataError`, naming the file, for a missing batch, a damaged one, or a pickle that does
    more than hold data.
    """
    batches: dict[str, _Batch] = {}
    classes: tuple[str, ...] = CIFAR10_CLASSES
    for member, content in _members(path):
        where = path / member
        if member == "batches.meta.txt":
            with reading(where):
                classes = tuple(content.decode().split())
        elif member == "batches.meta":
            classes = _label_names(where, unpickle(where, content))
        elif member.endswith(".bin"):
            batches[member.removesuffix(".bin")] = _binary_batch(where, content)
        else:
            batches[member] = _python_batch(where, unpickle(where, content))
    for name in _BATCHES:
        if name not in batches:
            raise DataError(f"{path}: the batch {name} (or {name}.bin) is missing")

    def arrays(*names: str) -> Arrays:
        chosen = [batches[name] for name in names]
        labels = np.concatenate([batch.labels for batch in chosen])
        sources = [batch.source for batch in chosen]
        starts = np.cumsum([0, *(len(batch.labels) for batch in chosen)]).tolist()
        images = options.reader.fill(
            (len(labels), 32, 32, 3),
            np.uint8,
            lambda begin, _: partial(_fill_images, sources, starts, begin),
            split=all(isinstance(source, Path) for source in sources),
        )
        return images, labels

    return Contents(arrays(*_TRAIN), arrays("test_batch"), classes)


def _fill_images(
    sources: Sequence[Path | Array], starts: Sequence[int], begin: int, images: Array
) -> None:
    """Fill ``images`` with those from number ``begin`` on of all; those of source i have the numbers
    from starts[i] to starts[i + 1]."""
    for source, (first, last) in zip(sources, pairwise(starts), strict=True):
        low, high = max(first, begin), min(last, begin + len(images))
        if low >= high:
            continue
        if isinstance(source, Path):
            records = np.empty((high - low, 1 + _VALUES), np.uint8)
            fill_from(source, (low - first) * records.shape[1], records)
            planes = records[:, 1:]
        else:
            planes = source[low - first : high - first]
        of_batch = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        images[low - begin : high - begin] = of_batch


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        archive = next((path / name for name in ARCHIVES if (path / name).is_file()), None)
        if archive is None or any((path / name).is_file() for name in _WANTED):
            for name in sorted(_WANTED):
                with reading(path / name):
                    if (path / name).is_file():
                        with (path / name).open("rb") as file:
                            yield name, _at_most(path / name, file, _MOST_BYTES)
            return
        path = archive
    with reading(path), path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        # All of it, for only its end has gzip's check sum, and a tar's header may promise any size.
        content = _at_most(path, gzip.GzipFile(fileobj=file) if packed else file, 8 * _MOST_BYTES)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive_file:
            for member in archive_file:
                name = member.name.rpartition("/")[2]
                if name in _WANTED and member.isreg():
                    if member.issparse():
                        raise DataError(
                            f"{path}: {member.name} is a sparse file, which no batch is"
                        )
                    extracted = archive_file.extractfile(member)
                    assert extracted is not None  # a regular member always has one
                    yield name, _at_most(path / name, extracted, _MOST_BYTES)


def _at_most(where: Path, file: Any, most: int) -> bytes:
    content: bytes = file.read(most + 1)
    if len(content) > most:
        raise DataError(
            f"{where} is refused: it holds more than {most >> 20} MiB, the most that CIFAR-10 has"
        )
    return content


def _binary_batch(where: Path, content: bytes) -> _Batch:
    if not content or len(content) % (1 + _VALUES):
        raise DataError(
            f"{where} is truncated: {len(content)} bytes are not a whole number of {1 + _VALUES}-byte records"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _VALUES)
    # What is no member of an archive is read again, by each rank of a reader a part.
    return _Batch(records[:, 0].copy(), where if where.is_file() else records[:, 1:])


def _python_batch(where: Path, batch: dict[str, object]) -> _Batch:
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.shape[1:] != (_VALUES,):
        raise DataError(f"{where}: data must be uint8 [N, {_VALUES}]")
    if not isinstance(labels, list) or not all(
        type(label) is int and 0 <= label < 256 for label in labels
    ):
        raise DataError(f"{where}: labels must be a list of class numbers")
    if len(labels) != len(data):
        raise DataError(f"{where}: {len(data)} images but {len(labels)} labels")
    return _Batch(np.array(labels, np.uint8), data)


def _label_names(where: Path, meta: dict[str, object]) -> tuple[str, ...]:
    names = meta.get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{where}: label_names must be a list of names")
    with reading(where):
        return tuple(name.decode() if isinstance(name, bytes) else name for name in names)
