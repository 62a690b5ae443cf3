"""What rules on whole steps do with vectors and matrices besides `step.axpy` and
`step.square_sums`: scale, dot, matmul."""

import numpy as np
from numba import cuda, float32, types

from minicnn.kernels.cuda.step import NUMBERS, ROWS, block_sum
from minicnn.kernels.cuda.tile import THREADS_LOG2

_SIDE_LOG2 = THREADS_LOG2 // 2
SIDE = 1 << _SIDE_LOG2  # of the square of results that a block computes at a time, one a thread


def scale(factor, x):
    """x ← factor · x of a vector."""
    for i in range(cuda.grid(1), len(x), cuda.gridsize(1)):
        x[i] = factor * x[i]


def products(x, y, sums):
    """``sums`` [blocks] of the products x·y of two vectors."""
    total = float32(0)
    for i in range(cuda.grid(1), len(x), cuda.gridsize(1)):
        total += x[i] * y[i]
    total = block_sum(total)
    if cuda.threadIdx.x == 0:
        sums[cuda.blockIdx.x] = total


def matmul(a, b, out, transpose_a, transpose_b):
    """out [rows, columns] ← A · B, A being ``a`` or its transpose, B likewise, square by square
    through shared memory."""
    left = cuda.shared.array((SIDE, SIDE), float32)
    right = cuda.shared.array((SIDE, SIDE), float32)
    rows, columns = np.int32(out.shape[0]), np.int32(out.shape[1])
    inner = np.int32(a.shape[0] if transpose_a else a.shape[1])
    x, y = np.int32(cuda.threadIdx.x & (SIDE - 1)), np.int32(cuda.threadIdx.x >> _SIDE_LOG2)
    across = np.int32((columns + SIDE - 1) >> _SIDE_LOG2)
    squares = np.int32(across * ((rows + SIDE - 1) >> _SIDE_LOG2))
    for square in range(np.int32(cuda.blockIdx.x), squares, np.int32(cuda.gridDim.x)):
        m, n = (
            np.int32((square // across << _SIDE_LOG2) + y),
            np.int32((square % across << _SIDE_LOG2) + x),
        )
        total = float32(0)
        for k in range(np.int32(0), inner, np.int32(SIDE)):
            left[y, x] = float32(0)
            right[y, x] = float32(0)
            if m < rows and k + x < inner:
                left[y, x] = a[k + x, m] if transpose_a else a[m, k + x]
            if n < columns and k + y < inner:
                right[y, x] = b[n, k + y] if transpose_b else b[k + y, n]
            cuda.syncthreads()
            for j in range(SIDE):
                total += left[y, j] * right[j, x]
            cuda.syncthreads()
        if m < rows and n < columns:
            out[m, n] = total


SIGNATURES = {
    scale: types.void(types.float32, NUMBERS),
    products: types.void(NUMBERS, NUMBERS, NUMBERS),
    matmul: types.void(ROWS, ROWS, ROWS, types.boolean, types.boolean),
}
