"""The performance model of a training step, and what it was asked: how many launches a small network needs."""

import re
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


def test_a_good_share_of_what_a_walk_of_lenet_multiplies_is_of_use(parts):
    shares = {row.split(":")[0].split()[0]: int(share) for row in parts["lenet5, batch 64"].splitlines()
              for share in re.findall(r"(\d+)%", row)}  # fmt: skip
    assert shares["forward"] >= 50 and shares["backward"] >= 20 and shares["filter_gradients"] >= 45


def test_a_stride_makes_the_multiplications_of_dx_no_less_useful():
    sys.path.insert(0, str(SCRIPT.parent))
    import cuda_model

    from minicnn import Conv2d, Network
    from minicnn.network.layers import Flatten

    useful = {}
    for stride in (1, 2):
        network = Network((32, 32, 16), [Conv2d(16, 1), Conv2d(64, 3, stride=stride, padding=1), Flatten()])
        useful[stride] = {one.kernel: one.useful for one in cuda_model.step(network, 64, False)}["conv2d 1 dx"]
    assert useful[2] > 0.9 * useful[1] > 0.5
