"""Rules compiled for the CPU: an optimizer's update as one fused, vectorized loop, a loss as a
function of one row, an activation as the kernels of an operation. `minicnn.kernels.generated` makes
the modules."""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from minicnn.errors import PluginError
from minicnn.kernels.cpu import elementary
from minicnn.kernels.cpu.compiler import Inner
from minicnn.kernels.generated import arguments, check_activation, compile_rule, each
from minicnn.kernels.sources import digest_of
from minicnn.rules import ActivationRule, AnyLayer, LossRule, OptimizerRule

# Less than the kernels' fastmath. "reassoc" may undo an order that makes a rule stable, such as x −
# max(x), and "arcp" makes g / √v an estimate, which differs between processors and is NaN
# for an infinite v. Adam's speed is the same without both.
OPTIONS: dict[str, Any] = {"fastmath": {"nsz", "contract", "afn"}, "error_model": "numpy"}
_ELEMENTARY = {name: getattr(elementary, name) for name in ("exp", "expm1", "log1p", "tanh", "erf")}


@dataclass(frozen=True)
class Update:
    """A compiled update of buffers of dtype T.

    ``compiled(params, grads, slots, scalars, begin, end)`` updates the elements [begin, end) of
    ``params`` [P] and of ``slots`` [slots, P].
    """

    address: int
    scalars: int  # how many scalars the rule's ``prepare`` must return
    cfunc: Any  # keeps the machine code alive


_HEAD = """\
import numba
from numba import types
from minicnn.kernels.cpu.cache import cfunction
from minicnn.kernels.cpu.call import TABLE
from minicnn.kernels.cpu.rules import OPTIONS, Disjoint, as_tuple, numbers_at, piece

V = types.{dtype}[::1]
I = types.int64


"""

# The loop is a function of its own, whose arrays do not overlap and whose index begins at 0: LLVM
# then vectorizes it for any number of slots.
_UPDATE = """\
@numba.njit(pipeline_class=Disjoint, **OPTIONS)
def loop(params, grads, {slots} scalars):
    {load_scalars}
    for i in range(len(params)):
        p, {new_slots} = as_tuple(rule(params[i], grads[i], {slot_values} {scalars}))
        params[i] = p
        {store_slots}


@cfunction(types.void(V, V, types.{dtype}[:, ::1], V, I, I), **OPTIONS)
def compiled(params, grads, slots, scalars, begin, end):
    loop(params[begin:end], grads[begin:end], {slot_parts} scalars)
"""

# Called for each sample, with pointers: the counts of references to arrays would take longer than
# many a loss.
_LOSS = """\
P = types.CPointer(types.{dtype})


@cfunction(types.float64(P, I, I, P, P, P, P), **OPTIONS)
def compiled(logits, outputs, label, values, dlogits, class_weights, hyperparameters):
    target, dlogits = {target}, numba.carray(dlogits, outputs)
    return rule(numba.carray(logits, outputs), target, dlogits, {class_weights} {hyperparameters})
"""

# An operation's kernels. The loops are told that their arrays do not overlap, even where y lies
# where x lies: an element is written after all that is made of it, so they are right all the same,
# and LLVM vectorizes them.
_FORWARD = """\
@numba.njit(pipeline_class=Disjoint, **OPTIONS)
def loop(x, y, {hypers}):
    for i in range(len(x)):
        y[i] = rule(x[i], {hypers})


@cfunction(types.void(TABLE, V, V, I, types.uint64, I), **OPTIONS)
def compiled(plan, params, work, n, key, first_sample):
    op, number = plan[0], work.dtype.type
    count = n * op.output_size
    loop(work[op.x : op.x + count], work[op.y : op.y + count], {numbers})
"""

_BACKWARD = """\
@numba.njit(pipeline_class=Disjoint, **OPTIONS)
def loop({reads}, dy, dx, {hypers}):
    for i in range(len(dx)):
        dx[i] = rule({reads}[i], {hypers}) * dy[i]


@numba.njit(pipeline_class=Disjoint, **OPTIONS)
def loop_that_adds({reads}, dy, dx, {hypers}):
    for i in range(len(dx)):
        dx[i] += rule({reads}[i], {hypers}) * dy[i]


@cfunction(types.void(TABLE, V, V, V, V, I, types.uint64, I), **OPTIONS)
def compiled(plan, params, transposed, work, grads, n, key, first_sample):
    op, number = plan[0], work.dtype.type
    if op.dx < 0:
        return
    count = n * op.output_size
    {reads} = work[op.{reads} : op.{reads} + count]
    dy, dx = work[op.dy : op.dy + count], work[op.dx : op.dx + count]
    if op.accumulate == 0:
        loop({reads}, dy, dx, {numbers})
    else:
        loop_that_adds({reads}, dy, dx, {numbers})
"""

# A sample at a time. What the record has no fields for lies at the address in a0: hyperparameters,
# then the place and the shape of each parameter. Where dx is not wanted, or added to, the rule
# writes it into the scratch.
_ARRAYS_FORWARD = """\
@cfunction(types.void(TABLE, V, V, I, types.uint64, I), **OPTIONS)
def compiled(plan, params, work, n, key, first_sample):
    op, number = plan[0], work.dtype.type
    numbers = numbers_at(op.a0)
    for i in range(n):
        x = piece(work, op.x + i * op.input_size, {input})
        y = piece(work, op.y + i * op.output_size, {output})
        rule(x, y, {params} {hypers})
"""

_ARRAYS_BACKWARD = """\
@cfunction(types.void(TABLE, V, V, V, V, I, types.uint64, I), **OPTIONS)
def compiled(plan, params, transposed, work, grads, n, key, first_sample):
    op, number = plan[0], work.dtype.type
    numbers = numbers_at(op.a0)
    for i in range(n):
        at = op.dx + i * op.input_size
        target = at if op.dx >= 0 and op.accumulate == 0 else op.scratch
        x = piece(work, op.x + i * op.input_size, {input})
        y = piece(work, op.y + i * op.output_size, {output})
        dy = piece(work, op.dy + i * op.output_size, {output})
        rule(x, y, dy, piece(work, target, {input}), {params} {grads} {hypers})
        if op.dx >= 0 and op.accumulate != 0:
            for j in range(op.input_size):
                work[at + j] += work[target + j]
"""


def compile_layer(rule: AnyLayer, name: str, dtype: Any, ranks: tuple[int, ...] = ()) -> Any:
    """The kernel ``name`` ("forward" or "backward") of the operation that is ``rule``, for buffers
    of ``dtype``, as a C function.

    Its arguments are those of every operation (`minicnn.kernels.cpu.passes`). ``ranks`` has the
    number of dimensions of a `LayerRule`'s x, y and parameters. It is compiled, or taken from the
    disk cache. Raises `PluginError` if that fails.
    """
    if isinstance(rule, ActivationRule):
        return _compile_activation(rule, name, dtype)
    function, hypers = (
        rule.forward if name == "forward" else rule.backward,
        len(rule.hyperparameters),
    )
    leading, parameters = (2, 1) if name == "forward" else (4, 2), range(2, len(ranks))
    if arguments(rule.name, function) != leading[0] + leading[1] * len(parameters) + hypers:
        wanted = (
            "x, y, *parameters" if name == "forward" else "x, y, dy, dx, *parameters, *gradients"
        )
        raise PluginError(
            f"layer {rule.name!r}: {function.__name__} must take ({wanted}, *hyperparameters)"
        )
    pieces, at = [], hypers
    for k in parameters:
        shape = each("int(numbers[{}])", range(at + 1, at + 1 + ranks[k]))
        pieces.append(f"int(numbers[{at}]), ({shape})")
        at += 1 + ranks[k]
    shapes = [
        f"(op.{side}_height, op.{side}_width, op.{side}_channels)"
        if rank == 3
        else f"(op.{side}_size,)"
        for side, rank in zip(("input", "output"), ranks, strict=False)
    ]
    return _compile(
        "layer",
        rule,
        function,
        dtype,
        _ARRAYS_FORWARD if name == "forward" else _ARRAYS_BACKWARD,
        input=shapes[0],
        output=shapes[1],
        params="".join(f"piece(params, {piece}), " for piece in pieces),
        grads="".join(f"piece(grads, {piece}), " for piece in pieces),
        hypers=each("number(numbers[{}])", range(hypers)),
    )


def _compile_activation(rule: ActivationRule, name: str, dtype: Any) -> Any:
    """The same of an activation, whose hyperparameters are f0 and f1."""
    function = rule.value if name == "forward" else rule.derivative
    hypers = range(len(rule.hyperparameters))
    check_activation(rule, function)
    return _compile(
        "layer",
        rule,
        function,
        dtype,
        _FORWARD if name == "forward" else _BACKWARD,
        reads=rule.reads,
        hypers=each("h{}", hypers),
        numbers=each("number(op.f{})", hypers),
    )


def compile_update(rule: OptimizerRule, dtype: Any) -> Update:
    """Compile ``rule.update`` for buffers of ``dtype`` (float32 or float64), or take it from the
    disk cache.

    Raises `PluginError` if the function cannot be compiled or does not take and return what the
    rule declares.
    """
    slots = range(len(rule.slots))
    count = arguments(rule.name, rule.update) - 2 - len(slots)
    if count < 0:
        raise PluginError(
            f"optimizer {rule.name!r}: update must take (p, g, *{list(rule.slots)}, *scalars)"
        )
    compiled = _compile(
        "optimizer",
        rule,
        rule.update,
        dtype,
        _UPDATE,
        slots=each("s{}", slots),
        load_scalars="; ".join(f"c{k} = scalars[{k}]" for k in range(count)) or "pass",
        new_slots=each("n{}", slots),
        slot_values=each("s{}[i]", slots),
        scalars=each("c{}", range(count)),
        store_slots="; ".join(f"s{k}[i] = n{k}" for k in slots) or "pass",
        slot_parts=each("slots[{}, begin:end]", slots),
    )
    return Update(compiled.address, count, compiled)


def compile_loss(rule: LossRule, dtype: Any) -> Any:
    """Compile ``rule.row`` for buffers of ``dtype`` (float32 or float64), or take it from the disk
    cache, as a C function.

    ``double(T* logits, int64 outputs, int64 label, T* values, T* dlogits, T* class_weights,
    T* hyperparameters)`` writes ``dlogits`` [outputs] and returns the loss. What the rule does not
    read, the label, the target values or the class weights, may be anything.

    Raises `PluginError` if the function cannot be compiled or does not take what the rule declares.
    """
    if arguments(rule.name, rule.row) != 3 + rule.class_weights + len(rule.hyperparameters):
        weights = ", class_weights" if rule.class_weights else ""
        hypers = "".join(f", {hyper.name}" for hyper in rule.hyperparameters)
        raise PluginError(
            f"loss {rule.name!r}: row must take (logits, target, dlogits{weights}{hypers})"
        )
    return _compile(
        "loss",
        rule,
        rule.row,
        dtype,
        _LOSS,
        target="label" if rule.target == "label" else "numba.carray(values, outputs)",
        class_weights="numba.carray(class_weights, outputs)," if rule.class_weights else "",
        hyperparameters=each("hyperparameters[{}]", range(len(rule.hyperparameters))),
    )


class Disjoint(Inner):
    """Numba's compiler, told that no two pointer arguments of the function overlap."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()


@numba.njit(pipeline_class=Inner, **OPTIONS)
def piece(buffer, begin, shape):
    """The numbers from ``begin`` on as an array of this ``shape``."""
    size = 1
    for side in shape:
        size *= side
    return buffer[begin : begin + size].reshape(shape)


@intrinsic
def numbers_at(typing_context, address):
    """A pointer to float64 at an ``address``."""
    pointer = types.CPointer(types.float64)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.int64), generate


def as_tuple(value: object) -> object:
    """Return a tuple as it is, and anything else as a tuple of one."""
    return value if isinstance(value, tuple) else (value,)


@overload(as_tuple, inline="always")
def _as_tuple(value):
    if isinstance(value, types.BaseTuple):
        return lambda value: value
    return lambda value: (value,)


def _compile(kind: str, rule: Any, function: Any, dtype: Any, template: str, **parts: str) -> Any:
    """What is called ``compiled`` in the module that ``template`` is with its ``parts``."""

    def jit(function: Any) -> Any:
        return numba.njit(function, forceinline=True, pipeline_class=Inner, **OPTIONS)

    own = _ELEMENTARY if np.dtype(dtype) == np.float32 else {}
    source = (_HEAD + template).format(dtype=np.dtype(dtype).name, **parts)
    return compile_rule(kind, rule.name, function, dtype, source, digest_of(__name__), jit, own)
