"""Instructions on vectors, emitted as LLVM's: lanes, masks, and multiply-adds."""

from collections.abc import Iterable, Sequence

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


def _store_all(builder, vectors, places, offset):
    for vector, place in zip(vectors, places, strict=True):
        first = builder.bitcast(place, vector.type.element.as_pointer())
        at = builder.bitcast(builder.gep(first, [offset]), vector.type.as_pointer())
        builder.store(vector, at, align=bytes_of(vector.type))


def store_some(
    builder: ir.IRBuilder,
    vectors: Sequence[ir.Value],
    places: Sequence[ir.Value],
    count: ir.Value,
) -> None:
    """Write the first ``count`` lanes, fewer than all, of each of ``vectors``, in their order: with
    AVX2, where a masked store takes 12 cycles on some processors, in pieces of 4, 2 and 1 lanes."""
    kind, lanes = vectors[0].type, vectors[0].type.count
    if lanes * bytes_of(kind) == 64:
        mask = first_lanes(builder, count, lanes)
        for vector, place in zip(vectors, places, strict=True):
            arguments = [vector, place, _I32(bytes_of(kind)), mask]
            _call_llvm(builder, "masked.store.{}.p0", kind, ir.VoidType(), arguments)
        return
    none = count.type(0)
    count = builder.select(builder.icmp_signed(">", count, none), count, none)
    values = [none, *vectors]  # how many lanes are written, and the others moved to the front
    for piece in (1 << power for power in reversed(range(lanes.bit_length() - 1))):
        before, order = builder.block, [(lane + piece) % lanes for lane in range(lanes)]
        is_written = builder.and_(count, count.type(piece))
        with builder.if_then(cgutils.is_not_null(builder, is_written)):
            written, *rest = values
            pieces = [shuffle(builder, vector, vector, range(piece)) for vector in rest]
            _store_all(builder, pieces, places, written)
            after = [builder.add(written, count.type(piece))]
            after += [shuffle(builder, vector, vector, order) for vector in rest]
            inside = builder.block
        phis = [builder.phi(value.type) for value in values]
        for phi, *incoming in zip(phis, values, after, strict=True):
            for value, block in zip(incoming, (before, inside), strict=True):
                phi.add_incoming(value, block)
        values = phis


def store_first(
    builder: ir.IRBuilder,
    vectors: Sequence[ir.Value],
    places: Sequence[ir.Value],
    count: ir.Value,
) -> None:
    """The same of any ``count``: all lanes go without a mask."""
    is_all = builder.icmp_signed(">=", count, count.type(vectors[0].type.count))
    with builder.if_else(is_all) as (all_lanes, some_lanes):
        with all_lanes:
            _store_all(builder, vectors, places, count.type(0))
        with some_lanes:
            store_some(builder, vectors, places, count)


def fused(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a · b + c."""
    return _call_llvm(builder, "fmuladd.{}", a.type, a.type, [a, b, c])
