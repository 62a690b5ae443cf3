"""A small data set, a model of it, and the command line called in this process and as one of its
own."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from minicnn.cli import main

SOFTMAX = ("--data", "tiny.npz", "--model", "softmax")
CONVOLUTIONAL = """
[[layers]]
type = "Conv2d"
filters = 4
kernel_size = 3

[[layers]]
type = "ReLU"

[[layers]]
type = "Flatten"

[[layers]]
type = "Dropout"
rate = 0.3

[[layers]]
type = "Dense"
units = "classes"
"""


def arrays(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images 8×8 of three classes, bright in other rows each."""
    labels = np.arange(images) % 3
    pixels = np.random.default_rng(seed).integers(0, 80, (images, 8, 8), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 3] += np.uint8(150)
    return pixels, labels


def write_npz(path: Path, **changes) -> Path:
    """The tiny set as NPZ; an array that is None is left out."""
    (x, y), (x_test, y_test) = arrays(60, 0), arrays(30, 1)
    made = {
        "x_train": x,
        "y_train": y,
        "x_test": x_test,
        "y_test": y_test,
        "class_names": np.array(["ant", "bee", "cat"]),
    }
    np.savez(
        path, **{key: array for key, array in {**made, **changes}.items() if array is not None}
    )
    return path


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr that says what is wrong."""
        assert self.status in (1, 2), self
        assert self.err.startswith("minicnn: error: ") and self.err.count("\n") == 1, self.err
        return self.err


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test works in a folder of its own, which holds tiny.npz."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "MINICNN_DATA", "MINICNN_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    write_npz(tmp_path / "tiny.npz")
    return tmp_path


@pytest.fixture
def minicnn(capsys):
    """Run the command line in this process."""

    def call(*argv) -> Result:
        capsys.readouterr()
        status = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        return Result(status, out, err)

    return call


@pytest.fixture
def model(minicnn):
    """The run folder of a trained model."""
    result = minicnn(
        "train", *SOFTMAX, "--epochs", 30, "--lr", 0.05, "--output", "model", "--quiet"
    )
    assert result.status == 0, result.err
    return "model"


def command(*argv) -> list[str]:
    return [sys.executable, "-m", "minicnn", *map(str, argv)]


def process(*argv, **options) -> subprocess.CompletedProcess:
    """Run the command line as a process of its own, which is no terminal."""
    return subprocess.run(
        command(*argv), capture_output=True, text=True, timeout=300, check=False, **options
    )


def python(code: str) -> str:
    """What ``code`` prints in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
