"""Rows for whole processes: cold and warm start of `python -m minicnn train`, and peak memory."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rows import Context, Row, RowFailed, Task
from timing import spread

from minicnn import load_dataset
from minicnn.errors import DataError

_HERE = Path(__file__).parent
# The default network, optimizer, loss and data; few images, because only compiling and the first
# batch count.
_START = ["train", "--quiet", "--epochs", "1", "--limit", "640"]


def tasks(threads: int) -> list[Task]:
    """All rows of processes; ``threads`` for training in the memory rows."""
    return [
        Task("start", "command to first batch, warm cache", threads, _warm_start, True),
        Task("start", "compiling all that train needs, empty cache", threads, _cold_start),
        Task("memory", "training LeNet-5 on 60,000 images, batch 64", threads, _memory),
        Task("memory", "growth from batch 64 to batch 4096", threads, _memory_growth),
    ]


def _child(script: str, arguments: list[str], cache: Path | None = None) -> dict[str, Any]:
    """Run a child; return its JSON with ``seconds`` to its end and ``seconds_to_first_batch``."""
    environment = os.environ | ({"NUMBA_CACHE_DIR": str(cache)} if cache else {})
    command = [sys.executable, str(_HERE / script), *arguments]
    started = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    ended = time.time()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RowFailed(
            f"{script} {' '.join(arguments)} ended with status {done.returncode}: {last}"
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {
        "seconds": ended - started,
        "seconds_to_first_batch": found["first_batch"] - started,
    }


def _train(arguments: list[str], cache: Path | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _child("child_minicnn.py", [*arguments, "--output", f"{folder}/run"], cache)


def _warm_start(context: Context) -> Row:
    _train(_START)  # fills the cache
    runs = [_train(_START)["seconds_to_first_batch"] for _ in range(3)]
    row = Row("start", "command to first batch, warm cache", _cores())
    row.figures = {"seconds": float(np.median(runs)), "lowest": min(runs), "highest": max(runs)}
    return row


def _cold_start(context: Context) -> Row:
    """The whole command with an empty cache, minus the same with the cache that it left."""
    with tempfile.TemporaryDirectory() as cache:
        cold = _train(_START, Path(cache))
        warm = [_train(_START, Path(cache))["seconds"] for _ in range(2)]
    row = Row("start", "compiling all that train needs, empty cache", _cores())
    row.figures = {
        "seconds": cold["seconds"] - min(warm),
        "command to first batch": cold["seconds_to_first_batch"],
    }
    return row


def _memory(context: Context) -> Row:
    ours = _peak(64)
    row = Row(
        "memory",
        "training LeNet-5 on 60,000 images, batch 64",
        _cores(),
        figures={"minicnn MB": ours},
    )
    if find_spec("torch"):
        theirs = _child("child_torch.py", [str(_full_data()[1]), "64", str(_cores())])[
            "peak_megabytes"
        ]
        row.figures["torch MB"] = theirs
        row.share, row.share_of = spread(np.array([ours / theirs])), "torch"
    return row


def _memory_growth(context: Context) -> Row:
    small, large = _peak(64), _peak(4096)
    figures = {"minicnn MB": small, "minicnn MB at 4096": large, "growth": large / small - 1}
    return Row("memory", "growth from batch 64 to batch 4096", _cores(), figures=figures)


@cache
def _peak(batch: int) -> float:
    """Peak MB of `minicnn train` on the full data."""
    _train(_START)  # compiling takes memory of its own
    arguments = [
        "--quiet",
        "--data",
        _full_data()[0],
        "--model",
        "lenet5",
        "--epochs",
        "1",
        "--batch-size",
        str(batch),
    ]
    return _train(["train", *arguments])["peak_megabytes"]


@cache
def _full_data() -> tuple[str, Path]:
    """What minicnn's ``--data`` gets, and an uncompressed NPZ of the same for PyTorch.

    Fashion-MNIST, or noise of the same size where it is not found.
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "full.npz"
    try:
        data = load_dataset("fashion-mnist")
        assert data.test is not None
        arrays = {
            "x_train": data.train.images[..., 0],
            "y_train": data.train.labels,
            "x_test": data.test.images[..., 0],
            "y_test": data.test.labels,
        }
        name = "fashion-mnist"
    except DataError:
        rng = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", 60_000), ("test", 10_000)):
            arrays[f"x_{split}"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            arrays[f"y_{split}"] = rng.integers(0, 10, count)
        name = str(path)
    np.savez(path, **arrays)
    return name, path


def _cores() -> int:
    return os.cpu_count() or 1
