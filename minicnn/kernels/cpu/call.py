"""Calling compiled rules and kernels by their address from compiled code.

An address is a plain integer: the caller is compiled once for all rules and stays in the disk
cache, and handing the rule over costs nothing, where a function object takes 19 to 60 µs at every
call from Python. Large kernels are called so too: else LLVM would optimize their whole body again
in every function above them.
"""

import functools

from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cfunction
from minicnn.kernels.cpu.tile import FASTMATH
from minicnn.program.plan import RECORD

TABLE = types.Array(from_dtype(RECORD), 1, "C")  # a plan's, as the kernels know it


@functools.cache
def compiled(function, *arguments):
    """The njit ``function`` as a C function that returns nothing, from the disk cache if it is
    there."""
    options = {"fastmath": FASTMATH, "error_model": "numpy"}
    return cfunction(types.void(*arguments), **options)(function.py_func)


@intrinsic
def call(typing_context, address, arguments):
    """Call what `compiled` made, or an update of `rules.compile_update`, at ``address``, with a
    tuple of arguments: contiguous arrays, numbers.

    All whole numbers are passed as int64, but for uint64, which stays.
    """
    kinds = [
        types.int64 if isinstance(kind, types.Integer) and kind != types.uint64 else kind
        for kind in arguments.types
    ]
    if any(isinstance(kind, types.Array) and kind.layout != "C" for kind in kinds):
        raise TypingError("call: contiguous arrays are needed")

    def generate(context, builder, signature, values):
        given = enumerate(zip(arguments.types, kinds, strict=True))
        passed = [
            context.cast(builder, builder.extract_value(values[1], i), *pair) for i, pair in given
        ]
        _call(builder, ir.VoidType(), values[0], passed)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), generate


@intrinsic
def denormals(typing_context, mode):
    """Set how this thread treats denormal numbers, which make some instructions slow, and return
    the mode before: −1 replaces them by 0, another mode restores what was returned.

    On processors other than x86 nothing changes.
    """

    def generate(context, builder, signature, values):
        if not builder.module.triple.startswith("x86_64"):
            return values[0]
        register = cgutils.alloca_once(builder, ir.IntType(32))

        def move(name):
            kind = ir.FunctionType(ir.VoidType(), [register.type])
            name = f"llvm.x86.sse.{name}mxcsr"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [register])

        move("st")
        before = builder.zext(builder.load(register), values[0].type)
        is_off = builder.icmp_signed("<", values[0], before.type(0))
        mode = builder.select(is_off, builder.or_(before, before.type(0x8040)), values[0])
        builder.store(builder.trunc(mode, register.type.pointee), register)
        move("ld")
        return before

    return types.int64(types.int64), generate


@intrinsic
def call_loss(
    typing_context, address, logits, label, target_values, dlogits, class_weights, hyperparameters
):
    """Write ``dlogits`` and return the loss (float64) of one sample with the row at ``address``
    (`rules.compile_loss`).

    The arrays are contiguous, of the row's dtype, ``logits`` and ``dlogits`` of shape [outputs]; so
    are ``target_values`` and ``class_weights`` if the rule reads them, else they may be anything.
    """
    for array in (logits, target_values, dlogits, class_weights, hyperparameters):
        wanted = isinstance(array, types.Array) and array.layout == "C"
        if not wanted or array.dtype != logits.dtype:
            raise TypingError(f"call_loss: contiguous arrays of one dtype are needed, not {array}")
    signature = types.float64(
        types.int64, logits, types.int64, target_values, dlogits, class_weights, hyperparameters
    )

    def generate(context, builder, signature, arguments):
        address, *passed = arguments
        outputs = builder.extract_value(
            context.make_array(logits)(context, builder, passed[0]).shape, 0
        )
        for k in (0, 2, 3, 4, 5):
            array = context.make_array(signature.args[k + 1])(context, builder, passed[k])
            passed[k] = array.data
        return _call(builder, ir.DoubleType(), address, [passed[0], outputs, *passed[1:]])

    return signature, generate


def _call(builder, result, address, arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)
