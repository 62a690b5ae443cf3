"""What is compiled from an empty disk cache, and by whom."""

import subprocess
import sys

import pytest

# Compiled for a run with lenet5 on threads: functions by themselves or as parts of others, and
# those of them that a cache keeps.
MOST_FUNCTIONS, MOST_FILES = 70, 22
TRAIN = """
import os, sys
from pathlib import Path
from numba.core import event
sys.executable = sys.argv[1]

class Counter(event.Listener):
    count = 0
    def on_start(self, event): self.count += 1
    def on_end(self, event): pass

counter = Counter()
event.register("numba:compile", counter)
from minicnn.cli import main
assert main(["train", "--model", "lenet5", "--dry-run", "--threads", "2"]) == 0
files = [*Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc")]
print(counter.count, len(files))
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")

    def run(executable):
        """(functions that this process compiled, files in the cache)"""
        command = [sys.executable, "-c", TRAIN, str(executable)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        return [int(number) for number in result.stdout.split()[-2:]]

    return run


@pytest.mark.slow
def test_training_compiles_few_functions_and_another_process_only_helps(train, tmp_path):
    broken = tmp_path / "python-that-fails"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    functions, files = train(broken)
    assert 40 < functions <= MOST_FUNCTIONS and 10 < files <= MOST_FILES
    assert train(broken) == [0, files]


@pytest.mark.slow
def test_another_process_compiles_a_part(train):
    functions, files = train(sys.executable)
    assert 10 < files <= MOST_FILES
    assert 0 < functions < MOST_FUNCTIONS - 8
    assert train(sys.executable) == [0, files]
