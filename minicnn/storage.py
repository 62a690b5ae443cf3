"""Files that are whole or not there: atomic writing, and tensors with JSON metadata as safetensors."""

import contextlib
import csv
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minicnn.errors import MinicnnError, ModelFileError

_FORMAT_VERSION = 1


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary name beside ``path``, then rename: a kill leaves the last good file.

    Raises `MinicnnError`, which names the file, when the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise MinicnnError(f"cannot write {path}: {error.strerror or error}; what was there before is kept") from None
    finally:
        with contextlib.suppress(OSError):  # it is still there when the work failed; Ctrl-C, too, may come in the middle
            temporary.unlink()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV with a header line; None is an empty cell, numbers have all their digits."""
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, content.getvalue().encode())


def write_tensors(path: Path, kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write named tensors with ``metadata``, any JSON, as a file of ``kind`` ("model" or "checkpoint")."""
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    header = {"format": f"minicnn-{kind}", "version": str(_FORMAT_VERSION), "minicnn": json.dumps(metadata),
              "crc32": _check_sum(contiguous)}  # fmt: skip
    write_atomically(path, safetensors.numpy.save(contiguous, header))


def _check_sum(tensors: Mapping[str, np.ndarray]) -> str:
    """Of all tensors in the order of their names; safetensors itself does not notice a flipped bit."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].tobytes(), total)
    return f"{total:08x}"


def read_tensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of a file that `write_tensors` wrote.

    Raises `ModelFileError`, which names the file, if it is missing, damaged, truncated, foreign, of another kind or of a
    newer version.
    """
    if not path.exists():
        raise ModelFileError(f"{path}: no such file; `minicnn train` writes one")
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder, not a {kind} file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = header.get("format", "")
        metadata = json.loads(header["minicnn"]) if found.startswith("minicnn-") else {}
        if not isinstance(metadata, dict):
            raise ValueError("its metadata are no JSON object")
        version = int(header.get("version", 0))
        if metadata and version == _FORMAT_VERSION and header.get("crc32") != _check_sum(tensors):
            raise ValueError("its tensors do not match their check sum")
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path} is damaged, cut off, or not a safetensors file ({reason})") from None
    if found != f"minicnn-{kind}":
        what = found.removeprefix("minicnn-") if found.startswith("minicnn-") else "safetensors file of another program"
        raise ModelFileError(f"{path} is a {what}, not a minicnn {kind}")
    if version > _FORMAT_VERSION:
        raise ModelFileError(f"{path} was written by a newer minicnn (format {version}); update minicnn-numba")
    return tensors, metadata
