"""The CUDA backend beside the CPU's: in the simulator, in a process of its own; the same tests on a
GPU if asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_training_and_inference_equal_the_cpus_in_the_simulator(simulated):
    status, output = simulated("training_on_device.py")
    assert status == 0, output[-5000:]


@pytest.mark.gpu
def test_training_and_inference_equal_the_cpus_on_a_gpu():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/cuda/training_on_device.py",
    ]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
