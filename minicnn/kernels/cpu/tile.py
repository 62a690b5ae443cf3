"""The register tile: the one place with vector code, and the inner loop of every convolution and dense pass.

    C[m, n] = init[m, n] + Σ_{o<outer} Σ_{i<inner} A[m·a_row + o·a_outer + i·a_inner] · B[o·b_outer + i·b_inner + n]

A block of C stays in vector registers while both reduction loops run; each step broadcasts one number of A a row and
multiplies it with a vector of B. Two reduction loops are enough to read a convolution's input where it lies, so that
nothing is copied into columns first. The sum of one element of C has the same order whatever the shape of the block:
a result does not depend on how rows and columns were cut.

The vector width and the number of registers are those of the host.
"""

import functools

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import cfunc, config, types
from numba.core import cgutils
from numba.extending import intrinsic

FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}  # no nnan, no ninf: a diverged run must be seen
JIT = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}


def _host_vectors() -> tuple[int, int]:
    """Bytes in a vector register of this machine, or of the one that NUMBA_CPU_FEATURES describes, and their number."""
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


VECTOR_BYTES, _REGISTERS = _host_vectors()
# Rows of a block that is 1 or 2 vectors wide: all registers but those for B, one for the broadcast and one spare.
BLOCK_ROWS = {1: 12, 2: 12 if _REGISTERS == 32 else 6}

_I64 = ir.IntType(64)
_I1 = ir.IntType(1)


def _masked(module: ir.Module, name: str, vector: ir.VectorType, lanes: int, store: bool) -> ir.Function:
    """Declare LLVM's masked load or store of ``vector``."""
    mask, pointer, align = ir.VectorType(_I1, lanes), vector.as_pointer(), ir.IntType(32)
    if store:
        signature = ir.FunctionType(ir.VoidType(), [vector, pointer, align, mask])
    else:
        signature = ir.FunctionType(vector, [pointer, align, mask, vector])
    return cgutils.get_or_insert_function(module, signature, name)


def _never_unroll(module: ir.Module) -> ir.MDValue:
    """Metadata that keeps LLVM from unrolling a loop: the copies would need more addresses than there are registers."""
    loop = module.add_metadata([ir.MetaDataString(module, f"loop {len(module.metadata)}")])
    loop.operands = (loop, module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")]))
    return loop


def _emit_block(module: ir.Module, element: ir.Type, lanes: int, rows: int, vectors: int, partial: bool) -> ir.Function:
    """Emit the function of one block: ``rows`` x ``vectors`` registers; with ``partial`` the last vector is masked."""
    kind = "f32" if isinstance(element, ir.FloatType) else "f64"
    name = f"minicnn_block_{kind}_{rows}x{vectors}x{lanes}{'_partial' if partial else ''}"
    if name in module.globals:
        return module.globals[name]
    pointer, vector = element.as_pointer(), ir.VectorType(element, lanes)
    suffix = f"v{lanes}{kind}.p0"
    signature = ir.FunctionType(
        ir.VoidType(),
        [pointer, _I64, _I64, _I64, pointer, _I64, _I64, pointer, _I64, pointer, _I64, _I64, _I64, _I64],
    )
    function = ir.Function(module, signature, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    a, a_row, a_outer, a_inner, b, b_outer, b_inner, init, init_row, c, c_row, outer, inner, valid = function.args

    entry = function.append_basic_block("entry")
    from_init, from_zero = function.append_basic_block("from_init"), function.append_basic_block("from_zero")
    outer_loop, inner_loop = function.append_basic_block("outer"), function.append_basic_block("inner")
    outer_end, done = function.append_basic_block("outer_end"), function.append_basic_block("done")
    build = ir.IRBuilder(entry)
    zero = ir.Constant(vector, [0.0] * lanes)
    count = range(rows * vectors)

    # Three rows share a pointer: base, base + stride and base + 2·stride are addressing modes, so few registers do. An
    # empty piece of assembly hides how the pointers are related: else LLVM makes one long chain of additions of them,
    # one a row, and a block one vector wide runs at half its speed.
    hide = ir.FunctionType(pointer, [pointer])
    groups = [build.asm(hide, "", "=r,0", [build.gep(a, [build.mul(a_row, _I64(m))])], False)
              for m in range(0, rows, 3)]  # fmt: skip

    if partial:
        splat = build.insert_element(ir.Constant(ir.VectorType(_I64, lanes), ir.Undefined), valid, ir.IntType(32)(0))
        splat = build.shuffle_vector(splat, splat, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))
        lane = ir.Constant(ir.VectorType(_I64, lanes), list(range(lanes)))
        mask = build.icmp_unsigned("<", lane, splat)

    def load(builder, base, j):
        at = builder.bitcast(builder.gep(base, [_I64(j * lanes)]), vector.as_pointer())
        if partial and j == vectors - 1:
            masked_load = _masked(module, f"llvm.masked.load.{suffix}", vector, lanes, store=False)
            return builder.call(masked_load, [at, ir.IntType(32)(element_bytes), mask, zero])
        return builder.load(at, align=element_bytes)

    def store(builder, value, base, j):
        at = builder.bitcast(builder.gep(base, [_I64(j * lanes)]), vector.as_pointer())
        if partial and j == vectors - 1:
            masked_store = _masked(module, f"llvm.masked.store.{suffix}", vector, lanes, store=True)
            builder.call(masked_store, [value, at, ir.IntType(32)(element_bytes), mask])
        else:
            builder.store(value, at, align=element_bytes)

    element_bytes = 4 if kind == "f32" else 8
    is_null = build.icmp_unsigned("==", build.ptrtoint(init, _I64), _I64(0))
    build.cbranch(is_null, from_zero, from_init)
    build = ir.IRBuilder(from_init)
    first = [load(build, build.gep(init, [build.mul(init_row, _I64(m))]), j) for m in range(rows) for j in range(vectors)]
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
        single = build.insert_element(ir.Constant(vector, ir.Undefined), build.load(at), ir.IntType(32)(0))
        spread = build.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))
        results += [build.call(multiply_add, [spread, columns[j], sums[m * vectors + j]]) for j in range(vectors)]
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


@intrinsic
def _block(typingctx, rows, columns, outer, inner, a, a0, a_row, a_outer, a_inner, b, b0, b_outer, b_inner,
           init, init0, init_row, c, c0, c_row):  # fmt: skip
    """One block of at most ``BLOCK_ROWS`` rows and two vectors; a pointer is followed by an offset in elements."""
    signature = types.void(rows, columns, outer, inner, a, a0, a_row, a_outer, a_inner, b, b0, b_outer, b_inner,
                           init, init0, init_row, c, c0, c_row)  # fmt: skip
    bits = c.dtype.bitwidth
    lanes = VECTOR_BYTES * 8 // bits

    def codegen(context, builder, signature, arguments):
        (rows, columns, outer, inner, a, a0, a_row, a_outer, a_inner, b, b0, b_outer, b_inner,
         init, init0, init_row, c, c0, c_row) = arguments  # fmt: skip
        element = context.get_value_type(signature.args[-3].dtype)
        two = builder.icmp_signed(">", columns, _I64(lanes))
        last = builder.sub(columns, builder.select(two, _I64(lanes), _I64(0)))
        partial = builder.icmp_signed("<", last, _I64(lanes))
        number = builder.add(rows, builder.select(two, _I64(100), _I64(0)))
        number = builder.add(number, builder.select(partial, _I64(200), _I64(0)))
        init_is_null = builder.icmp_unsigned("==", builder.ptrtoint(init, _I64), _I64(0))
        init_at = builder.select(init_is_null, init, builder.gep(init, [init0]))
        passed = [builder.gep(a, [a0]), a_row, a_outer, a_inner, builder.gep(b, [b0]), b_outer, b_inner,
                  init_at, init_row, builder.gep(c, [c0]), c_row, outer, inner, last]  # fmt: skip
        after = builder.append_basic_block("block_done")
        switch = builder.switch(number, after)
        for vectors in (1, 2):
            for is_partial in (False, True):
                for m in range(1, BLOCK_ROWS[vectors] + 1):
                    case = builder.append_basic_block()
                    switch.add_case(_I64(m + 100 * (vectors - 1) + 200 * is_partial), case)
                    builder.position_at_end(case)
                    builder.call(_emit_block(builder.module, element, lanes, m, vectors, is_partial), passed)
                    builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return signature, codegen


_ROWS_1, _ROWS_2 = BLOCK_ROWS[1], BLOCK_ROWS[2]


def _multiply(rows, columns, outer, inner, a, a_row, a_outer, a_inner, b, b_outer, b_inner,
              init, init_row, c, c_row, lanes):  # fmt: skip
    for n in range(0, columns, 2 * lanes):
        width = min(2 * lanes, columns - n)
        most = _ROWS_1 if width <= lanes else _ROWS_2
        blocks, each, longer = 1, rows, 0
        if rows > most:  # blocks of nearly equal height leave no thin remainder
            blocks = (rows + most - 1) // most
            each, longer = rows // blocks, rows % blocks
        m = 0
        for block in range(blocks):
            height = each + 1 if block < longer else each
            _block(height, width, outer, inner, a, m * a_row, a_row, a_outer, a_inner, b, n, b_outer, b_inner,
                   init, m * init_row + n, init_row, c, m * c_row + n, c_row)  # fmt: skip
            m += height


@functools.cache
def _compiled(dtype: str):
    element = types.float32 if dtype == "float32" else types.float64
    pointer, number = types.CPointer(element), types.int64
    signature = types.void(number, number, number, number, pointer, number, number, number, pointer, number, number,
                           pointer, number, pointer, number, number)  # fmt: skip
    return cfunc(signature, cache=True, fastmath=FASTMATH, error_model="numpy")(_multiply)


def multiply_address(dtype) -> int:
    """Address of the compiled product for float32 or float64: what the plan's field ``multiply`` holds.

    The product is called through its address, so that its machine code is made once and not once a caller.
    """
    return _compiled(np.dtype(dtype).name).address


@intrinsic
def multiply(typingctx, address, rows, columns, outer, inner, a, a0, a_row, a_outer, a_inner, b, b0, b_outer, b_inner,
             init, init0, init_row, c, c0, c_row):  # fmt: skip
    """C = init + A·B, all lengths and strides in elements; see the formula at the top of this file.

    ``address`` is the plan's ``multiply``. ``a``, ``b``, ``init``, ``c`` are contiguous arrays and ``a0``, ... where in
    them a matrix begins. The rows of ``init`` are ``init_row`` apart: ``c_row`` to add to C itself, 0 to start every row
    with one bias vector; ``init0 = -1`` starts at zero. No length may be 0.
    """
    arguments = (address, rows, columns, outer, inner, a, a0, a_row, a_outer, a_inner, b, b0, b_outer, b_inner,
                 init, init0, init_row, c, c0, c_row)  # fmt: skip
    signature = types.void(*(kind if isinstance(kind, types.Array) else types.int64 for kind in arguments))
    lanes = VECTOR_BYTES * 8 // c.dtype.bitwidth

    def codegen(context, builder, signature, values):
        element = context.get_value_type(c.dtype).as_pointer()
        passed, index = [], 1
        while index < len(values):
            kind = signature.args[index]
            if isinstance(kind, types.Array):
                data = context.make_array(kind)(context, builder, values[index]).data
                index += 1
                passed.append(builder.gep(data, [values[index]]))
                if index == init_offset:
                    absent = builder.icmp_signed("<", values[index], _I64(0))
                    passed[-1] = builder.select(absent, ir.Constant(element, None), passed[-1])
            else:
                passed.append(values[index])
            index += 1
        passed.append(_I64(lanes))
        function = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), passed)
        return context.get_dummy_value()

    init_offset = 15
    return signature, codegen
