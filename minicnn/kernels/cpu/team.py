"""Compiled functions with ``prange`` loops, on as many threads as asked for.

The same function is compiled twice: over Numba's threads, and for the calling thread alone. The
second serves one thread, and a process that was forked from one with threads, which OpenMP ends.
"""

import functools
import os
import threading

import numba
from numba.core.compiler_lock import global_compiler_lock

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.tile import JIT

# Numba's `workqueue` layer, the one left where there is no OpenMP, aborts when two Python threads
# enter it at once.
_lock = threading.Lock()
_threads_are_lost = False


def over_threads(function):
    """Decorator: ``function(threads, *arguments)`` calls it over ``threads`` threads, and leaves
    Numba's own number as it was."""
    parallel = cached(numba.njit(parallel=True, **JIT)(function))
    alone = cached(numba.njit(**JIT)(function), "alone")

    @functools.wraps(function)
    def call(threads, *arguments):
        if threads == 1 or _threads_are_lost:
            return alone(*arguments)
        with _lock:
            before = numba.get_num_threads()
            numba.set_num_threads(threads)
            try:
                return parallel(*arguments)
            finally:
                numba.set_num_threads(before)

    call.dispatchers = parallel, alone
    return call


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
