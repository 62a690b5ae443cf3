"""Vectors of the machine's width as values in njit code, for kernels that LLVM does not vectorize
by itself.

LLVM gives up on short loops over channels whose input and output lie in one flat array. Here a
kernel says what it means, ``store(y, at, maximum(load(x, at, count), load(x, other, count)),
count)``, and lanes from ``count`` on are masked.
"""

import functools

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from minicnn.kernels.cpu.emit import (
    bytes_of,
    first_lanes,
    fused,
    masked_load,
    shuffle,
    splat,
    store_first,
)
from minicnn.kernels.cpu.tile import JIT, VECTOR_BYTES, Rows


class Vector(types.Type):
    """As many numbers of ``dtype`` as a vector register holds."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _llvm_type(kind))


def _llvm_type(kind: Vector) -> ir.VectorType:
    element = ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, kind.lanes)


def place_of(context, builder, kind, array, offset, vector=None):
    """Where the ``vector`` at array[offset] lies, one of the machine's width by default."""
    data = context.make_array(kind)(context, builder, array).data
    vector = vector or _llvm_type(Vector(kind.dtype))
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


def _zeros(vector):
    return ir.Constant(vector.type, [0.0] * vector.type.count)


@intrinsic
def lanes_of(typing_context, array):
    """How many numbers of ``array`` a vector holds, known when it is compiled: a step of a loop by
    ``array.itemsize``, which is not, costs a division, and a mask of all lanes is never left out."""

    def generate(context, builder, signature, values):
        return ir.Constant(ir.IntType(64), Vector(array.dtype).lanes)

    return types.int64(array), generate


@intrinsic
def load(typing_context, array, offset, count):
    """The ``count`` numbers of ``array`` from ``offset`` on; zeros in the lanes beyond, which are
    not read. Without mask registers, as AVX2 is, a mask is left out where it is not needed: with one,
    normalization took three times as long."""

    def generate(context, builder, signature, values):
        lanes, place = signature.return_type.lanes, place_of(context, builder, array, *values[:2])
        mask = first_lanes(builder, values[2], lanes)
        if VECTOR_BYTES == 64:
            return masked_load(builder, place, mask)
        is_whole = builder.icmp_signed(">=", values[2], ir.IntType(64)(lanes))
        with builder.if_else(is_whole) as (whole, part):
            with whole:
                one = builder.load(place, align=bytes_of(place.type.pointee)), builder.block
            with part:
                other = masked_load(builder, place, mask), builder.block
        vector = builder.phi(place.type.pointee)
        vector.add_incoming(*one)
        vector.add_incoming(*other)
        return vector

    return Vector(array.dtype)(array, types.int64, types.int64), generate


@intrinsic
def store(typing_context, array, offset, vector, count):
    """Write the first ``count`` lanes to ``array`` from ``offset`` on."""

    def generate(context, builder, signature, values):
        place = place_of(context, builder, array, *values[:2])
        store_first(builder, [values[2]], [place], values[3])
        return context.get_dummy_value()

    return types.void(array, types.int64, vector, types.int64), generate


@intrinsic
def store_whole(typing_context, array, offset, vector):
    """Write all lanes to ``array`` from ``offset`` on: much faster than `store` on some
    processors."""

    def generate(context, builder, signature, values):
        place = place_of(context, builder, array, *values[:2])
        builder.store(values[2], place, align=bytes_of(values[2].type))
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@intrinsic
def prefetch(typing_context, array, offset):
    """Let the processor fetch the cache line of array[offset], which need not exist, ahead."""

    def generate(context, builder, signature, values):
        place = place_of(context, builder, array, *values)
        place = builder.bitcast(place, ir.IntType(8).as_pointer())
        whole, pointer = ir.IntType(32), place.type
        kind = ir.FunctionType(ir.VoidType(), [pointer, whole, whole, whole])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, whole(0), whole(3), whole(1)])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def _transposing(few_rows: bool, few_columns: bool):
    """The transpose of one block, as many numbers high and wide as a vector, or half as many where
    there are but few."""

    @intrinsic
    def transpose_block(typing_context, source, target, rows, columns):
        """target[c, r] = source[r, c] for the first rows and columns of a block of two `Rows`.

        Its quarters are transposed by exchanging two of them, from those of one number on to the
        block's own: a pair of vectors gives the pair that has the exchanged. A row or column beyond
        the last is the last one again, which is written last.
        """

        def generate(context, builder, signature, values):
            *matrices, rows, columns = values
            lanes = Vector(source.types[0].dtype).lanes
            element, i64 = _llvm_type(Vector(source.types[0].dtype)).element, ir.IntType(64)
            height, width = lanes // (2 if few_rows else 1), lanes // (2 if few_columns else 1)

            def places(kind, matrix, count, most, lanes):
                array, start, step = cgutils.unpack_tuple(builder, matrix)
                last, part = builder.sub(count, i64(1)), ir.VectorType(element, lanes)
                for index in map(i64, range(most)):
                    index = builder.select(builder.icmp_signed("<", index, last), index, last)
                    offset = builder.add(start, builder.mul(step, index))
                    yield place_of(context, builder, kind.types[0], array, offset, part)

            mask = first_lanes(builder, columns, width)
            vectors = [
                masked_load(builder, place, mask)
                for place in places(source, matrices[0], rows, height, width)
            ]
            if few_columns:
                vectors = [shuffle(builder, *vectors[r::width], range(lanes)) for r in range(width)]
            distance = 1
            while distance < len(vectors):
                vectors = [
                    shuffle(
                        builder,
                        vectors[n & ~distance],
                        vectors[n | distance],
                        [
                            i & ~distance | n & distance | (lanes if i & distance else 0)
                            for i in range(lanes)
                        ],
                    )
                    for n in range(len(vectors))
                ]
                distance *= 2
            if few_rows:
                vectors = [
                    shuffle(builder, v, v, range(at, at + height))
                    for at in (0, height)
                    for v in vectors
                ]
            targets = list(places(target, matrices[1], columns, width, height))
            store_first(builder, vectors[::-1], targets[::-1], rows)
            return context.get_dummy_value()

        return types.void(source, target, types.int64, types.int64), generate

    return transpose_block


_transpose_square, _transpose_few_rows, _transpose_few_columns = (
    _transposing(*few) for few in ((False, False), (True, False), (False, True))
)


@njit(**JIT)
def copy(source, start, target, target_start, count):
    """target[target_start + i] = source[start + i]. Numba's own assignment of slices compiles for
    two seconds, for the text of an error, and copies at a quarter of the speed."""
    read, write = source[start : start + count], target[target_start : target_start + count]
    for i in range(count):
        write[i] = read[i]


@njit(**JIT)
def transpose(source, target, rows, columns):
    """target[c, r] = source[r, c] of two `Rows`."""
    lanes = lanes_of(source.array)
    # Half a block of 2×2 is one vector, with no second to be interleaved with.
    few = lanes // 2 if lanes > 2 else 0
    for c in range(0, columns, lanes):  # what is written lies together
        for r in range(0, rows, lanes):
            height, width = min(lanes, rows - r), min(lanes, columns - c)
            read = Rows(source.array, source.offset + r * source.row + c, source.row)
            write = Rows(target.array, target.offset + c * target.row + r, target.row)
            if height == lanes and width == lanes:
                _transpose_square(read, write, lanes, lanes)  # constants: no mask, no comparison
            elif rows <= few:
                _transpose_few_rows(read, write, height, width)
            elif columns <= few:
                _transpose_few_columns(read, write, height, width)
            else:
                _transpose_square(read, write, height, width)


def _lanewise(emit, arity=2):
    """What ``emit`` emits for vectors, as a function of a vector and then of vectors or numbers,
    which are the same in all lanes."""

    def typed(a, *others):
        def generate(context, builder, signature, values):
            vectors = [
                value if value.type == values[0].type else splat(builder, value, a.lanes)
                for value in values
            ]
            return emit(builder, *vectors)

        kinds = [kind if isinstance(kind, Vector) else a.dtype for kind in others]
        return a(a, *kinds), generate

    if arity == 2:
        return intrinsic(lambda typing_context, a, b: typed(a, b))
    return intrinsic(lambda typing_context, a, b, c: typed(a, b, c))


def _maximum(builder, a, b):
    """The larger number; NaN if either is; of two zeros any."""
    declared = ir.FunctionType(a.type, [a.type, a.type])
    name = f"llvm.maximum.v{a.type.count}f{8 * bytes_of(a.type)}"
    function = cgutils.get_or_insert_function(builder.module, declared, name)
    return builder.call(function, [a, b], fastmath=("nsz",))


def _route(builder, a, x, y, less):
    """a where x < y is ``less``, 0 elsewhere."""
    choices = (a, _zeros(a)) if less else (_zeros(a), a)
    return builder.select(builder.fcmp_ordered("<", x, y), *choices)


add = _lanewise(ir.IRBuilder.fadd)
subtract = _lanewise(ir.IRBuilder.fsub)
scale = _lanewise(ir.IRBuilder.fmul)
multiply_add = _lanewise(fused, 3)  # a · b + c
maximum = _lanewise(_maximum)
zero_where_less = _lanewise(functools.partial(_route, less=False), 3)  # (a, x, y): 0 where x < y
zero_unless_less = _lanewise(functools.partial(_route, less=True), 3)  # (a, x, y): a where x < y


@intrinsic
def repeat(typing_context, a, count):
    """The first ``count`` numbers of a again and again, for a power of 2 below its lanes; else a."""

    def generate(context, builder, signature, values):
        result = vector = values[0]
        for size in (1 << power for power in range(a.lanes.bit_length() - 1)):
            again = shuffle(builder, vector, vector, [lane % size for lane in range(a.lanes)])
            is_size = builder.icmp_signed("==", values[1], ir.Constant(values[1].type, size))
            result = builder.select(is_size, again, result)
        return result

    return a(a, types.int64), generate


@intrinsic
def pair_maximum(typing_context, a, b):
    """The larger of each two neighbours in a, followed by those in b; NaN if either is."""

    def generate(context, builder, signature, values):
        even, odd = (shuffle(builder, *values, range(first, 2 * a.lanes, 2)) for first in (0, 1))
        return _maximum(builder, odd, even)

    return a(a, b), generate


@intrinsic
def route_to_first_maximum(typing_context, upper, upper_next, lower, lower_next, largest, gradient):
    """Max pooling backward for windows of 2×2: the gradient goes to the first number of its window,
    in reading order, that is not smaller than the largest.

    Two vectors of each line, and one of what belongs to the windows; returns the gradients of the
    two lines in that order.
    """

    def generate(context, builder, signature, values):
        *numbers, largest, gradient = values
        lanes, gradients, taken = upper.lanes, [], None
        for line in (0, 2):
            for first in (0, 1):
                corner = shuffle(builder, *numbers[line : line + 2], range(first, 2 * lanes, 2))
                reaches = builder.fcmp_unordered(">=", corner, largest)
                first_to = reaches if taken is None else builder.and_(reaches, builder.not_(taken))
                taken = reaches if taken is None else builder.or_(reaches, taken)
                gradients.append(builder.select(first_to, gradient, _zeros(gradient)))
        mixed = [n // 2 + lanes * (n % 2) for n in range(2 * lanes)]
        results = [
            shuffle(builder, *gradients[line : line + 2], mixed[at : at + lanes])
            for line in (0, 2)
            for at in (0, lanes)
        ]
        return context.make_tuple(builder, signature.return_type, results)

    return types.UniTuple(upper, 4)(*[upper] * 6), generate
