"""Runs compiled functions on Numba's threads, or on the calling thread alone, as in a process that
was forked from one with threads, which OpenMP would end.
"""

import functools
import os
import threading

import numba
from numba import types
from numba.core.compiler_lock import global_compiler_lock

from minicnn.errors import MinicnnError
from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import call
from minicnn.kernels.cpu.tile import ENTRY

# Numba's `workqueue` layer, the one left where there is no OpenMP, aborts when two Python threads
# enter it at once.
_lock = threading.Lock()
_threads_are_lost = False


@cached
@numba.njit(parallel=True, **ENTRY)
def _team(body, data, count):
    """``body(data, i)`` for each i below ``count``, by Numba's threads. Compiled once for all that
    is spread over threads: a `prange` of its own takes a second each."""
    for index in numba.prange(count):
        call(body, (data, index))


def launch() -> None:
    """Start Numba's threads, if they do not run; raises `MinicnnError`, which names the variable,
    where they cannot."""
    try:
        numba.get_num_threads()
    except ValueError as error:
        name = f"THREADING_LAYER{'_PRIORITY' * ('PRIORITY' in str(error))}"
        raise MinicnnError(
            f"NUMBA_{name} is {getattr(numba.config, name)!r}, which Numba cannot have here "
            f"({' '.join(str(error).split())}): unset it, and the best that is installed is taken"
        ) from None


@functools.cache
def address() -> int:
    """Address of the compiled `_team`; raises what `launch` does."""
    launch()  # which what is loaded from the cache would do, and the cache would be blamed
    signature = (types.int64,) * 3
    _team.compile(signature)
    result = _team.overloads[signature]
    pointer: int = result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)
    return pointer


def over_threads(function):
    """Decorator: ``function(threads, *arguments)`` calls it with the `address` of ``threads``
    threads, 0 for the calling one alone, and leaves Numba's own number as it was."""
    compiled = cached(numba.njit(**ENTRY)(function))

    @functools.wraps(function)
    def run(threads, *arguments):
        if threads == 1 or _threads_are_lost:
            return compiled(0, *arguments)
        team = address()
        with _lock:
            before = numba.get_num_threads()
            numba.set_num_threads(threads)
            try:
                return compiled(team, *arguments)
            finally:
                numba.set_num_threads(before)

    run.dispatcher = compiled
    return run


def _before_fork():
    """Wait until no other thread computes or compiles: its locks would be held in the child."""
    _lock.acquire()
    global_compiler_lock.__enter__()


def _after_fork():
    global_compiler_lock.__exit__(None, None, None)
    _lock.release()


def _in_child():
    global _threads_are_lost
    _after_fork()
    try:
        numba.threading_layer()
    except ValueError:  # there were no threads yet
        return
    _threads_are_lost = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
