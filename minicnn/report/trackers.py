"""The figures of each epoch for other tools: a CSV file, and TensorBoard's event files."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

from minicnn.errors import MissingExtraError
from minicnn.storage import write_csv
from minicnn.training.events import EpochDone, Event, RunEnded, RunStarted

_COLUMNS = [field.name for field in dataclasses.fields(EpochDone)]


class CsvReporter:
    """Writes a line per finished epoch to ``path``, with the fields of `EpochDone`.

    A run that is resumed at epoch e keeps the lines before e; any other run starts an empty file,
    which is replaced in one piece. Raises `MinicnnError` where it cannot.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._rows: list[list[Any]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._rows = []
            if event.first_epoch > 1 and self._path.exists():
                with self._path.open(newline="") as file:
                    rows = [row for row in csv.reader(file) if row and row[0].isdecimal()]
                self._rows = [row for row in rows if int(row[0]) < event.first_epoch]
        elif isinstance(event, EpochDone):
            self._rows.append([getattr(event, column) for column in _COLUMNS])
            write_csv(self._path, _COLUMNS, self._rows)


class TensorBoardReporter:
    """Writes the figures of each epoch as scalars into ``folder``, for ``tensorboard --logdir``.

    Raises `MissingExtraError` without tensorboardX.
    """

    def __init__(self, folder: str | Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise MissingExtraError("TensorBoardReporter", "tensorboardX", "tensorboard") from None
        self._writer = SummaryWriter(str(folder))

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochDone):
            for name, value in dataclasses.asdict(event).items():
                if name not in ("epoch", "best", "steps") and value is not None:
                    split, _, figure = name.partition("_")
                    is_of_split = split in ("train", "validation")
                    tag = f"{figure}/{split}" if is_of_split else name
                    self._writer.add_scalar(tag, value, event.epoch)
            self._writer.flush()
        elif isinstance(event, RunEnded):
            self._writer.close()
