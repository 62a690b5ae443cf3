"""The register tile: the inner loop of every convolution and dense pass.

    C[m, n] = init[m, n] + Σ_{o<outer} Σ_{i<inner} A[m·row + o·outer + i·inner] · B[o·outer + i·inner + n]

A and B have strides of their own (`Scalars`, `Vectors`). A block of C stays in vector registers
while both reduction loops run; each step broadcasts one number of A per row and multiplies it with
a vector of B. Two reduction loops are enough to read a convolution's input where it lies, so that
nothing is copied into columns first. The sum of one element of C has the same order whatever the
shape of the block: a result does not depend on how rows and columns were cut.

The vector width and the number of registers are those of the host.
"""

from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.compiler import Entry, Inner
from minicnn.kernels.cpu.emit import bytes_of, first_lanes, fused, masked_load, splat, store_some

# Without nnan and ninf: a diverged run must be seen.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}
_OPTIONS: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}
JIT = _OPTIONS | {"pipeline_class": Inner}  # of what only compiled functions call
ENTRY = _OPTIONS | {"pipeline_class": Entry}


def _host_vectors() -> tuple[int, int]:
    """Bytes in a vector register of this machine, or of the one that NUMBA_CPU_FEATURES describes,
    and their number."""
    described = config.CPU_FEATURES
    if described is None:
        features = llvm.get_host_cpu_features()
    else:
        features = dict.fromkeys(described.replace("+", "").split(","), True)
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx"):
        return 32, 16
    return 16, 32 if features.get("neon") else 16


VECTOR_BYTES, REGISTERS = _host_vectors()
# Rows of a block by its width in vectors. 1 or 2: all registers but those for B, one for the
# broadcast and one spare. A single row, as one image has in a dense layer, takes 8: it reads the
# weights as they lie, and 8 sums hide how long a multiply-add takes.
BLOCK_ROWS = {1: 12, 2: 12 if REGISTERS == 32 else 6} | dict.fromkeys(range(3, 9), 1)

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
# Rows, columns, outer and inner length; row, outer and inner stride of A; outer and inner stride of
# B; row stride of init and of C; whether what is below 0 ends as 0; whether C is added to, and init
# is null. A product is handed them
# in memory: as arguments, most would go by the stack, and be copied there from one call to the next
# by vector moves that stall on what was just stored.
_SHAPE = ir.ArrayType(_I64, 13)


class Scalars(NamedTuple):
    """The left factor, read number by number from a flat array; all strides are in elements."""

    array: Any
    offset: int
    row: int
    outer: int
    inner: int


class Vectors(NamedTuple):
    """The right factor, whose columns are neighbours."""

    array: Any
    offset: int
    outer: int
    inner: int


class Rows(NamedTuple):
    """A matrix whose columns are neighbours, and whose rows are ``row`` elements apart."""

    array: Any
    offset: int
    row: int


def _never_unroll(module: ir.Module) -> ir.MDValue:
    """Metadata that keeps LLVM from unrolling a loop: the copies would need more addresses than
    there are registers."""
    loop = module.add_metadata([ir.MetaDataString(module, f"loop {len(module.metadata)}")])
    loop.operands = (
        loop,
        module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")]),
    )
    return loop


def _emit_block(
    module: ir.Module, element: ir.Type, lanes: int, rows: int, vectors: int, partial: bool
) -> ir.Function:
    """Emit the function of one block: ``rows`` x ``vectors`` registers; with ``partial`` the last
    vector is masked."""
    pointer, vector = element.as_pointer(), ir.VectorType(element, lanes)
    size = bytes_of(vector)
    name = f"minicnn_block_f{8 * size}_{rows}x{vectors}x{lanes}{'_partial' if partial else ''}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [_SHAPE.as_pointer(), *4 * [pointer], _I64]), name
    )
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    shape, a, b, init, c, valid = function.args

    names = "entry from_init from_zero outer inner outer_end done adds added relu end"
    entry, from_init, from_zero, outer_loop, inner_loop, outer_end, done, adds, added, relu, end = (
        map(function.append_basic_block, names.split())
    )
    build = ir.IRBuilder(entry)
    _, _, outer, inner, a_row, a_outer, a_inner, b_outer, b_inner, init_row, c_row, _, _ = (
        _read_shape(build, shape)
    )
    zero = ir.Constant(vector, [0.0] * lanes)
    count = range(rows * vectors)

    # Three rows share a pointer: base, base + stride and base + 2·stride are addressing modes, so
    # few registers do. An empty piece of assembly hides how the pointers are related: else LLVM
    # makes one long chain of additions of them, one per row, and a block one vector wide runs at half
    # its speed.
    hide = ir.FunctionType(pointer, [pointer])
    groups = [
        build.asm(hide, "", "=r,0", [build.gep(a, [build.mul(a_row, _I64(m))])], False)
        for m in range(0, rows, 3)
    ]

    if partial:
        mask = first_lanes(build, valid, lanes)

    def place(builder, base, j):
        return builder.bitcast(builder.gep(base, [_I64(j * lanes)]), vector.as_pointer())

    def load(builder, base, j):
        if partial and j == vectors - 1:
            return masked_load(builder, place(builder, base, j), mask)
        return builder.load(place(builder, base, j), align=size)

    def each(builder, base, row):
        """Where the vectors of the rows lie that are ``row`` apart: arguments of `load`."""
        starts = [builder.gep(base, [builder.mul(row, _I64(m))]) for m in range(rows)]
        return [(builder, start, j) for start in starts for j in range(vectors)]

    is_null = build.icmp_unsigned("==", build.ptrtoint(init, _I64), _I64(0))
    build.cbranch(is_null, from_zero, from_init)
    build = ir.IRBuilder(from_init)
    first = [load(*at) for at in each(build, init, init_row)]
    build.branch(outer_loop)
    ir.IRBuilder(from_zero).branch(outer_loop)

    build = ir.IRBuilder(outer_loop)
    o = build.phi(_I64)
    a_o, b_o = [build.phi(pointer) for _ in groups], build.phi(pointer)
    sums_o = [build.phi(vector) for _ in count]
    for block, values in ((from_init, first), (from_zero, [zero] * len(count))):
        o.add_incoming(_I64(0), block)
        for phi, start in zip(a_o, groups, strict=True):
            phi.add_incoming(start, block)
        b_o.add_incoming(b, block)
        for phi, value in zip(sums_o, values, strict=True):
            phi.add_incoming(value, block)
    build.branch(inner_loop)

    build = ir.IRBuilder(inner_loop)
    i = build.phi(_I64)
    a_i, b_i = [build.phi(pointer) for _ in groups], build.phi(pointer)
    sums = [build.phi(vector) for _ in count]
    i.add_incoming(_I64(0), outer_loop)
    for phi, start in zip(a_i, a_o, strict=True):
        phi.add_incoming(start, outer_loop)
    b_i.add_incoming(b_o, outer_loop)
    for phi, value in zip(sums, sums_o, strict=True):
        phi.add_incoming(value, outer_loop)
    columns = [load(build, b_i, j) for j in range(vectors)]
    results = []
    for m in range(rows):
        at = build.gep(a_i[m // 3], [build.mul(a_row, _I64(m % 3))])
        number = splat(build, build.load(at), lanes)
        results += [fused(build, number, columns[j], sums[m * vectors + j]) for j in range(vectors)]
    next_i = build.add(i, _I64(1))
    i.add_incoming(next_i, inner_loop)
    for phi in a_i:
        phi.add_incoming(build.gep(phi, [a_inner]), inner_loop)
    b_i.add_incoming(build.gep(b_i, [b_inner]), inner_loop)
    for phi, value in zip(sums, results, strict=True):
        phi.add_incoming(value, inner_loop)
    backward_branch = build.cbranch(build.icmp_signed("<", next_i, inner), inner_loop, outer_end)
    backward_branch.set_metadata("llvm.loop", _never_unroll(module))

    build = ir.IRBuilder(outer_end)
    next_o = build.add(o, _I64(1))
    o.add_incoming(next_o, outer_end)
    for phi in a_o:
        phi.add_incoming(build.gep(phi, [a_outer]), outer_end)
    b_o.add_incoming(build.gep(b_o, [b_outer]), outer_end)
    for phi, value in zip(sums_o, results, strict=True):
        phi.add_incoming(value, outer_end)
    backward_branch = build.cbranch(build.icmp_signed("<", next_o, outer), outer_loop, done)
    backward_branch.set_metadata("llvm.loop", _never_unroll(module))

    # What is added to C is a sum by itself: a sum of such sums errs much less in float32 than one
    # long sum. Whether it is, is read here: a register more would be one less for the loops.
    build = ir.IRBuilder(done)
    *_, is_rectified, is_added = _read_shape(build, shape)
    build.cbranch(build.icmp_signed("!=", is_added, _I64(0)), adds, added)
    build = ir.IRBuilder(adds)
    # loads first: what was just stored with a mask is slow to load
    before = [load(*to) for to in each(build, c, c_row)]
    sums = [build.fadd(*pair) for pair in zip(results, before, strict=True)]
    build.branch(added)
    build = ir.IRBuilder(added)
    results = _either(build, (done, results), (adds, sums))
    build.cbranch(build.icmp_signed("!=", is_rectified, _I64(0)), relu, end)
    build = ir.IRBuilder(relu)
    below = [build.fcmp_ordered("<", result, zero) for result in results]
    positive = [build.select(is_below, zero, r) for is_below, r in zip(below, results, strict=True)]
    build.branch(end)
    build = ir.IRBuilder(end)
    results = _either(build, (added, results), (relu, positive))
    targets, last = [place(*to) for to in each(build, c, c_row)], vectors - 1
    for n, (result, target) in enumerate(zip(results, targets, strict=True)):
        if not partial or n % vectors < last:
            build.store(result, target, align=size)
    if partial:
        store_some(build, results[last::vectors], targets[last::vectors], valid)
    build.ret_void()
    return function


def _either(build, *choices):
    """The values of the block, of those in the pairs (block, values), that came before."""
    phis = [build.phi(value.type) for value in choices[0][1]]
    for block, values in choices:
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)
    return phis


def _read_shape(build: ir.IRBuilder, shape: ir.Value) -> list[ir.Value]:
    return [
        build.load(cgutils.gep_inbounds(build, shape, 0, field)) for field in range(_SHAPE.count)
    ]


def _emit_product(module: ir.Module, element: ir.Type, lanes: int) -> ir.Function:
    """Emit the whole product: C is cut into blocks of nearly equal height, without thin rests."""
    pointer = element.as_pointer()
    function = ir.Function(
        module,
        ir.FunctionType(ir.VoidType(), [_SHAPE.as_pointer(), *4 * [pointer]]),
        "minicnn_product",
    )
    function.linkage = "internal"
    function.attributes.add("nounwind")
    shape, a, b, init, c = function.args
    build = ir.IRBuilder(function.append_basic_block("entry"))
    rows, columns, _, _, a_row, _, _, _, _, init_row, c_row, *_ = _read_shape(build, shape)
    no_init = build.icmp_unsigned("==", build.ptrtoint(init, _I64), _I64(0))
    width = build.select(build.icmp_signed("==", rows, _I64(1)), _I64(max(BLOCK_ROWS)), _I64(2))
    with cgutils.for_range_slice(build, _I64(0), columns, build.mul(width, _I64(lanes)), _I64) as (
        n,
        _,
    ):
        rest = build.sub(columns, n)
        needed = build.udiv(build.add(rest, _I64(lanes - 1)), _I64(lanes))
        vectors = build.select(build.icmp_signed("<", needed, width), needed, width)
        valid = build.sub(
            rest, build.mul(build.sub(vectors, _I64(1)), _I64(lanes))
        )  # columns in the last vector
        partial = build.icmp_signed("<", valid, _I64(lanes))
        variant = build.add(
            build.mul(vectors, _I64(100)), build.select(partial, _I64(1000), _I64(0))
        )
        blocks = [
            build.udiv(build.add(rows, _I64(most - 1)), _I64(most))
            for most in (BLOCK_ROWS[1], BLOCK_ROWS[2])
        ]
        count = build.select(build.icmp_signed("==", vectors, _I64(1)), *blocks)
        each = build.zext(build.udiv(build.trunc(rows, _I32), build.trunc(count, _I32)), _I64)
        longer = build.sub(rows, build.mul(each, count))  # so many blocks have one row more
        with cgutils.for_range(build, count) as loop:
            is_longer = build.icmp_signed("<", loop.index, longer)
            m = build.add(build.mul(loop.index, each), build.select(is_longer, loop.index, longer))
            height = build.add(each, build.zext(is_longer, _I64))
            init_at = build.gep(init, [build.add(build.mul(m, init_row), n)])
            arguments = [
                shape,
                build.gep(a, [build.mul(m, a_row)]),
                build.gep(b, [n]),
                build.select(no_init, init, init_at),
                build.gep(c, [build.add(build.mul(m, c_row), n)]),
                valid,
            ]
            after = build.append_basic_block("block_done")
            switch = build.switch(build.add(height, variant), after)
            for block_vectors, most_rows in BLOCK_ROWS.items():
                for is_partial in (False, True):
                    for block_rows in range(1, most_rows + 1):
                        case = build.append_basic_block()
                        switch.add_case(
                            _I64(block_rows + 100 * block_vectors + 1000 * is_partial), case
                        )
                        with build.goto_block(case):
                            block = _emit_block(
                                module, element, lanes, block_rows, block_vectors, is_partial
                            )
                            build.call(block, arguments)
                            build.branch(after)
            build.position_at_end(after)
    build.ret_void()
    return function


@intrinsic
def _product(typing_context, number):
    """The address of the product for numbers of this type."""

    def generate(context, builder, signature, values):
        lanes = VECTOR_BYTES * 8 // number.bitwidth
        return builder.ptrtoint(
            _emit_product(builder.module, context.get_value_type(number), lanes), _I64
        )

    return types.int64(number), generate


@cached
@njit(**ENTRY)
def product_address(number):
    """The address of the product for numbers of this type."""
    return _product(number)


def multiply_address(dtype) -> int:
    """Address of the compiled product for float32 or float64: what the plan's field ``multiply``
    holds.

    The product is called through its address, so that its machine code is made once and not once a
    caller; it is emitted and not compiled from Python, because half of a small network's products
    are so short that a call's cost shows.
    """
    return product_address(np.dtype(dtype).type(0))


@intrinsic
def multiply(typing_context, address, shape, a, b, init, c):
    """C = init + A·B; see the formula at the top of this file.

    ``address`` is the plan's ``multiply``, ``shape`` (rows, columns, outer, inner), none of them 0;
    a fifth number other than 0 makes 0 of what is below 0 in C. ``a`` are `Scalars`, ``b``
    `Vectors`, ``init`` and ``c`` `Rows` of contiguous arrays. ``init`` is ``c`` to add to C itself,
    has rows 0 apart to start each with one bias vector, and the offset −1 to start at zero.
    """

    def generate(context, builder, signature, values):
        address, *records = values
        places, offsets, numbers = [], [], []
        for kinds, record in zip(signature.args[1:], records, strict=True):
            members = cgutils.unpack_tuple(builder, record)
            if isinstance(kinds[0], types.Array):
                array, offset, *members = members
                data = context.make_array(kinds[0])(context, builder, array).data
                offsets.append(context.cast(builder, offset, kinds[1], types.int64))
                places.append(builder.gep(data, offsets[-1:]))
            of = list(kinds)[-len(members) :]
            numbers += [
                context.cast(builder, *pair, types.int64) for pair in zip(members, of, strict=True)
            ]
        relu = numbers.pop(4) if len(shape) == 5 else _I64(0)
        adds = builder.icmp_unsigned("==", *places[2:])
        absent = builder.or_(adds, builder.icmp_signed("<", offsets[2], _I64(0)))
        places[2] = builder.select(absent, ir.Constant(places[2].type, None), places[2])
        memory = cgutils.alloca_once(builder, _SHAPE)
        for field, number in enumerate((*numbers, relu, builder.zext(adds, _I64))):
            builder.store(number, cgutils.gep_inbounds(builder, memory, 0, field))
        arguments = [memory, *places]
        function = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(builder.inttoptr(address, function.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(types.int64, shape, a, b, init, c), generate
