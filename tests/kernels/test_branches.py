"""The geometries of the tests against the oracle reach every branch of the CPU's kernels."""

import json
import subprocess
import sys
from pathlib import Path


def test_the_geometries_of_the_tests_reach_every_branch_of_the_kernels():
    """By the kernels as plain Python, in a process of its own: see `tests.kernels.branches`."""
    command = [sys.executable, "-m", "tests.kernels.branches"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["watched"] > 600
    assert found["missed"] == {}
