"""The operations of rules on whole tensors (`minicnn.rules.operations`), as one block of threads does them together.

Every thread of the block calls them with the same arguments; each ends with a barrier.
"""

import math

import numpy as np
from numba import cuda, float32, types

from minicnn.kernels.cuda.step import add_square, block_squares, block_sum
from minicnn.kernels.cuda.tile import SIMULATED, THREADS, THREADS_LOG2, device

_SIDE_LOG2 = THREADS_LOG2 // 2
_SIDE = 1 << _SIDE_LOG2  # of the square of results that the block computes at a time, one a thread


def reshaped(array, shape):
    """A contiguous array in another shape of as many elements: a size, or a tuple of sizes."""
    return array.reshape(shape)


if not SIMULATED:
    from numba.cuda.cgutils import unpack_tuple
    from numba.cuda.extending import intrinsic
    from numba.cuda.np.arrayobj import populate_array

    @intrinsic
    def reshaped(typing_context, array, shape):
        """The same, compiled: Numba's own compares sizes in float64 and calls a C function, and what does is not cached."""
        kinds = shape if isinstance(shape, types.BaseTuple) else (shape,)
        made = types.Array(array.dtype, len(kinds), "C")

        def generate(context, builder, signature, values):
            given, view = context.make_array(array)(context, builder, values[0]), context.make_array(made)(context, builder)
            sizes = values[1:] if kinds is not shape else unpack_tuple(builder, values[1])
            sizes = [context.cast(builder, size, kind, types.intp) for size, kind in zip(sizes, kinds, strict=True)]
            strides = [given.itemsize]
            for size in sizes[:0:-1]:
                strides.insert(0, builder.mul(strides[0], size))
            populate_array(view, given.data, sizes, strides, given.itemsize, given.meminfo)
            return view._getvalue()

        return made(array, shape), generate


@device
def norm(a):
    """√Σ a²."""
    numbers = reshaped(a, a.size)
    size, total = float32(0), float32(0)
    for i in range(cuda.threadIdx.x, len(numbers), THREADS):
        size, total = add_square(size, total, numbers[i])
    size, total = block_squares(size, total)
    return float32(size * math.sqrt(total))


@device
def dot(a, b):
    """Σ a·b of two matrices of one shape."""
    left, right = reshaped(a, a.size), reshaped(b, b.size)
    total = float32(0)
    for i in range(cuda.threadIdx.x, len(left), THREADS):
        total += left[i] * right[i]
    return block_sum(total)


@device
def axpy(factor, x, y):
    """y ← factor · x + y."""
    added, result = reshaped(x, x.size), reshaped(y, y.size)
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, len(result), THREADS):
        result[i] += np.float32(factor) * added[i]
    cuda.syncthreads()


@device
def matmul(a, b, out, transpose_a=False, transpose_b=False):
    """out ← A · B, square by square. Compiled code cannot raise: shapes that do not fit make ``out`` not a number."""
    left = cuda.shared.array((_SIDE, _SIDE), float32)
    right = cuda.shared.array((_SIDE, _SIDE), float32)
    rows, columns = np.int32(out.shape[0]), np.int32(out.shape[1])
    a_width, b_width = np.int32(a.shape[1]), np.int32(b.shape[1])
    a_rows, inner = (a_width, np.int32(a.shape[0])) if transpose_a else (np.int32(a.shape[0]), a_width)
    b_rows, b_columns = (b_width, np.int32(b.shape[0])) if transpose_b else (np.int32(b.shape[0]), b_width)
    fits = a_rows == rows and b_rows == inner and b_columns == columns
    a_numbers, b_numbers, results = reshaped(a, a.size), reshaped(b, b.size), reshaped(out, out.size)
    x, y = np.int32(cuda.threadIdx.x & (_SIDE - 1)), np.int32(cuda.threadIdx.x >> _SIDE_LOG2)
    m = y
    while m - y < rows:
        n = x
        while n - x < columns:
            total = float32(0) if fits else float32(math.nan)
            k = np.int32(0)
            while k < inner and fits:
                cuda.syncthreads()
                left[y, x] = float32(0)
                right[y, x] = float32(0)
                if m < rows and k + x < inner:
                    left[y, x] = a_numbers[np.uint64((k + x) * a_width + m if transpose_a else m * a_width + k + x)]
                if n < columns and k + y < inner:
                    right[y, x] = b_numbers[np.uint64(n * b_width + k + y if transpose_b else (k + y) * b_width + n)]
                cuda.syncthreads()
                for j in range(_SIDE):
                    total += left[y, j] * right[j, x]
                k = np.int32(k + _SIDE)
            if m < rows and n < columns:
                results[np.uint64(m * columns + n)] = total
            n = np.int32(n + _SIDE)
        m = np.int32(m + _SIDE)
    cuda.syncthreads()


OPERATIONS = {"norm": norm, "dot": dot, "axpy": axpy, "matmul": matmul}
