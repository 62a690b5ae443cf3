"""Downloads a known data set into the cache and verifies the check sum of each file."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from minicnn.data.known import KNOWN, cache_folder
from minicnn.data.reading import one_line
from minicnn.errors import DataError, MissingExtraError, UnknownNameError
from minicnn.storage import remove_leftovers

Progress = Callable[[str, int, int], None]


def fetch(name: str, *, base_url: str | None = None, progress: Progress | None = None) -> Path:
    """Download the known set ``name`` and return its folder in the cache; a set that is already
    there and intact is not downloaded again.

    ``base_url`` (or $MINICNN_MIRROR) is the address of a mirror that holds ``<name>/<file>``.
    ``progress`` is called with a file's name, the bytes so far and their total (0 if the server
    does not say it). Raises `DataError` for a network error, a wrong check sum or a cache that
    cannot be written; the cache is then as it was. Raises `MissingExtraError` without pooch.
    """
    known = {key: value for key, value in KNOWN.items() if value.files}
    if name not in known:
        hint = f"{name} comes with minicnn, nothing is to be fetched" if name in KNOWN else ""
        raise UnknownNameError("data set", name, known, hint)
    folder = cache_folder(name)
    if _is_sound(folder, known[name].files):
        return folder
    mirror = base_url or os.environ.get("MINICNN_MIRROR")
    address = f"{mirror.rstrip('/')}/{name}/" if mirror else known[name].address
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Only a whole set is moved to its place: a set that is found is a set that can be read.
        remove_leftovers(folder.parent, ".fetching-")
        prefix = f".fetching-{os.getpid()}-"
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as temporary:
            new = Path(temporary, name)
            new.mkdir()
            for file, md5 in known[name].files.items():
                _download(address + file, md5, new / file, progress)
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {folder.parent}: {error.strerror or one_line(error)}"
        ) from error
    return folder


def _is_sound(folder: Path, files: Mapping[str, str]) -> bool:
    return all(
        (folder / file).is_file() and _md5(folder / file) == md5 for file, md5 in files.items()
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _download(url: str, md5: str, path: Path, progress: Progress | None) -> None:
    try:
        import pooch
        from requests.exceptions import RequestException  # pooch downloads with requests
    except ImportError:
        raise MissingExtraError("downloading data sets", "pooch", "data") from None
    pooch.get_logger().setLevel("WARNING")
    bar = _Bar(path.name, progress) if progress else False
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=30)
    try:
        pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, downloader=downloader)
    except RequestException as error:
        if error.response is not None:
            error.response.close()  # pooch leaves the connection of a refused request open
        raise DataError(f"cannot download {url}: {one_line(error)}") from error
    except ValueError as error:
        raise DataError(
            f"{url} does not have the check sum of the published file (MD5 {md5})"
        ) from error


class _Bar:
    """The progress bar that pooch expects, passed on as plain calls."""

    def __init__(self, file: str, progress: Progress) -> None:
        self.file, self.progress = file, progress
        self.total = self.done = 0

    def update(self, count: int) -> None:
        self.done += count
        if not self.total or self.done < self.total:
            self.progress(self.file, self.done, self.total)

    def reset(self) -> None:
        """Called before the last update, which counts everything again."""

    def close(self) -> None:
        self.progress(self.file, self.total or self.done, self.total or self.done)
