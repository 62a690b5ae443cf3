"""Loops over vectors whose sums, or weights, stay in registers: what a fused convolution and a
depthwise one are made of."""

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.kernels.cpu.emit import bytes_of, first_lanes, fused, masked_load, splat, store_some
from minicnn.kernels.cpu.tile import REGISTERS
from minicnn.kernels.cpu.vector import Vector, place_of

# Rows and columns of the sums that `dots` keeps in registers, beside the vectors of the rows.
DOTS = (5, 3) if REGISTERS == 32 else (5, 2)


@intrinsic
def dots(typing_context, a, a_rows, b, b_rows, length, sums):
    """sums[i, j] += Σ_q a[i, q] · b[j, q] of `Rows` a and b, every lane of a vector by itself.

    ``sums`` is a place in the array of a: a vector for each of the `DOTS` pairs. Where there are
    fewer rows than that, the last one counts again.
    """
    array, integer = a.types[0], types.int64

    def generate(context, builder, signature, values):
        a, a_rows, b, b_rows, length, sums = values
        lanes, i64 = Vector(array.dtype).lanes, ir.IntType(64)
        flat = cgutils.unpack_tuple(builder, a)[0]

        def place(offset):
            return place_of(context, builder, array, flat, offset)

        def starts(matrix, rows, most):
            _, first, step = cgutils.unpack_tuple(builder, matrix)
            last = builder.sub(rows, i64(1))
            for n in range(most):
                number = builder.select(builder.icmp_signed("<", i64(n), last), i64(n), last)
                yield builder.add(first, builder.mul(step, number))

        sides = list(starts(a, a_rows, DOTS[0])), list(starts(b, b_rows, DOTS[1]))
        places = [place(builder.add(sums, i64(n * lanes))) for n in range(DOTS[0] * DOTS[1])]
        size = bytes_of(places[0].type.pointee)
        totals = [cgutils.alloca_once_value(builder, builder.load(at, align=size)) for at in places]

        def add_products(q, mask):
            def read(start):
                at = place(builder.add(start, q))
                return masked_load(builder, at, mask) if mask else builder.load(at, align=size)

            rows, columns = [[read(start) for start in side] for side in sides]
            for n, total in enumerate(totals):
                factors = rows[n // DOTS[1]], columns[n % DOTS[1]]
                builder.store(fused(builder, *factors, builder.load(total)), total)

        rest = builder.srem(length, i64(lanes))
        whole = builder.sub(length, rest)
        with cgutils.for_range_slice(builder, i64(0), whole, i64(lanes), i64) as (q, _):
            add_products(q, None)
        with builder.if_then(builder.icmp_signed(">", rest, i64(0))):
            add_products(whole, first_lanes(builder, rest, lanes))
        for at, total in zip(places, totals, strict=True):
            builder.store(builder.load(total), at, align=size)
        return context.get_dummy_value()

    return types.void(a, integer, b, integer, integer, integer), generate


def _least(builder, relu, vector):
    """What is below it ends as it: 0 where there is a ``relu``."""
    bounds = (ir.Constant(vector.element, bound) for bound in (0.0, -math.inf))
    least = builder.select(cgutils.is_not_null(builder, relu), *bounds)
    return splat(builder, least, vector.count)


def _nine(multiplies: bool = False, scatters: bool = False, exchanged: bool = False):
    """What `weigh_nine`, `multiply_nine` and `scatter_nine` have in common: nine x for each y."""

    @intrinsic
    def over(typing_context, array, loops, taps, nine, start, ends, valid):
        def generate(context, builder, signature, values):
            flat, loops, taps, nine, start, ends, valid = values
            (x, y), outer, inner, taps, (adds, relu) = (
                cgutils.unpack_tuple(builder, value)
                for value in (*cgutils.unpack_tuple(builder, loops), taps, ends)
            )
            vector, i64 = start.type, ir.IntType(64)
            nine = [
                cgutils.alloca_once_value(builder, value)
                for line in cgutils.unpack_tuple(builder, nine)
                for value in cgutils.unpack_tuple(builder, line)
            ]
            least = _least(builder, relu, vector)
            lines, columns = (i64(0), *taps[:2]), (i64(0), *taps[2:])
            data = context.make_array(signature.args[0])(context, builder, flat).data
            # Each line has a pointer of its own, of which LLVM does not know how it is related to
            # the others: else it would keep nine addresses.
            hide = ir.FunctionType(data.type, [data.type])

            def emit(mask):
                def place(pointer, offset):
                    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

                def read(at):
                    if mask:
                        return masked_load(builder, at, mask)
                    return builder.load(at, align=bytes_of(vector))

                def write(value, at):
                    if mask:
                        store_some(builder, [value], [at], valid)
                    else:
                        builder.store(value, at, align=bytes_of(vector))

                def element(pointers, rows, few):
                    """One y by these rows and columns of the taps; then on to the next."""
                    *rows_at, to = (builder.load(pointer) for pointer in pointers)
                    numbers = [
                        (nine[3 * row + column], place(at, columns[column]))
                        for row, at in zip(rows, rows_at, strict=True)
                        for column in few
                    ]
                    if exchanged:
                        numbers = [
                            number for k in range(len(few)) for number in numbers[k :: len(few)]
                        ]
                    to = place(to, i64(0))
                    if multiplies or scatters:
                        gradient = read(to)
                        for number, at in numbers:
                            factor, value = read(at), builder.load(number)
                            if multiplies:
                                builder.store(fused(builder, factor, gradient, value), number)
                            else:
                                write(fused(builder, value, gradient, factor), at)
                    else:
                        total = cgutils.alloca_once_value(builder, start)
                        builder.store(start, total)
                        with builder.if_then(cgutils.is_not_null(builder, adds)):
                            builder.store(read(to), total)
                        result = builder.load(total)
                        for number, at in numbers:
                            result = fused(builder, read(at), builder.load(number), result)
                        below = builder.fcmp_ordered("<", result, least)
                        write(builder.select(below, least, result), to)
                    move(pointers, [inner[1]] * len(rows) + [inner[2]])

                def move(pointers, steps):
                    for pointer, step in zip(pointers, steps, strict=True):
                        builder.store(builder.gep(builder.load(pointer), [step]), pointer)

                def line(rows):
                    """The elements of the inner loop, by these rows of the taps."""
                    x_at, y_at = (builder.load(at) for at in firsts)
                    starts = [builder.gep(x_at, [lines[row]]) for row in rows]
                    hidden = [builder.asm(hide, "", "=r,0", [at], False) for at in starts]
                    pointers = []
                    for at in (*hidden, y_at):
                        pointers.append(cgutils.alloca_once(builder, at.type))
                        builder.store(at, pointers[-1])
                    count, _, _, low, high = inner
                    with builder.if_then(cgutils.is_not_null(builder, low)):
                        element(pointers, rows, (1, 2))
                    with cgutils.for_range(builder, builder.sub(builder.sub(count, low), high)):
                        element(pointers, rows, (0, 1, 2))
                    with builder.if_then(cgutils.is_not_null(builder, high)):
                        element(pointers, rows, (0, 1))

                firsts = [
                    cgutils.alloca_once_value(builder, builder.gep(data, [at])) for at in (x, y)
                ]
                for at, pointer in zip((x, y), firsts, strict=True):
                    builder.store(builder.gep(data, [at]), pointer)
                count, *steps, low, high = outer
                last = builder.sub(count, i64(1))
                with cgutils.for_range(builder, count) as loop:
                    is_first, is_last = (
                        builder.and_(
                            cgutils.is_not_null(builder, lacks),
                            builder.icmp_signed("==", loop.index, at),
                        )
                        for lacks, at in ((low, i64(0)), (high, last))
                    )
                    with builder.if_else(is_first) as (first, others):
                        with first:
                            line((1, 2))
                        with others, builder.if_else(is_last) as (end, middle):
                            with end:
                                line((0, 1))
                            with middle:
                                line((0, 1, 2))
                    move(firsts, steps)

            is_whole = builder.icmp_signed(">=", valid, i64(vector.count))
            with builder.if_else(is_whole) as (whole, part):
                with whole:
                    emit(None)
                with part:
                    emit(first_lanes(builder, valid, vector.count))
            if not multiplies:
                return context.get_dummy_value()
            sums, kind = [builder.load(total) for total in nine], signature.return_type
            rows = [context.make_tuple(builder, kind[0], sums[k : k + 3]) for k in (0, 3, 6)]
            return context.make_tuple(builder, kind, rows)

        result = nine if multiplies else types.void
        given = array, loops, taps, nine, start, ends, types.int64
        return result(*given), generate

    return over


# weigh_nine(array, (places, outer, inner), taps, weights, start, (adds, relu), valid): y = start +
# Σ x · weight over three times three taps, for the first ``valid`` lanes of each element of two
# loops; where ``adds`` is not 0, y itself is the start, and where ``relu`` is not 0, what is below 0
# ends as 0. multiply_nine(array, loops, taps, sums, start, (0, 0), valid): the sums, each plus
# Σ x · y over the elements. scatter_nine, with the weights: x += y · weight for each x.
#
# ``places`` are those in ``array`` of the first x, of the first tap, and of the first y. A loop is
# (count, x, y, low, high): how many elements there are, how far the next x and the next y are, and
# whether its first element lacks the first of three taps, and its last one the last. ``taps`` are
# how far the second and the third tap of the outer loop, and of the inner, are from the first.
weigh_nine, multiply_nine, scatter_nine = _nine(), _nine(multiplies=True), _nine(scatters=True)
# `weigh_nine` that adds in the other order: where the loops have changed places, in the same.
weigh_exchanged = _nine(exchanged=True)
