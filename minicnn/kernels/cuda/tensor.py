"""The operations of rules on whole tensors (`minicnn.rules.operations`), as one block of threads does them together.

Every thread of the block calls them with the same arguments; each ends with a barrier.
"""

import math

import numpy as np
from numba import cuda, float32

from minicnn.kernels.cuda.step import add_square, block_squares, block_sum
from minicnn.kernels.cuda.tile import THREADS, THREADS_LOG2, device

_SIDE_LOG2 = THREADS_LOG2 // 2
_SIDE = 1 << _SIDE_LOG2  # of the square of results that the block computes at a time; threads beyond it wait


@device
def norm(a):
    """√Σ a²."""
    numbers = a.reshape(a.size)
    size, total = float32(0), float32(0)
    for i in range(cuda.threadIdx.x, len(numbers), THREADS):
        size, total = add_square(size, total, numbers[i])
    size, total = block_squares(size, total)
    return float32(size * math.sqrt(total))


@device
def dot(a, b):
    """Σ a·b of two matrices of one shape."""
    left, right = a.reshape(a.size), b.reshape(b.size)
    total = float32(0)
    for i in range(cuda.threadIdx.x, len(left), THREADS):
        total += left[i] * right[i]
    return block_sum(total)


@device
def axpy(factor, x, y):
    """y ← factor · x + y."""
    added, result = x.reshape(x.size), y.reshape(y.size)
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, len(result), THREADS):
        result[i] += np.float32(factor) * added[i]
    cuda.syncthreads()


@device
def matmul(a, b, out, transpose_a=False, transpose_b=False):
    """out ← A · B, square by square. Compiled code cannot raise: shapes that do not fit make ``out`` not a number."""
    left = cuda.shared.array((_SIDE, _SIDE), float32)
    right = cuda.shared.array((_SIDE, _SIDE), float32)
    rows, columns = out.shape
    a_rows, inner = (a.shape[1], a.shape[0]) if transpose_a else (a.shape[0], a.shape[1])
    b_rows, b_columns = (b.shape[1], b.shape[0]) if transpose_b else (b.shape[0], b.shape[1])
    fits = a_rows == rows and b_rows == inner and b_columns == columns
    x, y = cuda.threadIdx.x & (_SIDE - 1), cuda.threadIdx.x >> _SIDE_LOG2
    for m in range(0, rows, _SIDE):
        for n in range(0, columns, _SIDE):
            total = float32(0) if fits else float32(math.nan)
            for k in range(0, inner if fits else 0, _SIDE):
                cuda.syncthreads()
                if y < _SIDE:
                    left[y, x] = float32(0)
                    right[y, x] = float32(0)
                if y < _SIDE and m + y < rows and k + x < inner:
                    left[y, x] = a[k + x, m + y] if transpose_a else a[m + y, k + x]
                if y < _SIDE and k + y < inner and n + x < columns:
                    right[y, x] = b[n + x, k + y] if transpose_b else b[k + y, n + x]
                cuda.syncthreads()
                for j in range(_SIDE if y < _SIDE else 0):
                    total += left[y, j] * right[j, x]
            if y < _SIDE and m + y < rows and n + x < columns:
                out[m + y, n + x] = total
    cuda.syncthreads()


OPERATIONS = {"norm": norm, "dot": dot, "axpy": axpy, "matmul": matmul}
