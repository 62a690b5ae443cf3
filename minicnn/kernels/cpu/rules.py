"""Rules compiled for the CPU: an optimizer's update as one fused, vectorized loop or a function of one tensor, a loss
as a function of one row.

For each rule and dtype a small module is generated in the cache folder and imported, and Numba keeps the machine code
beside it, so that the next process compiles nothing. (Numba's disk cache needs a file, and it sees only edits in that
file.) The file's name holds a digest of all that the machine code depends on.
"""

import atexit
import dis
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core.compiler import Compiler
from numba.extending import intrinsic, overload

from minicnn.errors import PluginError
from minicnn.kernels.cpu.tensor import provide_product
from minicnn.plan import LAYER
from minicnn.rules import LossRule, OptimizerRule, TensorRule, operations

# Less than the kernels' fastmath. "reassoc" may undo an order that makes a rule stable, such as x − max(x), and "arcp"
# makes g / √v an estimate, which differs between processors and is not a number for an infinite v. Adam's speed is
# the same without both.
OPTIONS: dict[str, Any] = {"fastmath": {"nsz", "contract", "afn"}, "error_model": "numpy"}


@dataclass(frozen=True)
class Update:
    """A compiled update of buffers of dtype T.

    ``void(T* params, T* grads, T* slots, int64 slot_stride, T* scalars, int64 begin, int64 end)`` updates
    the elements [begin, end) of ``params`` and of every slot; slot k starts at ``slots + k·slot_stride``.
    Of a whole-tensor rule it is ``void(T[P] params, T[P] grads, T[slots, P] slots, T[] scalars, T[scratch, largest] scratch,
    int64 offset, int64 rows, int64 columns)``, with arrays as `call` passes them, and updates one tensor.
    """

    address: int
    scalars: int  # how many scalars the rule's ``prepare`` must return
    cfunc: Any  # keeps the machine code alive


@dataclass(frozen=True)
class LossRow:
    """A compiled loss of one sample, in the dtype T.

    ``double(T* logits, int64 outputs, int64 label, T* target_values, T* dlogits, T* class_weights,
    T* hyperparameters)`` writes ``dlogits`` [outputs] and returns the loss. A rule on labels reads no target values,
    a rule on target values no label, a rule without class weights no weights; those may be anything.
    """

    address: int
    cfunc: Any


# The loop is a function of its own, whose pointers do not overlap: LLVM then vectorizes it for any number of slots.
_UPDATE = """\
import numba
from numba import types
from minicnn.kernels.cpu.rules import OPTIONS, Disjoint, advance, as_tuple

T = types.{dtype}
P = types.CPointer(T)


@numba.njit(pipeline_class=Disjoint, **OPTIONS)
def loop(params, grads, {slots} scalars, begin, end):
    {load_scalars}
    for i in range(begin, end):
        p, {new_slots} = as_tuple(rule(params[i], grads[i], {slot_values} {scalars}))
        params[i] = p
        {store_slots}


@numba.cfunc(types.void(P, P, P, types.int64, P, types.int64, types.int64), cache=True, **OPTIONS)
def compiled(params, grads, slots, slot_stride, scalars, begin, end):
    loop(params, grads, {slot_pointers} scalars, begin, end)
"""

_TENSOR_UPDATE = """\
import numba
from numba import types
from minicnn.kernels.cpu.rules import OPTIONS

V = types.{dtype}[::1]
M = types.{dtype}[:, ::1]
I = types.int64


@numba.cfunc(types.void(V, V, M, V, M, I, I, I), cache=True, **OPTIONS)
def compiled(params, grads, slots, scalars, scratch, offset, rows, columns):
    shape, size, end = (rows, columns), rows * columns, offset + rows * columns
    p, g = params[offset:end].reshape(shape), grads[offset:end].reshape(shape)
    rule(p, g, {slots} {scalars} {scratch})
"""

_LOSS = """\
import numba
from numba import types
from minicnn.kernels.cpu.rules import OPTIONS

T = types.{dtype}
P = types.CPointer(T)


@numba.cfunc(types.float64(P, types.int64, types.int64, P, P, P, P), cache=True, **OPTIONS)
def compiled(logits, outputs, label, target_values, dlogits, class_weights, hyperparameters):
    target = {target}
    dlogits_row = numba.carray(dlogits, outputs)
    return rule(numba.carray(logits, outputs), target, dlogits_row, {class_weights} {hyperparameters})
"""


def compile_update(rule: OptimizerRule, dtype: Any) -> Update:
    """Compile ``rule.update`` for buffers of ``dtype`` (float32 or float64), or take it from the disk cache.

    Raises `PluginError` if the function cannot be compiled or does not take and return what the rule declares.
    """
    slots = range(len(rule.slots))
    count = _arguments(rule.name, rule.update) - 2 - len(slots)
    if count < 0:
        raise PluginError(f"optimizer {rule.name!r}: update must take (p, g, *{list(rule.slots)}, *scalars)")
    source = _UPDATE.format(
        dtype=np.dtype(dtype).name,
        slots=_each("s{}", slots),
        load_scalars="; ".join(f"c{k} = scalars[{k}]" for k in range(count)) or "pass",
        new_slots=_each("n{}", slots),
        slot_values=_each("s{}[i]", slots),
        scalars=_each("c{}", range(count)),
        store_slots="; ".join(f"s{k}[i] = n{k}" for k in slots) or "pass",
        slot_pointers=_each("advance(slots, {} * slot_stride)", slots),
    )
    compiled = _compile("optimizer", rule.name, rule.update, dtype, source)
    return Update(compiled.address, count, compiled)


def compile_tensor_update(rule: TensorRule, dtype: Any) -> Update:
    """The same for a rule that sees a whole tensor."""
    slots, scratch = range(len(rule.slots)), range(len(rule.scratch))
    count = _arguments(rule.name, rule.update) - 2 - len(slots) - len(scratch)
    if count < 0:
        wanted = f"(p, g, *{list(rule.slots)}, *scalars, *{list(rule.scratch)})"
        raise PluginError(f"optimizer {rule.name!r}: update must take {wanted}")
    source = _TENSOR_UPDATE.format(
        dtype=np.dtype(dtype).name,
        slots=_each("slots[{}, offset:end].reshape(shape)", slots),
        scalars=_each("scalars[{}]", range(count)),
        scratch=_each("scratch[{}, :size].reshape(shape)", scratch),
    )
    provide_product(dtype)
    compiled = _compile("optimizer", rule.name, rule.update, dtype, source)
    return Update(compiled.address, count, compiled)


def compile_loss(rule: LossRule, dtype: Any) -> LossRow:
    """Compile ``rule.row`` for buffers of ``dtype`` (float32 or float64), or take it from the disk cache.

    Raises `PluginError` if the function cannot be compiled or does not take what the rule declares.
    """
    if _arguments(rule.name, rule.row) != 3 + rule.class_weights + len(rule.hyperparameters):
        weights = ", class_weights" if rule.class_weights else ""
        hypers = "".join(f", {hyper.name}" for hyper in rule.hyperparameters)
        raise PluginError(f"loss {rule.name!r}: row must take (logits, target, dlogits{weights}{hypers})")
    source = _LOSS.format(
        dtype=np.dtype(dtype).name,
        target="label" if rule.target == "label" else "numba.carray(target_values, outputs)",
        class_weights="numba.carray(class_weights, outputs)," if rule.class_weights else "",
        hyperparameters=_each("hyperparameters[{}]", range(len(rule.hyperparameters))),
    )
    compiled = _compile("loss", rule.name, rule.row, dtype, source)
    return LossRow(compiled.address, compiled)


def _each(pattern: str, numbers: range) -> str:
    return "".join(pattern.format(k) + ", " for k in numbers)


def _arguments(name: str, function: Callable[..., object]) -> int:
    """How many arguments a rule's function takes."""
    if not isinstance(function, FunctionType):
        raise PluginError(f"rule {name!r}: {function!r} must be an undecorated Python function")
    code = function.__code__
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) or code.co_kwonlyargcount:
        raise PluginError(f"rule {name!r}: {function.__name__} must name each of its arguments, without * or **")
    return code.co_argcount


class Disjoint(Compiler):
    """Numba's compiler, told that no two pointer arguments of the function overlap."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()


@intrinsic
def advance(typing_context, pointer, count):
    """Return the pointer ``count`` elements further on."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.int64), generate


def as_tuple(value: object) -> object:
    """Return a tuple as it is, and anything else as a tuple of one."""
    return value if isinstance(value, tuple) else (value,)


@overload(as_tuple, inline="always")
def _as_tuple(value):
    if isinstance(value, types.BaseTuple):
        return lambda value: value
    return lambda value: (value,)


def _compile(kind: str, name: str, function: Callable[..., Any], dtype: Any, source: str) -> Any:
    """Return the cfunc ``compiled`` of the module ``source``, in which ``rule`` is the compiled ``function``."""
    retyping = _Retyping(f"{kind} {name!r}", np.dtype(dtype).type)
    rule = retyping.function(function)
    kernels = LAYER.names[-1]  # holds a digest of the source of all kernels
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, version("minicnn-numba"), kernels)
    retyping.digest.update(repr(versions).encode() + source.encode())
    slug = re.sub(r"\W", "_", name)
    module_name = f"minicnn_{kind}_{slug}_{np.dtype(dtype).name}_{retyping.digest.hexdigest()[:32]}"
    if module_name in sys.modules:
        return sys.modules[module_name].compiled
    for copy in retyping.copies:
        # Numba names machine code after the module and a counter: without a module of their own, two rules, one of them
        # loaded from the disk, could have the same name.
        copy.__module__ = module_name
    try:
        try:
            module = _imported(_cache_folder(), module_name, source, rule)
        except OSError:  # the folder cannot be written, or the disk is full
            module = _imported(_temporary_folder(), module_name, source, rule)
    except Exception as error:
        raise PluginError(f"{kind} {name!r} cannot be compiled: {_reason(error)}") from error
    return module.compiled


class _Retyping:
    """Copies of a rule's function and of those that it calls, with their float constants made of the buffers' dtype.

    A literal 0.5 is a float64, and so would be all that it touches. ``digest`` takes in what the copies depend on:
    their code, the constants that they read, and the whole files that they come from.
    """

    def __init__(self, owner: str, scalar: type):
        self.owner = owner
        self.scalar = scalar
        self.digest = hashlib.sha256()
        self.copies: list[FunctionType] = []

    def function(self, function: Any, callers: tuple[FunctionType, ...] = ()) -> FunctionType:
        """Return the copy of a function; the functions that it reads from its module become njit functions."""
        if function in callers:
            raise PluginError(f"{self.owner}: {function.__name__} must not call itself")
        code = function.__code__
        file = Path(code.co_filename)
        if file.is_file():
            self.digest.update(file.read_bytes())
        callers = (*callers, function)
        names = {found.argval for found in dis.get_instructions(code) if found.opname == "LOAD_GLOBAL"}
        scope = {
            name: self.value(function.__globals__[name], callers)
            for name in sorted(names)
            if name in function.__globals__
        }
        cells = tuple(CellType(self.value(cell.cell_contents, callers)) for cell in function.__closure__ or ())
        copy = FunctionType(self.code(code), scope, function.__name__, function.__defaults__, cells)
        self.copies.append(copy)
        return copy

    def code(self, code: CodeType) -> CodeType:
        self.digest.update(repr((code.co_code, code.co_names, code.co_varnames, code.co_argcount)).encode())
        return code.replace(co_consts=tuple(self.value(value, ()) for value in code.co_consts))

    def value(self, value: Any, callers: tuple[FunctionType, ...]) -> Any:
        """Return a constant or a global in the buffers' dtype; what is no number, tuple or function stays as it is."""
        if isinstance(value, CodeType):
            return self.code(value)
        if isinstance(value, FunctionType) and value.__module__ == operations.__name__:
            return value  # compiled code has its own in its place: tensor.py
        if isinstance(value, FunctionType):
            return numba.njit(self.function(value, callers), forceinline=True, **OPTIONS)
        if isinstance(value, (float, int, str)):
            self.digest.update(repr(value).encode())
            return self.scalar(value) if isinstance(value, float) else value
        if type(value) is tuple:
            return tuple(self.value(item, callers) for item in value)
        return value


def _imported(folder: Path, module_name: str, source: str, rule: FunctionType) -> Any:
    """Write ``source`` into ``folder`` and import it under ``module_name`` with ``rule`` as a global of it."""
    spec = importlib.util.spec_from_file_location(module_name, _written(folder / f"{module_name}.py", source))
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    module.rule = numba.njit(rule, forceinline=True, **OPTIONS)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _written(path: Path, source: str) -> Path:
    """Write a file that other processes may be writing or reading at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(source)
    # Numba takes machine code for stale when the time of its file has changed, so every writer sets the same.
    os.utime(temporary, (0, 0))
    os.replace(temporary, path)
    return path


def _cache_folder() -> Path:
    if folder := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(folder) / "minicnn-rules"
    if folder := os.environ.get("MINICNN_CACHE"):
        return Path(folder) / "rules"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "minicnn" / "rules"


@functools.cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="minicnn-rules-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _reason(error: Exception) -> str:
    """The line of Numba's message that says what is wrong."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    telling = [line.strip() for line in lines if line.strip() and not line.startswith("Failed in nopython mode")]
    return telling[0] if telling else type(error).__name__
