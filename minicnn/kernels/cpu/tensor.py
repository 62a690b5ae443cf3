"""What rules on whole steps do with vectors and matrices: norm, dot, axpy, matmul. A sum is taken
in float64."""

import math

import numpy as np
from numba import njit

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.tile import ENTRY, Rows, Scalars, Vectors, multiply
from minicnn.kernels.cpu.vector import transpose

_PANEL = 64  # rows and columns of a panel


@cached
@njit(**ENTRY)
def dot(x, y):
    """Σ x·y of flat vectors, in float64."""
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i]) * np.float64(y[i])
    return total


@cached
@njit(**ENTRY)
def norm(x):
    """√Σ x² of a flat vector, in float64."""
    return math.sqrt(dot(x, x))


@cached
@njit(**ENTRY)
def axpy(factor, x, y):
    """y ← factor · x + y of flat vectors."""
    factor = y.dtype.type(factor)
    for i in range(len(y)):
        y[i] += factor * x[i]


@cached
@njit(**ENTRY)
def matmul(address, a, b, out, transpose_a, transpose_b):
    """out [rows, columns] ← A · B, A being ``a`` or its transpose, B likewise, by the register tile
    at ``address``.

    The tile reads vectors along the columns of B: where ``b`` holds its transpose, panels of it are
    transposed before.
    """
    rows, columns = out.shape
    inner = a.shape[0] if transpose_a else a.shape[1]
    a_row, a_inner = (1, rows) if transpose_a else (inner, 1)
    left, right, result = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    if not transpose_b:
        multiply(
            address,
            (rows, columns, 1, inner),
            Scalars(left, 0, a_row, 0, a_inner),
            Vectors(right, 0, 0, columns),
            Rows(result, -1, 0),
            Rows(result, 0, columns),
        )
        return
    panel = np.empty(_PANEL * _PANEL, out.dtype)
    for k in range(0, inner, _PANEL):
        depth = min(_PANEL, inner - k)
        for n in range(0, columns, _PANEL):
            width = min(_PANEL, columns - n)
            transpose(Rows(right, n * inner + k, inner), Rows(panel, 0, width), width, depth)
            multiply(
                address,
                (rows, width, 1, depth),
                Scalars(left, k * a_inner, a_row, 0, a_inner),
                Vectors(panel, 0, 0, width),
                Rows(result, n if k > 0 else -1, columns),
                Rows(result, n, columns),
            )
