"""The register tile: the one place with vector code, and the inner loop of every convolution and
dense pass.

    C[m, n] = init[m, n] + Σ_{o<outer} Σ_{i<inner} A[m·a_row + o·a_outer + i·a_inner] · B[o·b_outer
    + i·b_inner + n]

A block of C stays in vector registers while both reduction loops run; each step broadcasts one
number of A a row and multiplies it with a vector of B. Two reduction loops are enough to read a
convolution's input where it lies, so that nothing is copied into columns first. The sum of one
element of C has the same order whatever the shape of the block: a result does not depend on how
rows and columns were cut.

The vector width and the number of registers are those of the host.
"""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cached

FASTMATH = {
    "nsz",
    "arcp",
    "contract",
    "afn",
    "reassoc",
}  # no nnan, no ninf: a diverged run must be seen
JIT = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}


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
_I1 = ir.IntType(1)
# What a product is handed in memory. As arguments, most of it would go by the stack, and be copied
# there from one call to the next by vector moves that stall on what was just stored.
_FIELDS = (
    "rows",
    "columns",
    "outer",
    "inner",
    "a_row",
    "a_outer",
    "a_inner",
    "b_outer",
    "b_inner",
    "init_row",
    "c_row",
)
_SHAPE = ir.ArrayType(_I64, len(_FIELDS))


def _masked(
    module: ir.Module, name: str, vector: ir.VectorType, lanes: int, store: bool
) -> ir.Function:
    """Declare LLVM's masked load or store of ``vector``."""
    mask, pointer, align = ir.VectorType(_I1, lanes), vector.as_pointer(), _I32
    if store:
        signature = ir.FunctionType(ir.VoidType(), [vector, pointer, align, mask])
    else:
        signature = ir.FunctionType(vector, [pointer, align, mask, vector])
    return cgutils.get_or_insert_function(module, signature, name)


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
    kind = "f32" if isinstance(element, ir.FloatType) else "f64"
    name = f"minicnn_block_{kind}_{rows}x{vectors}x{lanes}{'_partial' if partial else ''}"
    if name in module.globals:
        return module.globals[name]
    pointer, vector = element.as_pointer(), ir.VectorType(element, lanes)
    suffix = f"v{lanes}{kind}.p0"
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [_SHAPE.as_pointer(), *4 * [pointer], _I64]), name
    )
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    shape, a, b, init, c, valid = function.args

    entry = function.append_basic_block("entry")
    from_init, from_zero = (
        function.append_basic_block("from_init"),
        function.append_basic_block("from_zero"),
    )
    outer_loop, inner_loop = (
        function.append_basic_block("outer"),
        function.append_basic_block("inner"),
    )
    outer_end, done = function.append_basic_block("outer_end"), function.append_basic_block("done")
    build = ir.IRBuilder(entry)
    _, _, outer, inner, a_row, a_outer, a_inner, b_outer, b_inner, init_row, c_row = _read_shape(
        build, shape
    )
    zero = ir.Constant(vector, [0.0] * lanes)
    count = range(rows * vectors)

    # Three rows share a pointer: base, base + stride and base + 2·stride are addressing modes, so
    # few registers do. An empty piece of assembly hides how the pointers are related: else LLVM
    # makes one long chain of additions of them, one a row, and a block one vector wide runs at half
    # its speed.
    hide = ir.FunctionType(pointer, [pointer])
    groups = [
        build.asm(hide, "", "=r,0", [build.gep(a, [build.mul(a_row, _I64(m))])], False)
        for m in range(0, rows, 3)
    ]

    if partial:
        splat = build.insert_element(
            ir.Constant(ir.VectorType(_I64, lanes), ir.Undefined), valid, _I32(0)
        )
        splat = build.shuffle_vector(
            splat, splat, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
        )
        lane = ir.Constant(ir.VectorType(_I64, lanes), list(range(lanes)))
        mask = build.icmp_unsigned("<", lane, splat)

    def load(builder, base, j):
        at = builder.bitcast(builder.gep(base, [_I64(j * lanes)]), vector.as_pointer())
        if partial and j == vectors - 1:
            masked_load = _masked(module, f"llvm.masked.load.{suffix}", vector, lanes, store=False)
            return builder.call(masked_load, [at, _I32(element_bytes), mask, zero])
        return builder.load(at, align=element_bytes)

    def store(builder, value, base, j):
        at = builder.bitcast(builder.gep(base, [_I64(j * lanes)]), vector.as_pointer())
        if partial and j == vectors - 1:
            masked_store = _masked(module, f"llvm.masked.store.{suffix}", vector, lanes, store=True)
            builder.call(masked_store, [value, at, _I32(element_bytes), mask])
        else:
            builder.store(value, at, align=element_bytes)

    element_bytes = 4 if kind == "f32" else 8
    is_null = build.icmp_unsigned("==", build.ptrtoint(init, _I64), _I64(0))
    build.cbranch(is_null, from_zero, from_init)
    build = ir.IRBuilder(from_init)
    first = [
        load(build, build.gep(init, [build.mul(init_row, _I64(m))]), j)
        for m in range(rows)
        for j in range(vectors)
    ]
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
    multiply_add = cgutils.get_or_insert_function(
        module, ir.FunctionType(vector, [vector, vector, vector]), f"llvm.fmuladd.v{lanes}{kind}"
    )
    columns = [load(build, b_i, j) for j in range(vectors)]
    results = []
    for m in range(rows):
        at = build.gep(a_i[m // 3], [build.mul(a_row, _I64(m % 3))])
        single = build.insert_element(ir.Constant(vector, ir.Undefined), build.load(at), _I32(0))
        spread = build.shuffle_vector(
            single, single, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
        )
        results += [
            build.call(multiply_add, [spread, columns[j], sums[m * vectors + j]])
            for j in range(vectors)
        ]
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

    build = ir.IRBuilder(done)
    for m in range(rows):
        row = build.gep(c, [build.mul(c_row, _I64(m))])
        for j in range(vectors):
            store(build, results[m * vectors + j], row, j)
    build.ret_void()
    return function


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
    rows, columns, _, _, a_row, _, _, _, _, init_row, c_row = _read_shape(build, shape)
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
            given = [
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
                            build.call(
                                _emit_block(
                                    module, element, lanes, block_rows, block_vectors, is_partial
                                ),
                                given,
                            )
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
@njit
def _product_address(number):
    return _product(number)


def multiply_address(dtype) -> int:
    """Address of the compiled product for float32 or float64: what the plan's field ``multiply``
    holds.

    The product is called through its address, so that its machine code is made once and not once a
    caller; it is emitted and not compiled from Python, because half of a small network's products
    are so short that a call's cost shows.
    """
    return _product_address(np.dtype(dtype).type(0))


def product_was_compiled() -> bool:
    """Whether this process compiled a product, since the disk cache had none: then it has no other
    kernel either."""
    return sum(_product_address.stats.cache_misses.values()) > 0


@intrinsic
def multiply(
    typingctx,
    address,
    rows,
    columns,
    outer,
    inner,
    a,
    a0,
    a_row,
    a_outer,
    a_inner,
    b,
    b0,
    b_outer,
    b_inner,
    init,
    init0,
    init_row,
    c,
    c0,
    c_row,
):
    """C = init + A·B, all lengths and strides in elements; see the formula at the top of this file.

    ``address`` is the plan's ``multiply``. ``a``, ``b``, ``init``, ``c`` are contiguous arrays and
    ``a0``, ... where in them a matrix begins. The rows of ``init`` are ``init_row`` apart:
    ``c_row`` to add to C itself, 0 to start every row with one bias vector; ``init0 = -1`` starts
    at zero. No length may be 0.
    """
    arguments = {
        "address": address,
        "rows": rows,
        "columns": columns,
        "outer": outer,
        "inner": inner,
        "a": a,
        "a0": a0,
        "a_row": a_row,
        "a_outer": a_outer,
        "a_inner": a_inner,
        "b": b,
        "b0": b0,
        "b_outer": b_outer,
        "b_inner": b_inner,
        "init": init,
        "init0": init0,
        "init_row": init_row,
        "c": c,
        "c0": c0,
        "c_row": c_row,
    }
    signature = types.void(
        *(kind if isinstance(kind, types.Array) else types.int64 for kind in arguments.values())
    )

    def generate(context, builder, signature, values):
        pointer = context.get_value_type(c.dtype).as_pointer()
        given = dict(zip(arguments, values, strict=True))
        shape = cgutils.alloca_once(builder, _SHAPE)
        for field, name in enumerate(_FIELDS):
            builder.store(given[name], cgutils.gep_inbounds(builder, shape, 0, field))
        passed = [shape]
        for name, kind in (("a", a), ("b", b), ("init", init), ("c", c)):
            data = context.make_array(kind)(context, builder, given[name]).data
            passed.append(builder.gep(data, [given[f"{name}0"]]))
        absent = builder.icmp_signed("<", given["init0"], _I64(0))
        passed[3] = builder.select(absent, ir.Constant(pointer, None), passed[3])
        function = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        builder.call(builder.inttoptr(given["address"], function.as_pointer()), passed)
        return context.get_dummy_value()

    return signature, generate
