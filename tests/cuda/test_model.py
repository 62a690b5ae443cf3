"""The performance model of a training step, and what it was asked: how many launches a small network needs."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "cuda_model.py"


def model(*options):
    """What the script prints."""
    return subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def parts():
    """What is printed of each network and batch."""
    printed = model("--bandwidth", "1555", "--peak", "19.5", "--launch", "3", "--multiprocessors", "108")
    return {part.split(":")[0]: part for part in printed.strip().split("\n\n")}


def test_a_step_of_lenet_at_batch_64_takes_at_most_ten_launches(parts):
    assert set(parts) == {f"{name}, batch {n}" for name in ("lenet5", "vgg-small") for n in (64, 1024)}
    assert "walked, 7 launches" in parts["lenet5, batch 64"]


def test_the_operations_of_a_convolution_are_those_of_its_formula(parts):
    row = next(line for line in parts["vgg-small, batch 1024"].splitlines() if "conv2d 2 forward" in line)
    assert float(row.split()[4]) == pytest.approx(2 * 1024 * 14 * 14 * 64 * 9 * 32 / 1e6, abs=0.01)
    assert float(row.split()[3]) == pytest.approx(4 * (1024 * (14 * 14 * 32 + 14 * 14 * 64) + 9 * 32 * 64) / 1e3, abs=1)


def test_launches_dominate_a_small_batch_on_a_card_with_slow_launches():
    printed = model("--bandwidth", "900", "--peak", "15", "--launch", "1000")
    assert "at least 7" in printed and "7000 of them to launch" in printed
