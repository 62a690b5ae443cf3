"""Modules generated for rules, on every device: a rule's function in the buffers' dtype, under a
name that changes with all that its machine code depends on.

For each rule, device and dtype a small module is written into the cache folder and imported, and
Numba keeps the machine code beside it, so that the next process compiles nothing. (Numba's disk
cache needs a file, and it sees only edits in that file.) The file's name holds a digest of the
rule's source, of the versions and of the device's kernels.
"""

import atexit
import dis
import functools
import hashlib
import importlib.util
import inspect
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from minicnn.errors import PluginError
from minicnn.rules import ActivationRule


def each(pattern: str, numbers: range) -> str:
    """``pattern`` with every number in its turn, each followed by a comma."""
    return "".join(pattern.format(k) + ", " for k in numbers)


def arguments(name: str, function: Callable[..., object]) -> int:
    """How many arguments a rule's function takes; raises `PluginError` if it is no plain
    function."""
    if not isinstance(function, FunctionType):
        raise PluginError(f"rule {name!r}: {function!r} must be an undecorated Python function")
    code = function.__code__
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) or code.co_kwonlyargcount:
        raise PluginError(
            f"rule {name!r}: {function.__name__} must name each of its arguments, without * or **"
        )
    return code.co_argcount


def check_activation(rule: ActivationRule, function: Callable[..., object]) -> None:
    """Raise `PluginError` if ``function``, the rule's value or derivative, does not take what the
    rule declares."""
    declared = ", ".join(["x", *(hyper.name for hyper in rule.hyperparameters)])
    if len(rule.hyperparameters) > 2 or arguments(rule.name, function) != 1 + len(
        rule.hyperparameters
    ):
        raise PluginError(
            f"layer {rule.name!r}: {function.__name__} must take ({declared}), two hyperparameters at most"
        )


def compile_rule(
    kind: str,
    name: str,
    function: Callable[..., Any],
    dtype: Any,
    source: str,
    kernels: str,
    jit: Callable[..., Any],
    mathematics: Mapping[str, FunctionType],
) -> Any:
    """Return what is called ``compiled`` in the module ``source``, in which ``rule`` is the
    function, for ``dtype``.

    ``kernels`` is the digest of the device's kernels. ``jit`` compiles the function and those that
    it calls for the device, and ``mathematics`` are what the device has in place of functions of
    the module math. Raises `PluginError` if compiling fails.
    """
    retyping = _Retyping(f"{kind} {name!r}", np.dtype(dtype).type, jit, mathematics)
    rule = retyping.function(function)
    versions = (
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.version,
        version("minicnn-numba"),
        kernels,
    )
    retyping.digest.update(repr(versions).encode() + source.encode())
    slug = re.sub(r"\W", "_", name)
    module_name = f"minicnn_{kind}_{slug}_{np.dtype(dtype).name}_{retyping.digest.hexdigest()[:32]}"
    for copy in retyping.copies:
        # Numba names machine code after the module and a counter: without a module of their own,
        # two rules, one of them loaded from the disk, could have the same name.
        copy.__module__ = module_name
    try:
        return imported(module_name, source, lambda: {"rule": jit(rule)}).compiled
    except Exception as error:
        raise PluginError(f"{kind} {name!r} cannot be compiled: {reason(error)}") from error


def imported(name: str, source: str, scope: Callable[[], Mapping[str, Any]]) -> Any:
    """The module ``name``, made once a process: ``source`` is written to the cache folder, where
    compiled code is kept beside it, and imported with the globals ``scope()``."""
    with global_compiler_lock:  # another thread may be about to make it
        if name in sys.modules:
            return sys.modules[name]
        try:
            return _imported(_cache_folder(), name, source, scope())
        except OSError:  # the folder cannot be written, or the disk is full
            return _imported(_temporary_folder(), name, source, scope())


class _Retyping:
    """Copies of a rule's function and of those that it calls, with their float constants made of
    the buffers' dtype.

    A literal 0.5 is a float64, and so would be all that it touches. ``digest`` takes in what the
    copies depend on: their code, the constants that they read, and the whole files that they come
    from.
    """

    def __init__(
        self,
        owner: str,
        scalar: type,
        jit: Callable[..., Any],
        mathematics: Mapping[str, FunctionType],
    ):
        self.owner, self.scalar, self.jit, self.mathematics = owner, scalar, jit, mathematics
        self.digest = hashlib.sha256()
        self.copies: list[FunctionType] = []

    @functools.cached_property
    def math(self) -> ModuleType:
        """The module math, with the device's own functions in it."""
        module = ModuleType("math")
        vars(module).update(vars(math))
        for name, function in self.mathematics.items():
            setattr(module, name, self.jit(self.function(function)))
        return module

    def function(self, function: Any, callers: tuple[FunctionType, ...] = ()) -> FunctionType:
        """Return the copy of a function; the functions that it reads from its module become
        compiled ones."""
        if function in callers:
            raise PluginError(f"{self.owner}: {function.__name__} must not call itself")
        code = function.__code__
        file = Path(code.co_filename)
        if file.is_file():
            self.digest.update(file.read_bytes())
        callers = (*callers, function)
        names = {
            found.argval for found in dis.get_instructions(code) if found.opname == "LOAD_GLOBAL"
        }
        scope = {
            name: self.value(function.__globals__[name], callers)
            for name in sorted(names)
            if name in function.__globals__
        }
        cells = tuple(
            CellType(self.value(cell.cell_contents, callers)) for cell in function.__closure__ or ()
        )
        copy = FunctionType(self.code(code), scope, function.__name__, function.__defaults__, cells)
        self.copies.append(copy)
        return copy

    def code(self, code: CodeType) -> CodeType:
        self.digest.update(
            repr((code.co_code, code.co_names, code.co_varnames, code.co_argcount)).encode()
        )
        return code.replace(co_consts=tuple(self.value(value, ()) for value in code.co_consts))

    def value(self, value: Any, callers: tuple[FunctionType, ...]) -> Any:
        """Return a constant or a global in the buffers' dtype; anything but a number, tuple or
        function stays as it is."""
        if isinstance(value, CodeType):
            return self.code(value)
        if isinstance(value, FunctionType):
            return self.jit(self.function(value, callers))
        if value is math:
            return self.math
        if isinstance(value, BuiltinFunctionType) and value.__module__ == "math":
            return getattr(self.math, value.__name__)
        if isinstance(value, (float, int, str)):
            self.digest.update(repr(value).encode())
            return self.scalar(value) if isinstance(value, float) else value
        if type(value) is tuple:
            return tuple(self.value(item, callers) for item in value)
        return value


def _imported(folder: Path, module_name: str, source: str, scope: Mapping[str, Any]) -> Any:
    """Write ``source`` into ``folder`` and import it under ``module_name`` with the globals
    ``scope``."""
    spec = importlib.util.spec_from_file_location(
        module_name, _written(folder / f"{module_name}.py", source)
    )
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    vars(module).update(scope)
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
    # Numba takes machine code for stale when the time of its file has changed, so every writer sets
    # the same.
    os.utime(temporary, (0, 0))
    os.replace(temporary, path)
    return path


def _cache_folder() -> Path:
    if folder := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(folder) / "minicnn-rules"
    if folder := os.environ.get("MINICNN_CACHE"):
        return Path(folder) / "rules"
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
        / "minicnn"
        / "rules"
    )


@functools.cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="minicnn-rules-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def reason(error: Exception) -> str:
    """The line of Numba's message that says what is wrong."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    telling = [
        line.strip()
        for line in lines
        if line.strip() and not line.startswith("Failed in nopython mode")
    ]
    return telling[0] if telling else type(error).__name__
