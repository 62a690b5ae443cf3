"""Vectors of the machine's width, and of 32 bytes where it has longer ones, read and write the
numbers that they should, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from minicnn.kernels.cpu.tile import ENTRY, VECTOR_BYTES, Rows
from minicnn.kernels.cpu.vector import load, store, transpose

AVX2 = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}


@njit(**ENTRY)
def _move(source, target, at, count):
    store(target, at, load(source, at, count), count)


@njit(**ENTRY)
def _transpose(source, target, rows, columns):
    transpose(Rows(source, 0, columns), Rows(target, 3, rows), rows, columns)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_store_writes_the_first_lanes_alone(dtype):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    numbers = np.arange(1, 3 * lanes + 1, dtype=dtype)
    for count in range(-3, lanes + 3):
        written = np.full(3 * lanes, -1, dtype)
        _move(numbers, written, 2, count)
        expected = np.full(3 * lanes, -1, dtype)
        end = 2 + max(0, min(count, lanes))
        expected[2:end] = numbers[2:end]
        np.testing.assert_array_equal(written, expected, f"{count} lanes")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transpose_writes_its_target_alone(dtype):
    most = VECTOR_BYTES // np.dtype(dtype).itemsize + 3
    for rows in range(1, most):
        for columns in range(1, most):
            source = np.arange(rows * columns, dtype=dtype)
            written = np.full(rows * columns + 6, -1, dtype)
            _transpose(source, written, rows, columns)
            expected = np.pad(source.reshape(rows, -1).T.ravel(), 3, constant_values=-1)
            np.testing.assert_array_equal(written, expected, f"{rows}×{columns}")


SHORT = pytest.mark.skipif(VECTOR_BYTES <= 32, reason="these are the machine's own vectors")


def passes_with_avx2(*tests):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    run = subprocess.run(
        command, env=os.environ | AVX2, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout[-2000:]
    return run.stdout


@SHORT
def test_vectors_of_32_bytes_do_the_same():
    assert passes_with_avx2(__file__, "-k", "alone").startswith("....")


@SHORT
@pytest.mark.slow
def test_all_passes_equal_the_oracle_with_vectors_of_32_bytes():
    folder = Path(__file__).parent
    passes_with_avx2(
        *(str(folder / f"test_{name}.py") for name in ("passes", "graphs", "winograd"))
    )
