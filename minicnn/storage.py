"""Files that are written completely or not at all, and tensors with JSON metadata as
safetensors."""

import contextlib
import csv
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minicnn.errors import MinicnnError, ModelFileError, SettingError, short

# What reading a file whose metadata were changed by hand, or by accident, may raise.
MALFORMED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    MinicnnError,
)
_FORMAT_VERSION = 2
# of the safetensors metadata; with more than one, the same model would not give the same bytes
_KEY = "minicnn"
_TORCH_MAGIC = (
    b"\x80\x02\x8a\x0a"  # how torch.save begins a file since before it wrote zip archives
)
_FOREIGN = (
    "minicnn reads its own files alone; what safetensors.torch.save_file wrote of a state_dict comes in "
    "by minicnn import --model, or minicnn.formats.state_dict"
)


def as_path(name: str, given: Any) -> Path:
    """``given`` as a path, ``~`` resolved; raises `SettingError` for what is none."""
    with contextlib.suppress(TypeError, RuntimeError):  # there may be no home
        path = Path(given).expanduser()
        if "\0" not in str(path):
            return path
    raise SettingError(f"{name} must be a path, not {short(given)}")


def make_folder(folder: Path) -> Path:
    """Make ``folder`` if it is not there; raises `MinicnnError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MinicnnError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write ``content``, or its pieces, to a temporary name beside ``path``, then rename: a kill
    leaves the last good file.

    Raises `MinicnnError`, which names the file, when the disk is full, the folder cannot be written
    to, or a device or pipe has that name: renaming would put a file in its place.
    """
    if path.exists() and not path.is_file():
        raise MinicnnError(f"cannot write {path}: it is there, and no regular file")
    target = Path(os.path.realpath(path))  # a link goes on to be one
    remove_leftovers(target.parent, f".{target.name}.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise MinicnnError(
            f"cannot write {path}: {error.strerror or error}; what was there before is kept"
        ) from None
    finally:
        with contextlib.suppress(
            OSError
        ):  # it is still there when the work failed; Ctrl-C, too, may come in the middle
            temporary.unlink()


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove temporary files that dead processes left in ``folder``; their names are ``prefix``,
    the process number, and perhaps more after a hyphen."""
    for path in folder.glob(".*") if os.name == "posix" else ():
        number = path.name.removeprefix(prefix).partition("-")[0]
        if path.name.startswith(prefix) and number.isdecimal():
            try:
                os.kill(int(number), 0)
            except (ProcessLookupError, OverflowError):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except PermissionError:  # it lives, as another user's
                pass


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV with a header line, as `csv_text` has it."""
    write_atomically(path, csv_text((columns, *rows)).encode(errors="backslashreplace"))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; None is an empty cell, numbers have all their digits. Text that a spreadsheet
    would take for a formula begins with an apostrophe."""

    def cell(value: object) -> object:
        formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        return f"'{value}" if formula else value

    content = io.StringIO(newline="")
    csv.writer(content, lineterminator="\n").writerows([cell(v) for v in row] for row in rows)
    return content.getvalue()


def write_tensors(
    path: Path, kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write named tensors with ``metadata``, any JSON, as a file of ``kind``: "model", "checkpoint"
    or "record".

    The same tensors and metadata give the same bytes. The text before the metadata is the check sum
    of all.
    """
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    text = json.dumps(
        {"format": f"minicnn-{kind}", "version": _FORMAT_VERSION, "metadata": metadata}
    )
    header = {_KEY: f"{_check_sum(contiguous, text)} {text}"}
    write_atomically(path, safetensors.numpy.save(contiguous, header))


def _check_sum(tensors: Mapping[str, np.ndarray], text: str | None) -> str:
    """The check sum of ``text`` and all tensors in the order of their names; safetensors itself
    does not notice a flipped bit.

    None, in files of format 1, leaves out the text and the names, dtypes and shapes.
    """
    total = zlib.crc32((text or "").encode())
    for name in sorted(tensors):
        if text is not None:
            total = zlib.crc32(
                f"{name} {tensors[name].dtype} {tensors[name].shape}".encode(), total
            )
        total = zlib.crc32(tensors[name].tobytes(), total)
    return f"{total:08x}"


def read_tensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of a file that `write_tensors` wrote.

    Raises `ModelFileError`, which names the file, if it is missing, damaged, truncated, foreign, of
    another kind or of a newer version, or if weights are no finite numbers.
    """
    if not path.exists():
        raise ModelFileError(f"{path}: no such file; `minicnn train` writes one")
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder, not a {kind} file")
    try:
        with path.open("rb") as opened:
            start = opened.read(4)
        if start == _TORCH_MAGIC or (start == b"PK\x03\x04" and zipfile.is_zipfile(path)):
            what = (
                "a file of PyTorch's torch.save"
                if start == _TORCH_MAGIC or _holds_pickle(path)
                else "a zip archive"
            )
            raise ModelFileError(f"{path} is {what}, not a minicnn {kind}; {_FOREIGN}")
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, version, metadata, stored, text = _parse(header)
        if (
            found.startswith("minicnn-")
            and version <= _FORMAT_VERSION
            and stored != _check_sum(tensors, text)
        ):
            raise ValueError("its content does not match its check sum")
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except (
        safetensors.SafetensorError,
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(
            f"{path} is damaged, cut off, or not a safetensors file ({reason})"
        ) from None
    if not found.startswith("minicnn-"):
        program = "PyTorch" if header.get("format") == "pt" else "another program"
        raise ModelFileError(
            f"{path} is a safetensors file of {program}, not a minicnn {kind}; {_FOREIGN}"
        )
    if version > _FORMAT_VERSION:
        raise ModelFileError(
            f"{path} was written by a newer minicnn (format {version}); update minicnn-numba"
        )
    if found != f"minicnn-{kind}":
        raise ModelFileError(f"{path} is a {found.removeprefix('minicnn-')}, not a minicnn {kind}")
    broken = (
        [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
        if kind == "model"
        else []
    )
    if broken:
        raise ModelFileError(f"{path} holds weights that are not finite, in {broken[0]}")
    return tensors, metadata


def _holds_pickle(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _parse(header: Mapping[str, str]) -> tuple[str, int, dict[str, Any], str | None, str | None]:
    """(format, version, metadata, check sum, text that it is of) of a safetensors header; format ""
    is none of ours."""
    if header.get("format", "").startswith("minicnn-"):  # format 1
        found, version, text = header["format"], int(header["version"]), None
        metadata, stored = json.loads(header[_KEY]), header.get("crc32")
    elif _KEY in header:
        stored, _, text = header[_KEY].partition(" ")
        content = json.loads(text)
        found, version, metadata = content["format"], int(content["version"]), content["metadata"]
    else:
        return "", 0, {}, None, None
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not a JSON object")
    return found, version, metadata, stored, text


def parse_json(text: str) -> Any:
    """What ``text`` says; numbers without end, which are no figures, become infinity."""
    return json.loads(
        text, parse_int=lambda digits: float(digits) if len(digits) > 18 else int(digits)
    )


def check_types(metadata: Mapping[str, Any], **types: type | tuple[type, ...]) -> None:
    """Raise `ValueError` unless ``metadata`` has each of the names with a value of that type."""
    for name, wanted in types.items():
        if name not in metadata:
            raise ValueError(f"it has no {name}")
        if not isinstance(metadata[name], wanted):
            raise ValueError(f"its {name} is {shortened(metadata[name])}")
