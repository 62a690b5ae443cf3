"""Four neighbouring numbers in one access of 128 bits, the widest that a thread has: `load4` and
`store4`.

A kernel that does little with each number takes as long as its loads and stores, and four times
fewer of them keep the memory of a GPU busier. The hardware wants such an access at a multiple of
16 bytes; where a place is none, or fewer than four numbers are left, they go one by one.
"""

import numpy as np
from numba import types

from minicnn.kernels.cuda.tile import SIMULATED, device


def _aligned(array, i):
    """Whether array[i] is at a multiple of 16 bytes."""
    return i % 4 == 0


def _load(array, i):
    """array[i : i + 4] as a tuple."""
    return array[i], array[i + 1], array[i + 2], array[i + 3]


def _store(array, i, a, b, c, d):
    """array[i : i + 4] ← a, b, c, d."""
    array[i], array[i + 1], array[i + 2], array[i + 3] = a, b, c, d


if not SIMULATED:  # the same three, compiled
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    _FOUR, _INDEX = ir.VectorType(ir.FloatType(), 4), ir.IntType(64)

    def _place(context, builder, signature, values):
        """The address of array[i], the first two of ``values``."""
        array = context.make_array(signature.args[0])(context, builder, values[0])
        return builder.bitcast(builder.gep(array.data, [values[1]]), ir.PointerType(_FOUR))

    @intrinsic
    def _aligned(typing_context, array, i):
        def build(context, builder, *given):
            rest = builder.and_(
                builder.ptrtoint(_place(context, builder, *given), _INDEX), _INDEX(15)
            )
            return builder.icmp_unsigned("==", rest, _INDEX(0))

        return types.boolean(array, types.int64), build

    @intrinsic
    def _load(typing_context, array, i):
        def build(context, builder, signature, values):
            four = builder.load(_place(context, builder, signature, values), align=16)
            numbers = [builder.extract_element(four, _INDEX(k)) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, numbers)

        return types.UniTuple(types.float32, 4)(array, types.int64), build

    @intrinsic
    def _store(typing_context, array, i, a, b, c, d):
        def build(context, builder, signature, values):
            four = _FOUR(ir.Undefined)
            for k in range(4):
                four = builder.insert_element(four, values[2 + k], _INDEX(k))
            builder.store(four, _place(context, builder, signature, values), align=16)
            return context.get_dummy_value()

        return types.void(array, types.int64, *[types.float32] * 4), build


@device
def load4(array, i, end):
    """array[i : i + 4], a tuple of float32 with 0 for numbers from ``end`` on."""
    if i + 4 <= end and _aligned(array, i):
        return _load(array, i)
    return (
        _one(array, i, end),
        _one(array, i + 1, end),
        _one(array, i + 2, end),
        _one(array, i + 3, end),
    )


@device
def _one(array, i, end):
    return array[np.uint64(i)] if i < end else np.float32(0)


@device
def store4(array, i, end, numbers):
    """array[i : i + 4] ← ``numbers``, those from ``end`` on left out."""
    if i + 4 <= end and _aligned(array, i):
        _store(array, i, numbers[0], numbers[1], numbers[2], numbers[3])
    else:
        for k in range(4):
            if i + k < end:
                array[np.uint64(i + k)] = numbers[k]


@device
def add4(a, b):
    """Sums of four numbers and four."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
