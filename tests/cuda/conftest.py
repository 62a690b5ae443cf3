"""The two long runs in the simulator, each on one core: they go on side by side from the first test
that asks for one."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("passes_on_device.py", "training_on_device.py")


class Arrays(dict):
    """The shared arrays of a block by line. In the simulator alone, two threads that ask at one
    moment may get one each."""

    def __init__(self):
        super().__init__()
        self.asked, self.lock = set(), threading.Lock()

    def get(self, line):
        """None for the first who asks, and makes the array; the others wait for it."""
        with self.lock:
            if line not in self.asked:
                self.asked.add(line)
                return None
        while line not in self:
            time.sleep(0)
        return self[line]


if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    begin = FakeCUDAShared.__init__

    def begin_with_arrays(self, size):
        begin(self, size)
        self._allocations = Arrays()

    FakeCUDAShared.__init__ = begin_with_arrays


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
