"""Vectors of the machine's width as values in njit code, for kernels that LLVM does not vectorize by itself.

LLVM gives up on short loops over channels whose input and output lie in one flat array. Here a kernel says what it
means, ``store(y, at, maximum(load(x, at, count), load(x, other, count)), count)``, and lanes from ``count`` on are masked.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from minicnn.kernels.cpu.tile import JIT, REGISTERS, VECTOR_BYTES

_I32 = ir.IntType(32)


class Vector(types.Type):
    """As many numbers of ``dtype`` as a vector register holds."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        element = ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(element, kind.lanes))


def _llvm_type(kind: Vector) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType(), kind.lanes)


def _suffix(kind: Vector) -> str:
    return f"v{kind.lanes}f{kind.dtype.bitwidth}"


def _address(context, builder, kind, array, offset):
    data = context.make_array(kind)(context, builder, array).data
    vector = Vector(kind.dtype)
    return builder.bitcast(builder.gep(data, [offset]), _llvm_type(vector).as_pointer()), vector


def _mask(builder, kind, count):
    # Compared as 32-bit numbers: one instruction for a vector of 16 lanes, where 64 bits take five.
    lanes = ir.Constant(ir.VectorType(_I32, kind.lanes), list(range(kind.lanes)))
    return builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, _I32), kind.lanes))


def _splat(builder, value, lanes):
    single = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _zeros(kind):
    return ir.Constant(_llvm_type(kind), [0.0] * kind.lanes)


@intrinsic
def load(typing_context, array, offset, count):
    """The ``count`` numbers of ``array`` from ``offset`` on; zeros in the lanes beyond, which are not read."""

    def generate(context, builder, signature, values):
        at, kind = _address(context, builder, signature.args[0], values[0], values[1])
        vector, mask_type = _llvm_type(kind), ir.VectorType(ir.IntType(1), kind.lanes)
        declared = ir.FunctionType(vector, [vector.as_pointer(), _I32, mask_type, vector])
        function = cgutils.get_or_insert_function(builder.module, declared, f"llvm.masked.load.{_suffix(kind)}.p0")
        align = _I32(kind.dtype.bitwidth // 8)
        return builder.call(function, [at, align, _mask(builder, kind, values[2]), _zeros(kind)])

    return Vector(array.dtype)(array, types.int64, types.int64), generate


@intrinsic
def store(typing_context, array, offset, vector, count):
    """Write the first ``count`` lanes to ``array`` from ``offset`` on."""

    def generate(context, builder, signature, values):
        at, kind = _address(context, builder, signature.args[0], values[0], values[1])
        pointer, mask_type = _llvm_type(kind).as_pointer(), ir.VectorType(ir.IntType(1), kind.lanes)
        declared = ir.FunctionType(ir.VoidType(), [_llvm_type(kind), pointer, _I32, mask_type])
        function = cgutils.get_or_insert_function(builder.module, declared, f"llvm.masked.store.{_suffix(kind)}.p0")
        align = _I32(kind.dtype.bitwidth // 8)
        builder.call(function, [values[2], at, align, _mask(builder, kind, values[3])])
        return context.get_dummy_value()

    return types.void(array, types.int64, vector, types.int64), generate


@intrinsic
def transpose_square(typing_context, source, offset, rows, columns, row_step, target, target_offset, target_step):
    """target[c, r] = source[r, c] of a square as many numbers wide as a vector, or of its first rows and columns.

    Rows are ``row_step`` and ``target_step`` numbers apart. All rows are loaded; then pairs of vectors that lie half the
    square apart are interleaved, log2(lanes) times, after which every vector is a column.
    """

    def generate(context, builder, signature, values):
        source, offset, rows, columns, row_step, target, target_offset, target_step = values
        element = signature.args[0].dtype
        kind = Vector(element)
        lanes, pointer = kind.lanes, _llvm_type(kind).as_pointer()
        mask_type = ir.VectorType(ir.IntType(1), lanes)
        align = _I32(element.bitwidth // 8)
        load_type = ir.FunctionType(_llvm_type(kind), [pointer, _I32, mask_type, _llvm_type(kind)])
        load_masked = cgutils.get_or_insert_function(builder.module, load_type, f"llvm.masked.load.{_suffix(kind)}.p0")
        store_type = ir.FunctionType(ir.VoidType(), [_llvm_type(kind), pointer, _I32, mask_type])
        store_masked = cgutils.get_or_insert_function(builder.module, store_type, f"llvm.masked.store.{_suffix(kind)}.p0")

        def at(array_kind, array, start, step, index):
            place = builder.add(start, builder.mul(step, ir.IntType(64)(index)))
            return _address(context, builder, array_kind, array, place)[0]

        def count_if(present, count):
            return _mask(builder, kind, builder.select(present, count, ir.IntType(64)(0)))

        vectors = []
        for r in range(lanes):
            mask = count_if(builder.icmp_signed("<", ir.IntType(64)(r), rows), columns)
            place = at(signature.args[0], source, offset, row_step, r)
            vectors.append(builder.call(load_masked, [place, align, mask, _zeros(kind)]))
        index_type, half, distance = ir.VectorType(_I32, lanes), lanes // 2, lanes // 2
        low = ir.Constant(index_type, [n // 2 + lanes * (n % 2) for n in range(lanes)])
        high = ir.Constant(index_type, [half + n // 2 + lanes * (n % 2) for n in range(lanes)])
        while distance:
            joined = [None] * lanes
            for r in range(half):
                joined[2 * r] = builder.shuffle_vector(vectors[r], vectors[r + half], low)
                joined[2 * r + 1] = builder.shuffle_vector(vectors[r], vectors[r + half], high)
            vectors, distance = joined, distance // 2
        for c in range(lanes):
            mask = count_if(builder.icmp_signed("<", ir.IntType(64)(c), columns), rows)
            place = at(signature.args[5], target, target_offset, target_step, c)
            builder.call(store_masked, [vectors[c], place, align, mask])
        return context.get_dummy_value()

    integer = types.int64
    return types.void(source, integer, integer, integer, integer, target, integer, integer), generate


@njit(**JIT)
def copy(source, start, target, target_start, count):
    """target[target_start + i] = source[start + i]. Numba's own assignment of slices compiles for two seconds, for the text
    of an error, and copies at a quarter of the speed."""
    read, write = source[start : start + count], target[target_start : target_start + count]
    for i in range(count):
        write[i] = read[i]


@njit(**JIT)
def transpose(source, offset, rows, columns, row_step, target, target_offset, target_step):
    """target[c, r] = source[r, c] for matrices in flat arrays whose rows are ``row_step`` and ``target_step`` apart."""
    lanes = VECTOR_BYTES // source.itemsize
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            transpose_square(source, offset + r * row_step + c, min(lanes, rows - r), min(lanes, columns - c), row_step,
                             target, target_offset + c * target_step + r, target_step)  # fmt: skip


@intrinsic
def maximum(typing_context, a, b):
    """Lane by lane the larger number; not-a-number if either is."""

    def generate(context, builder, signature, values):
        a, b = values
        larger = builder.select(builder.fcmp_unordered(">", a, b), a, b)  # a where either is not a number
        return builder.select(builder.fcmp_unordered("uno", b, b), b, larger)

    return a(a, b), generate


@intrinsic
def add(typing_context, a, b):
    """a + b, lane by lane."""

    def generate(context, builder, signature, values):
        return builder.fadd(*values)

    return a(a, b), generate


@intrinsic
def scale(typing_context, a, factor):
    """a · factor, with one factor for all lanes."""

    def generate(context, builder, signature, values):
        return builder.fmul(values[0], _splat(builder, values[1], signature.args[0].lanes))

    return a(a, a.dtype), generate


@intrinsic
def zero_where_less(typing_context, a, x, y):
    """0 where x < y, else a."""

    def generate(context, builder, signature, values):
        a, x, y = values
        return builder.select(builder.fcmp_ordered("<", x, y), _zeros(signature.args[0]), a)

    return a(a, x, y), generate


@intrinsic
def zero_unless_less(typing_context, a, x, y):
    """a where x < y, else 0."""

    def generate(context, builder, signature, values):
        a, x, y = values
        return builder.select(builder.fcmp_ordered("<", x, y), a, _zeros(signature.args[0]))

    return a(a, x, y), generate


@intrinsic
def plus(typing_context, a, number):
    """a + number, with one number for all lanes."""

    def generate(context, builder, signature, values):
        return builder.fadd(values[0], _splat(builder, values[1], signature.args[0].lanes))

    return a(a, a.dtype), generate


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


@intrinsic
def pair_maximum(typing_context, a, b):
    """The larger of each two neighbours in a, followed by those in b; not-a-number if either is."""

    def generate(context, builder, signature, values):
        lanes = 2 * signature.args[0].lanes
        even, odd = (_shuffle(builder, *values, range(first, lanes, 2)) for first in (0, 1))
        larger = builder.select(builder.fcmp_unordered(">", odd, even), odd, even)
        return builder.select(builder.fcmp_unordered("uno", even, even), even, larger)

    return a(a, b), generate


@intrinsic
def spread(typing_context, a, half):
    """Every number of the first (``half`` = 0) or the second half of a, twice."""

    def generate(context, builder, signature, values):
        lanes = signature.args[0].lanes
        first, second = (_shuffle(builder, values[0], values[0], [start + n // 2 for n in range(lanes)])
                         for start in (0, lanes // 2))  # fmt: skip
        return builder.select(builder.icmp_signed("==", values[1], ir.IntType(64)(0)), first, second)

    return a(a, types.int64), generate


def _is_largest(builder, x, largest):
    """(whether a number is its window's maximum, whether its left or right neighbour is, whether it is the right one)"""
    lanes = x.type.count
    swapped = _shuffle(builder, x, x, [n ^ 1 for n in range(lanes)])
    right = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [n & 1 for n in range(lanes)])
    return builder.fcmp_unordered(">=", x, largest), builder.fcmp_unordered(">=", swapped, largest), right


@intrinsic
def take_upper(typing_context, upper, largest, slope):
    """``slope`` where a number of a window's upper line is the first that is not smaller than ``largest``, else 0."""

    def generate(context, builder, signature, values):
        own, other, right = _is_largest(builder, values[0], values[1])
        taken = builder.and_(own, builder.not_(builder.and_(other, right)))
        return builder.select(taken, values[2], _zeros(signature.args[0]))

    return upper(upper, largest, slope), generate


@intrinsic
def take_lower(typing_context, upper, lower, largest, slope):
    """The same for a window's lower line: 0 as well where the upper line has such a number."""

    def generate(context, builder, signature, values):
        upper, lower, largest, slope = values
        above, beside, _ = _is_largest(builder, upper, largest)
        own, other, right = _is_largest(builder, lower, largest)
        before = builder.or_(builder.or_(above, beside), builder.and_(other, right))
        return builder.select(builder.and_(own, builder.not_(before)), slope, _zeros(signature.args[0]))

    return upper(upper, lower, largest, slope), generate


# Rows and columns of the sums that `dots` keeps in registers, beside the vectors of the rows.
DOTS = (5, 3) if REGISTERS == 32 else (5, 2)


@intrinsic
def dots(typing_context, array, a, a_row, a_rows, b, b_row, b_rows, length, sums):
    """sums[i, j] += Σ_q a[i, q] · b[j, q], every lane of a vector by itself; all in one ``array``, as offsets.

    ``sums`` holds a vector for each of the `DOTS` pairs. Where there are fewer rows than that, the last one counts again.
    """

    def generate(context, builder, signature, values):
        array, a, a_row, a_rows, b, b_row, b_rows, length, sums = values
        kind = Vector(signature.args[0].dtype)
        vector, i64 = _llvm_type(kind), ir.IntType(64)
        mask_type, align = ir.VectorType(ir.IntType(1), kind.lanes), _I32(kind.dtype.bitwidth // 8)
        declared = ir.FunctionType(vector, [vector.as_pointer(), _I32, mask_type, vector])
        load_masked = cgutils.get_or_insert_function(builder.module, declared, f"llvm.masked.load.{_suffix(kind)}.p0")
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{_suffix(kind)}")  # fmt: skip

        def place(offset):
            return _address(context, builder, signature.args[0], array, offset)[0]

        def starts(first, step, rows, most):
            last = builder.sub(rows, i64(1))
            numbers = [builder.select(builder.icmp_signed("<", i64(n), last), i64(n), last) for n in range(most)]
            return [builder.add(first, builder.mul(step, number)) for number in numbers]

        a_at, b_at = starts(a, a_row, a_rows, DOTS[0]), starts(b, b_row, b_rows, DOTS[1])
        places = [place(builder.add(sums, i64(n * kind.lanes))) for n in range(DOTS[0] * DOTS[1])]
        totals = [cgutils.alloca_once_value(builder, builder.load(at, align=align.constant)) for at in places]
        with cgutils.for_range_slice(builder, i64(0), length, i64(kind.lanes), i64) as (q, _):
            mask = _mask(builder, kind, builder.sub(length, q))
            given = [[builder.call(load_masked, [place(builder.add(at, q)), align, mask, _zeros(kind)]) for at in side]
                     for side in (a_at, b_at)]  # fmt: skip
            for n, total in enumerate(totals):
                product = given[0][n // DOTS[1]], given[1][n % DOTS[1]]
                builder.store(builder.call(multiply_add, [*product, builder.load(total)]), total)
        for at, total in zip(places, totals, strict=True):
            builder.store(builder.load(total), at, align=align.constant)
        return context.get_dummy_value()

    return types.void(array, *[types.int64] * 8), generate
