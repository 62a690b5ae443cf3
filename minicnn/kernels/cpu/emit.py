"""Instructions on vectors, emitted as LLVM's: lanes, masks, and multiply-adds."""

from collections.abc import Iterable

from llvmlite import ir
from numba.core import cgutils

_I32 = ir.IntType(32)


def splat(builder: ir.IRBuilder, number: ir.Value, lanes: int) -> ir.Value:
    """A vector of one number in all lanes."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    single = builder.insert_element(undefined, number, _I32(0))
    return shuffle(builder, single, single, [0] * lanes)


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Iterable[int]) -> ir.Value:
    """The ``lanes`` of a, followed by b, in this order."""
    lanes = list(lanes)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def first_lanes(builder: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """The mask of the first ``count`` of so many lanes.

    Compared as 32-bit numbers: one instruction for a vector of 16 lanes, where 64 bits take five.
    """
    numbers = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(count, _I32), lanes))


def bytes_of(vector: ir.VectorType) -> int:
    """Bytes of an element."""
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def _call_llvm(builder, name, vector, result, arguments):
    declared = ir.FunctionType(result, [argument.type for argument in arguments])
    name = f"llvm.{name}".format(f"v{vector.count}f{8 * bytes_of(vector)}")
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), arguments)


def masked_load(builder: ir.IRBuilder, place: ir.Value, mask: ir.Value) -> ir.Value:
    """The vector at ``place``; lanes without a mask are 0 and are not read."""
    vector = place.type.pointee
    zeros = ir.Constant(vector, [0.0] * vector.count)
    arguments = [place, _I32(bytes_of(vector)), mask, zeros]
    return _call_llvm(builder, "masked.load.{}.p0", vector, vector, arguments)


def masked_store(
    builder: ir.IRBuilder, value: ir.Value, place: ir.Value, mask: ir.Value
) -> ir.Value:
    """Write the lanes of ``value`` that have a mask."""
    arguments = [value, place, _I32(bytes_of(value.type)), mask]
    return _call_llvm(builder, "masked.store.{}.p0", value.type, ir.VoidType(), arguments)


def fused(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a · b + c."""
    return _call_llvm(builder, "fmuladd.{}", a.type, a.type, [a, b, c])
