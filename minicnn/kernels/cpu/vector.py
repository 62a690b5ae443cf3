"""Vectors of the machine's width as values in njit code, for kernels that LLVM does not vectorize
by itself.

LLVM gives up on short loops over channels whose input and output lie in one flat array. Here a
kernel says what it means, ``store(y, at, maximum(load(x, at, count), load(x, other, count)),
count)``, and lanes from ``count`` on are masked.
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
    return ir.VectorType(
        ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType(), kind.lanes
    )


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
    single = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, _I32(0)
    )
    return builder.shuffle_vector(
        single, single, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    )


def _zeros(kind):
    return ir.Constant(_llvm_type(kind), [0.0] * kind.lanes)


@intrinsic
def load(typing_context, array, offset, count):
    """The ``count`` numbers of ``array`` from ``offset`` on; zeros in the lanes beyond, which are
    not read."""

    def generate(context, builder, signature, values):
        at, kind = _address(context, builder, signature.args[0], values[0], values[1])
        vector, mask_type = _llvm_type(kind), ir.VectorType(ir.IntType(1), kind.lanes)
        declared = ir.FunctionType(vector, [vector.as_pointer(), _I32, mask_type, vector])
        function = cgutils.get_or_insert_function(
            builder.module, declared, f"llvm.masked.load.{_suffix(kind)}.p0"
        )
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
        function = cgutils.get_or_insert_function(
            builder.module, declared, f"llvm.masked.store.{_suffix(kind)}.p0"
        )
        align = _I32(kind.dtype.bitwidth // 8)
        builder.call(function, [values[2], at, align, _mask(builder, kind, values[3])])
        return context.get_dummy_value()

    return types.void(array, types.int64, vector, types.int64), generate


def _transposing(few_rows: bool, few_columns: bool):
    """The transpose of one block, as many numbers high and wide as a vector, or half as many where
    there are but few."""

    @intrinsic
    def transpose_block(
        typing_context, source, offset, rows, columns, row_step, target, target_offset, target_step
    ):
        """target[c, r] = source[r, c] for the first rows and columns of a block; ``row_step``,
        ``target_step`` apart.

        Read as one sequence, the block's numbers are interleaved, first half with second,
        log2(height) times: after that column follows column. A row or column that is not there is
        the last one again, which is written last.
        """

        def generate(context, builder, signature, values):
            source, offset, rows, columns, row_step, target, target_offset, target_step = values
            kind, i64 = Vector(signature.args[0].dtype), ir.IntType(64)
            lanes = kind.lanes
            height, width = lanes // (2 if few_rows else 1), lanes // (2 if few_columns else 1)
            align = _I32(kind.dtype.bitwidth // 8)

            def masked(what, size, count):
                part = ir.VectorType(_llvm_type(kind).element, size)
                mask = builder.icmp_signed(
                    "<",
                    ir.Constant(ir.VectorType(_I32, size), list(range(size))),
                    _splat(builder, builder.trunc(count, _I32), size),
                )
                given = [part.as_pointer(), _I32, mask.type]
                declared = (
                    ir.FunctionType(part, [*given, part])
                    if what == "load"
                    else ir.FunctionType(ir.VoidType(), [part, *given])
                )
                name = f"llvm.masked.{what}.v{size}f{kind.dtype.bitwidth}.p0"
                return cgutils.get_or_insert_function(builder.module, declared, name), part, mask

            def places(array_kind, array, start, step, count, most, part):
                last = builder.mul(step, builder.sub(count, i64(1)))
                for index in range(most):
                    distance = builder.mul(step, i64(index))
                    distance = builder.select(
                        builder.icmp_signed("<", distance, last), distance, last
                    )
                    at = _address(
                        context, builder, array_kind, array, builder.add(start, distance)
                    )[0]
                    yield builder.bitcast(at, part.as_pointer())

            load, part, mask = masked("load", width, columns)
            empty = ir.Constant(part, [0.0] * width)
            vectors = [
                builder.call(load, [at, align, mask, empty])
                for at in places(signature.args[0], source, offset, row_step, rows, height, part)
            ]
            if few_columns:
                vectors = [
                    _shuffle(builder, *vectors[r : r + 2], range(lanes))
                    for r in range(0, height, 2)
                ]
            half = len(vectors) // 2
            for _ in range(height.bit_length() - 1):
                vectors = [
                    _shuffle(
                        builder,
                        vectors[n // 2],
                        vectors[n // 2 + half],
                        [(n % 2 * lanes + i) // 2 + lanes * (i % 2) for i in range(lanes)],
                    )
                    for n in range(len(vectors))
                ]
            if few_rows:
                vectors = [
                    _shuffle(builder, v, v, range(at, at + height))
                    for v in vectors
                    for at in (0, height)
                ]
            store, part, mask = masked("store", height, rows)
            targets = list(
                places(signature.args[5], target, target_offset, target_step, columns, width, part)
            )
            for column, at in reversed(list(zip(vectors, targets, strict=True))):
                builder.call(store, [column, at, align, mask])
            return context.get_dummy_value()

        integer = types.int64
        return types.void(
            source, integer, integer, integer, integer, target, integer, integer
        ), generate

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
def transpose(source, offset, rows, columns, row_step, target, target_offset, target_step):
    """target[c, r] = source[r, c] for matrices in flat arrays whose rows are ``row_step`` and
    ``target_step`` apart."""
    lanes = VECTOR_BYTES // source.itemsize
    few = (
        lanes // 2 if lanes > 2 else 0
    )  # half a block of 2×2 is one vector, with no second to be interleaved with
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            height, width = min(lanes, rows - r), min(lanes, columns - c)
            begin, end = offset + r * row_step + c, target_offset + c * target_step + r
            if rows <= few:
                _transpose_few_rows(
                    source, begin, height, width, row_step, target, end, target_step
                )
            elif columns <= few:
                _transpose_few_columns(
                    source, begin, height, width, row_step, target, end, target_step
                )
            else:
                _transpose_square(source, begin, height, width, row_step, target, end, target_step)


@intrinsic
def maximum(typing_context, a, b):
    """Lane by lane the larger number; not-a-number if either is."""

    def generate(context, builder, signature, values):
        a, b = values
        larger = builder.select(
            builder.fcmp_unordered(">", a, b), a, b
        )  # a where either is not a number
        return builder.select(builder.fcmp_unordered("uno", b, b), b, larger)

    return a(a, b), generate


@intrinsic
def add(typing_context, a, b):
    """a + b, lane by lane."""

    def generate(context, builder, signature, values):
        return builder.fadd(*values)

    return a(a, b), generate


@intrinsic
def subtract(typing_context, a, b):
    """a − b, lane by lane."""

    def generate(context, builder, signature, values):
        return builder.fsub(*values)

    return a(a, b), generate


@intrinsic
def multiply_add(typing_context, a, b, c):
    """a · b + c, lane by lane."""

    def generate(context, builder, signature, values):
        kind = signature.return_type
        declared = ir.FunctionType(_llvm_type(kind), [_llvm_type(kind)] * 3)
        function = cgutils.get_or_insert_function(
            builder.module, declared, f"llvm.fmuladd.{_suffix(kind)}"
        )
        return builder.call(function, values)

    return a(a, b, c), generate


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
def share(typing_context, upper, upper_next, lower, lower_next, largest, slope):
    """Each slope goes to the first number of its window of 2×2, in reading order, that is not
    smaller than the largest.

    Two vectors of each line, and one of what belongs to the windows; returns the slopes of the two
    lines in that order.
    """

    def generate(context, builder, signature, values):
        *numbers, largest, slope = values
        lanes, kind = signature.args[0].lanes, signature.args[0]
        slopes, taken = [], None
        for line in (0, 2):
            for first in (0, 1):
                corner = _shuffle(
                    builder, numbers[line], numbers[line + 1], range(first, 2 * lanes, 2)
                )
                reaches = builder.fcmp_unordered(">=", corner, largest)
                own = reaches if taken is None else builder.and_(reaches, builder.not_(taken))
                taken = reaches if taken is None else builder.or_(reaches, taken)
                slopes.append(builder.select(own, slope, _zeros(kind)))
        mixed = [n // 2 + lanes * (n % 2) for n in range(2 * lanes)]
        results = [
            _shuffle(builder, slopes[line], slopes[line + 1], mixed[at : at + lanes])
            for line in (0, 2)
            for at in (0, lanes)
        ]
        return context.make_tuple(builder, signature.return_type, results)

    return types.UniTuple(upper, 4)(upper, upper, upper, upper, upper, upper), generate


# Rows and columns of the sums that `dots` keeps in registers, beside the vectors of the rows.
DOTS = (5, 3) if REGISTERS == 32 else (5, 2)


@intrinsic
def dots(typing_context, array, a, a_row, a_rows, b, b_row, b_rows, length, sums):
    """sums[i, j] += Σ_q a[i, q] · b[j, q], every lane of a vector by itself; all in one ``array``,
    as offsets.

    ``sums`` holds a vector for each of the `DOTS` pairs. Where there are fewer rows than that, the
    last one counts again.
    """

    def generate(context, builder, signature, values):
        array, a, a_row, a_rows, b, b_row, b_rows, length, sums = values
        kind = Vector(signature.args[0].dtype)
        vector, i64 = _llvm_type(kind), ir.IntType(64)
        mask_type, align = ir.VectorType(ir.IntType(1), kind.lanes), _I32(kind.dtype.bitwidth // 8)
        declared = ir.FunctionType(vector, [vector.as_pointer(), _I32, mask_type, vector])
        load_masked = cgutils.get_or_insert_function(
            builder.module, declared, f"llvm.masked.load.{_suffix(kind)}.p0"
        )
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{_suffix(kind)}"
        )

        def place(offset):
            return _address(context, builder, signature.args[0], array, offset)[0]

        def starts(first, step, rows, most):
            last = builder.sub(rows, i64(1))
            numbers = [
                builder.select(builder.icmp_signed("<", i64(n), last), i64(n), last)
                for n in range(most)
            ]
            return [builder.add(first, builder.mul(step, number)) for number in numbers]

        a_at, b_at = starts(a, a_row, a_rows, DOTS[0]), starts(b, b_row, b_rows, DOTS[1])
        places = [place(builder.add(sums, i64(n * kind.lanes))) for n in range(DOTS[0] * DOTS[1])]
        totals = [
            cgutils.alloca_once_value(builder, builder.load(at, align=align.constant))
            for at in places
        ]

        def add_products(q, mask):
            def read(at):
                at = place(builder.add(at, q))
                if mask is None:
                    return builder.load(at, align=align.constant)
                return builder.call(load_masked, [at, align, mask, _zeros(kind)])

            given = [[read(at) for at in side] for side in (a_at, b_at)]
            for n, total in enumerate(totals):
                product = given[0][n // DOTS[1]], given[1][n % DOTS[1]]
                builder.store(builder.call(multiply_add, [*product, builder.load(total)]), total)

        rest = builder.srem(length, i64(kind.lanes))
        whole = builder.sub(length, rest)
        with cgutils.for_range_slice(builder, i64(0), whole, i64(kind.lanes), i64) as (q, _):
            add_products(q, None)
        with builder.if_then(builder.icmp_signed(">", rest, i64(0))):
            add_products(whole, _mask(builder, kind, rest))
        for at, total in zip(places, totals, strict=True):
            builder.store(builder.load(total), at, align=align.constant)
        return context.get_dummy_value()

    return types.void(array, *[types.int64] * 8), generate
