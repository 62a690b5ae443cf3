"""Results as JSON, and `metrics.jsonl`: one JSON object per epoch."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from minicnn.errors import MinicnnError
from minicnn.storage import parse_json, write_atomically
from minicnn.training.events import EpochDone, RunStarted


def json_ready(value: Any) -> Any:
    """Return ``value`` as plain JSON data: dataclasses as objects, arrays as lists, paths as text,
    floats finite or null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_ready(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return json_ready(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as one JSON object, for people to read as well."""
    write_atomically(
        path, json.dumps(json_ready(value), indent=2, allow_nan=False).encode() + b"\n"
    )


class JsonlReporter:
    """Writes one line per finished epoch to ``path``, with the fields of `EpochDone`.

    A run that is resumed at epoch e keeps the lines before e that are whole; any other run starts
    an empty file. The file is replaced in one piece, so that no reader and no kill sees half a
    line. Raises MinicnnError where it cannot.
    """

    def __init__(self, path: Path):
        self._path = Path(path)
        self._lines: list[str] = []

    def __call__(self, event: object) -> None:
        if isinstance(event, RunStarted):
            self._lines = self._lines_before(event.first_epoch)
        elif isinstance(event, EpochDone):
            self._lines.append(json.dumps(json_ready(event), allow_nan=False))
        else:
            return
        write_atomically(self._path, "".join(line + "\n" for line in self._lines).encode())

    def _lines_before(self, epoch: int) -> list[str]:
        if epoch == 1 or not self._path.exists():
            return []
        try:
            lines = self._path.read_text("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise MinicnnError(f"{self._path}: cannot be read: {error.strerror}") from error
        return [line for line in lines if _epoch_of(line) < epoch]


def _epoch_of(line: str) -> float:
    """The epoch of a line; infinite if the line is truncated or was edited."""
    try:
        return float(parse_json(line)["epoch"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf
