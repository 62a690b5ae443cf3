"""The kernels of the passes in the simulator, in a process of its own; and that these tests notice
broken kernels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = Path("minicnn", "kernels", "cuda")


def run(root=ROOT, *options, file="passes_on_device.py", simulator="1"):
    """Run the tests of ``file`` under ``root``, in the simulator or on a GPU."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"tests/cuda/{file}",
        *options,
    ]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": simulator}
    return subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=900, check=False
    )


def test_the_kernels_equal_the_oracle_and_the_cpu_in_the_simulator():
    done = run()
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.gpu
def test_the_kernels_equal_the_oracle_and_the_cpu_on_a_gpu():
    done = run(simulator="0")
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize(
    ("file", "code", "broken", "test"),
    [
        ("product.py", "if column < columns:", "if True:", "dense_layers_equal"),
        (
            "axis.py",
            "end if end < axis.size else axis.size",
            "end",
            "pooling_equals and 3-2-1",
        ),
        (
            "product.py",
            "cuda.syncthreads()\n        if iteration < iterations:",
            "if iteration < iterations:",
            "convolutions_equal and shape1",
        ),
    ],
    ids=["columns beyond the product", "windows beyond the image", "no barrier in a tile"],
)
def test_an_access_out_of_bounds_and_a_missing_barrier_are_noticed(
    tmp_path, file, code, broken, test
):
    for folder in ("minicnn", "tests"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__", "embedded"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = (tmp_path / KERNELS / file).read_text(encoding="utf-8")
    assert code in source
    (tmp_path / KERNELS / file).write_text(source.replace(code, broken), encoding="utf-8")
    done = run(tmp_path, "-x", "-k", test)
    assert done.returncode == 1, done.stdout[-3000:]
    assert "stopping after 1 failures" in done.stdout
