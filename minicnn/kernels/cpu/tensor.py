"""The operations of whole-tensor rules (`minicnn.rules.operations`) as compiled code puts them in.

A sum is taken in float64. The product is the register tile's; where the second factor is transposed, panels of it are
turned on the stack, so that nothing is allocated.
"""

import math

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from minicnn.kernels.cpu.call import call, compiled
from minicnn.kernels.cpu.tile import JIT, multiply, multiply_address
from minicnn.kernels.cpu.vector import transpose
from minicnn.rules import operations

_PANEL = 64  # rows and columns of a panel


def provide_product(dtype) -> None:
    """Make the matrix product known by name: compiled rules on the disk call it so, as its address changes."""
    number = from_dtype(np.dtype(dtype))
    matrix = types.Array(number, 2, "C")
    llvm.add_symbol(f"minicnn_multiply_{number}", multiply_address(dtype))
    address = compiled(_matmul, matrix, matrix, matrix, types.int64, types.int64).address
    llvm.add_symbol(f"minicnn_matmul_{number}", address)


def _address_of(symbol):
    """An intrinsic: the address of what `provide_product` made known, for the dtype of an array."""

    @intrinsic
    def address(typing_context, array):
        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.VoidType(), [])
            function = cgutils.get_or_insert_function(builder.module, kind, f"{symbol}_{array.dtype}")
            return builder.ptrtoint(function, ir.IntType(64))

        return types.int64(array), generate

    return address


_multiply_address, _matmul_address = _address_of("minicnn_multiply"), _address_of("minicnn_matmul")


@intrinsic
def _panel(typing_context, array):
    """A pointer to room for one panel of the dtype of ``array``, on the stack."""

    def generate(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, context.get_value_type(array.dtype), size=_PANEL * _PANEL)

    return types.CPointer(array.dtype)(array), generate


@njit(**JIT)
def _dot(a, b):
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@njit(cache=True, **JIT)
def norm(a):
    """√Σ a² of a flat vector, in float64."""
    return math.sqrt(_dot(a, a))


@njit(cache=True, **JIT)
def axpy(factor, x, y):
    """y ← factor · x + y of flat vectors."""
    factor = y.dtype.type(factor)
    for i in range(len(y)):
        y[i] += factor * x[i]


@overload(operations.norm)
def _norm_of(a):
    return lambda a: a.dtype.type(norm(a.reshape(-1)))


@overload(operations.dot)
def _dot_of(a, b):
    return lambda a, b: a.dtype.type(_dot(a.reshape(-1), b.reshape(-1)))


@overload(operations.axpy)
def _axpy_of(factor, x, y):
    return lambda factor, x, y: axpy(factor, x.reshape(-1), y.reshape(-1))


@overload(operations.matmul)
def _matmul_of(a, b, out, transpose_a=False, transpose_b=False):
    def matmul(a, b, out, transpose_a=False, transpose_b=False):
        call(_matmul_address(out), (a, b, out, np.int64(transpose_a), np.int64(transpose_b)))

    return matmul


@njit(**JIT)
def _matmul(a, b, out, transpose_a, transpose_b):
    """out ← A · B. Compiled code cannot raise: where the shapes do not fit, ``out`` becomes not a number."""
    address = _multiply_address(out)
    rows, columns = out.shape
    a_rows, inner = (a.shape[1], a.shape[0]) if transpose_a else (a.shape[0], a.shape[1])
    b_rows, b_columns = (b.shape[1], b.shape[0]) if transpose_b else (b.shape[0], b.shape[1])
    if a_rows != rows or b_rows != inner or b_columns != columns:
        out[:] = np.nan
        return
    a_row, a_inner = (1, rows) if transpose_a else (inner, 1)
    left, right, result = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    if not transpose_b:
        multiply(address, rows, columns, 1, inner, left, 0, a_row, 0, a_inner, right, 0, 0, columns,
                 result, -1, 0, result, 0, columns)  # fmt: skip
        return
    panel = numba.carray(_panel(out), (_PANEL * _PANEL,))
    for k in range(0, inner, _PANEL):
        depth = min(_PANEL, inner - k)
        for n in range(0, columns, _PANEL):
            width = min(_PANEL, columns - n)
            transpose(right, n * inner + k, width, depth, inner, panel, 0, width)
            multiply(address, rows, width, 1, depth, left, k * a_inner, a_row, 0, a_inner, panel, 0, 0, width,
                     result, n if k > 0 else -1, columns, result, n, columns)  # fmt: skip
