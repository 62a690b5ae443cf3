"""Training over MPI, by ranks of their own: the same bits as threads give, and the end of all when one ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = Path(__file__).parent / "ranks.py"
MPIEXEC = Path(sys.executable).parent / "mpiexec"


def mpiexec(ranks, *command, **environment):
    """What ``ranks`` processes of this Python did with ``command``."""
    return subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def of_ranks(ranks, threads, cores=2):
    result = mpiexec(ranks, RANKS, threads, "distributed", NUMBA_NUM_THREADS=str(cores))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def of_threads(threads):
    result = subprocess.run(
        [sys.executable, RANKS, str(threads), "alone"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NUMBA_NUM_THREADS": str(threads)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def two_threads():
    return of_threads(2)


@pytest.fixture(scope="module")
def two_ranks(two_threads):
    return of_ranks(2, 1)


@pytest.mark.parametrize("name", ["plain", "normalized"])
def test_two_ranks_give_the_bits_of_two_threads(two_threads, two_ranks, name):
    assert two_ranks[name] == two_threads[name]


@pytest.mark.slow
def test_four_shards_give_the_same_bits_however_ranks_have_them():
    expected = of_threads(4)
    for ranks, threads in ((4, 1), (2, 2), (1, 4)):
        found = of_ranks(ranks, threads, cores=4)
        assert [found[name] for name in ("plain", "normalized")] == [
            expected[name] for name in ("plain", "normalized")
        ]


def test_statistics_of_each_rank_alone_are_others(two_threads, two_ranks):
    found, expected = two_ranks["fast"]["epochs"][-1], two_threads["fast"]["epochs"][-1]
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=0.2)
    assert found["train_loss"] != expected["train_loss"]
