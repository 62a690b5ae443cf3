"""The two long runs in the simulator, each on one core: they go on side by side from the first test
that asks for one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("passes_on_device.py", "training_on_device.py")


if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from tests.cuda import simulator  # noqa: F401


@pytest.fixture(scope="session")
def simulated():
    """``simulated(file)``: (exit status, output) of the tests in a file of this folder, in the
    simulator."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    processes = {}
    for file in FILES:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"tests/cuda/{file}",
        ]
        processes[file] = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def outcome(file):
        output, _ = processes[file].communicate(timeout=900)
        return processes[file].returncode, output

    yield outcome
    for process in processes.values():
        if process.poll() is None:
            process.kill()
