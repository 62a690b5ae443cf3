"""ZIP and tar archives of class folders, unpacked into memory."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from minicnn.data.images import SUFFIXES
from minicnn.data.reading import check_unpacked, reading
from minicnn.errors import DataError

ZIP_MAGIC = b"PK\x03\x04"
_MOST_FOLDERS = 100  # in each other
_AFTER_THE_END = 1 << 26  # bytes that may follow the last file of a tar before its check sum


Parts = tuple[str, ...]


@dataclass(frozen=True, order=True)
class ArchivePath:
    """A file or folder in an archive, with the part of pathlib's interface that reading folders
    needs; it cannot be written to."""

    archive: Path
    parts: Parts = ()
    files: dict[Parts, bytes] = field(default_factory=dict, compare=False, repr=False)
    folders: dict[Parts, dict[Parts, None]] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """One that another process reads takes its own bytes along, not those of the archive."""
        return ArchivePath, (self.archive, self.parts, {self.parts: self.files.get(self.parts)})

    def __str__(self) -> str:
        return str(self.archive.joinpath(*self.parts))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.parts[-1] if self.parts else self.archive.name

    @property
    def suffix(self) -> str:
        """Suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ArchivePath":
        """Folder that it is in."""
        return replace(self, parts=self.parts[:-1])

    def is_dir(self) -> bool:
        """Whether files lie below it."""
        return self.parts in self.folders

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.parts in self.files

    def iterdir(self) -> "Iterator[ArchivePath]":
        """What lies in the folder."""
        return (replace(self, parts=parts) for parts in self.folders.get(self.parts, ()))

    def rglob(self, _: str) -> "Iterator[ArchivePath]":
        """All that is in it and in its folders."""
        for path in self.iterdir():
            yield path
            yield from path.rglob(_)

    def relative_to(self, other: "ArchivePath") -> PurePosixPath:
        """Path from the folder ``other``."""
        return PurePosixPath(*self.parts[len(other.parts) :])

    def open(self, _: str) -> io.BytesIO:
        """Its content, as a file to read from."""
        return io.BytesIO(self.files[self.parts])


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a ZIP or a tar file."""
    with reading(path):
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def read_archive(path: Path, data_gb: float) -> ArchivePath:
    """The root of an archive, packed or not, whose files may take ``data_gb`` GB.

    Only images are unpacked. Links are left out. Raises `DataError` for a name that leads out of
    the archive and for more than ``data_gb``.
    """
    root, total = ArchivePath(path), 0
    with reading(path):
        members = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
        for name, size, read in members:
            place = PurePosixPath(name.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts or len(place.parts) > _MOST_FOLDERS:
                raise DataError(f"{path} is refused: {name!r} leads out of the archive")
            total += size
            check_unpacked(path, total, data_gb)
            root.files[place.parts] = read() if place.suffix.lower() in SUFFIXES else b""
            for depth in range(len(place.parts)):
                inside = root.folders.setdefault(place.parts[:depth], {})
                inside[place.parts[: depth + 1]] = None
    return root


def _zip_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, member.file_size, lambda: archive.read(member)  # noqa: B023


def _tar_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.issparse():
                raise DataError(f"{path}: {member.name} is a sparse file, which no image is")
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None  # a regular member always has one
                yield member.name, member.size, file.read
        if archive.fileobj is not None:
            archive.fileobj.read(_AFTER_THE_END)  # what is packed has its check sum at the end
