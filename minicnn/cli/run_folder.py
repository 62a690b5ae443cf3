"""The run folder: made before the run, and filled with what the trainer does not write itself."""

import itertools
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minicnn import __version__
from minicnn.cli.common import plain
from minicnn.errors import MinicnnError, UsageError
from minicnn.network.network import Network
from minicnn.training.events import RunEnded

FILES = {
    "model.safetensors": "the best weights, and all that evaluate and predict need",
    "last.safetensors": "everything that train --resume needs",
    "config.toml": "the settings, for train --config",
    "metrics.jsonl": "one line per epoch",
    "record.safetensors": "the trajectory of the weights, for landscape",
    "record.jsonl": "the health of tensors and layers, one line per record",
    "report.json": "the final figures, timings, machine, versions",
    "report.html": "all of it as one page with pictures",
}

_FIGURES = ("reason", "explanation", "epoch", "best_epoch", "seconds", "compile_seconds")


_BEFORE_A_CHECKPOINT = {"config.toml", "metrics.jsonl", "record.safetensors", "record.jsonl"}


def check_output(folder: Path | None) -> None:
    """Raise `UsageError` unless ``folder`` is new, empty, or holds only a run that ended before its
    first checkpoint."""
    if folder is None or not folder.exists():
        return
    if not folder.is_dir() or any(
        path.name not in _BEFORE_A_CHECKPOINT and not re.fullmatch(r"\..*\.\d+", path.name)
        for path in folder.iterdir()
    ):
        raise UsageError(
            f"--output {folder} is there and not empty; name another, or go on with a run by --resume"
        )


@contextmanager
def run_folder(folder: Path | None) -> Iterator[Path]:
    """Make ``folder`` (None: runs/<date>-<time>); in the end, remove again what was made and left
    empty."""
    start = folder or Path("runs", time.strftime("%Y%m%d-%H%M%S"))
    for number in itertools.count(1):
        place = start if number == 1 else Path(f"{start}-{number}")
        made = [new for new in (place, *place.parents) if not new.exists()]
        try:
            place.mkdir(parents=True, exist_ok=folder is not None)
            break
        except OSError as error:
            if folder is None and isinstance(error, FileExistsError):
                continue  # another run began in the same second
            raise MinicnnError(f"cannot make the run folder {place}: {error.strerror}") from None
    try:
        yield place
    finally:
        with suppress(OSError):
            for new in made:
                new.rmdir()


def final_report(ended: RunEnded, network: Network, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `report.json` holds and ``--json`` prints."""
    from llvmlite.binding import get_host_cpu_name

    return {
        **{name: getattr(ended, name) for name in _FIGURES},
        "test": plain(ended.test) if ended.test else None,
        "network": network.name,
        "parameters": network.parameter_count,
        "settings": dict(settings),
        "output": str(ended.output),
        "machine": {
            "platform": platform.platform(),
            "cpu": get_host_cpu_name(),
            "cores": os.cpu_count(),
        },
        "versions": {
            "python": platform.python_version(),
            "minicnn": __version__,
            **{name: version(name) for name in ("numba", "numpy")},
        },
    }
