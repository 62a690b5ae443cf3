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


# Vectors of neighbouring channels whose sums `weigh_taps` keeps in registers.
CHANNELS = 8


@intrinsic
def weigh_taps(typing_context, array, params, places, counts, x_steps, w_steps, ends):
    """y = bias + Σ x · w for one element and the channels of so many vectors, over any taps.

    ``places`` are those of x, y, w and the bias, -1 for none; ``counts`` how many lines and columns
    of taps there are, and the steps how far the next ones are. Where ``ends``, (adds, relu), say
    so, y itself takes the bias' place, and what is below 0 ends as 0.
    """

    def generate(context, builder, signature, values):
        (x, y, w, bias), counts, *steps, (adds, relu) = (
            cgutils.unpack_tuple(builder, value) for value in values[2:]
        )
        kind, zero = signature.args[0], x.type(0)

        def vectors(array, at):
            starts = [
                builder.add(at, x.type(n * Vector(kind.dtype).lanes)) for n in range(CHANNELS)
            ]
            return [place_of(context, builder, kind, array, start) for start in starts]

        def read(places):
            return [builder.load(at, align=bytes_of(at.type.pointee)) for at in places]

        targets = vectors(values[0], y)
        vector = targets[0].type.pointee
        none, least = ir.Constant(vector, [0.0] * vector.count), _least(builder, relu, vector)
        totals = [cgutils.alloca_once_value(builder, none) for _ in targets]
        for is_start, start in (
            (builder.icmp_signed(">=", bias, zero), vectors(values[1], bias)),
            (cgutils.is_not_null(builder, adds), targets),
        ):
            with builder.if_then(is_start):
                for number, total in zip(read(start), totals, strict=True):
                    builder.store(number, total)
        rows, columns = (cgutils.for_range(builder, count) for count in counts)
        with rows as row, columns as column:
            factors = []
            for array, at, (down, right) in zip(values[:2], (x, w), steps, strict=True):
                at = builder.add(at, builder.mul(row.index, down))
                at = builder.add(at, builder.mul(column.index, right))
                factors.append(read(vectors(array, at)))
            for number, weight, total in zip(*factors, totals, strict=True):
                builder.store(fused(builder, number, weight, builder.load(total)), total)
        for place, total in zip(targets, read(totals), strict=True):
            result = builder.select(builder.fcmp_ordered("<", total, least), least, total)
            builder.store(result, place, align=bytes_of(vector))
        return context.get_dummy_value()

    return types.void(array, params, places, counts, x_steps, w_steps, ends), generate


def _nine(is_gradient: bool):
    """What `weigh_nine` and `multiply_nine` have in common: nine x for each y."""

    @intrinsic
    def over(typing_context, array, along, taps, nine, start, ends, valid):
        def generate(context, builder, signature, values):
            flat, along, taps, nine, start, ends, valid = values
            along, taps, (adds, relu) = (
                cgutils.unpack_tuple(builder, value) for value in (along, taps, ends)
            )
            (x, y, count, *moves), vector, i64 = along, start.type, ir.IntType(64)
            nine = [
                cgutils.alloca_once_value(builder, value)
                for line in cgutils.unpack_tuple(builder, nine)
                for value in cgutils.unpack_tuple(builder, line)
            ]
            least = _least(builder, relu, vector)
            # Each line has a pointer of its own, of which LLVM does not know how it is related to
            # the others: else it would keep nine addresses.
            data = context.make_array(signature.args[0])(context, builder, flat).data
            hide = ir.FunctionType(data.type, [data.type])
            lines = [
                builder.asm(hide, "", "=r,0", [builder.gep(data, [builder.add(x, line)])], False)
                for line in (i64(0), *taps[:2])
            ]

            def emit(mask):
                places = [
                    cgutils.alloca_once_value(builder, at)
                    for at in (*lines, builder.gep(data, [y]))
                ]

                def read(pointer, offset):
                    at = builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())
                    if mask:
                        return masked_load(builder, at, mask)
                    return builder.load(at, align=bytes_of(vector))

                with cgutils.for_range(builder, count):
                    *rows, to = [builder.load(place) for place in places]
                    numbers = [(row, column) for row in rows for column in (i64(0), *taps[2:])]
                    if is_gradient:
                        gradient = read(to, i64(0))
                        for total, at in zip(nine, numbers, strict=True):
                            sum_ = fused(builder, read(*at), gradient, builder.load(total))
                            builder.store(sum_, total)
                    else:
                        total = cgutils.alloca_once_value(builder, start)
                        with builder.if_then(cgutils.is_not_null(builder, adds)):
                            builder.store(read(to, i64(0)), total)
                        result = builder.load(total)
                        for weight, at in zip(nine, numbers, strict=True):
                            result = fused(builder, read(*at), builder.load(weight), result)
                        below = builder.fcmp_ordered("<", result, least)
                        result = builder.select(below, least, result)
                        target = builder.bitcast(to, vector.as_pointer())
                        if mask:
                            store_some(builder, [result], [target], valid)
                        else:
                            builder.store(result, target, align=bytes_of(vector))
                    for place, move in zip(places, [moves[0]] * 3 + [moves[1]], strict=True):
                        builder.store(builder.gep(builder.load(place), [move]), place)

            is_whole = builder.icmp_signed(">=", valid, i64(vector.count))
            with builder.if_else(is_whole) as (whole, part):
                with whole:
                    emit(None)
                with part:
                    emit(first_lanes(builder, valid, vector.count))
            if not is_gradient:
                return context.get_dummy_value()
            sums, kind = [builder.load(total) for total in nine], signature.return_type
            rows = [context.make_tuple(builder, kind[0], sums[k : k + 3]) for k in (0, 3, 6)]
            return context.make_tuple(builder, kind, rows)

        result = nine if is_gradient else types.void
        return result(array, along, taps, nine, start, ends, types.int64), generate

    return over


# weigh_nine(array, along, taps, weights, start, (adds, relu), valid): y = start + Σ x · weight over
# three times three taps, for the first ``valid`` lanes of each of some elements; where ``adds`` is
# not 0, y itself is the start, and where ``relu`` is not 0, what is below 0 ends as 0.
# multiply_nine(array, along, taps, sums, start, (0, 0), valid): the sums, each
# plus Σ x · y over the elements. ``along`` are the places in ``array`` of the first x and the first
# y, how many elements there are, and how far the next x and the next y are; ``taps`` how far the
# second and the third line, and the second and the third column, are from the first.
weigh_nine, multiply_nine = _nine(False), _nine(True)
