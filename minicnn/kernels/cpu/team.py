"""Threads that compute together what `spread` gives them: tasks of one call, one for each.

Whoever has computed a task takes what another has not begun, so that nothing waits for a thread
that does not run: where the others have no core, the calling thread takes all tasks. A thread looks
for tasks for some 100 µs after the end of a call, and then sleeps.

Their state is an array of int64: in `_OPEN` the number of the stage, times 2¹⁶, plus how many tasks
it has; in `_OVER` how many tasks are over since the beginning; what a task is, which cannot change
before all of its stage are over, so that who has taken one may read it; and for the task of each
number in which stage it was taken last.
"""

import ctypes
import functools
import os
import threading

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import call
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.memory import aligned_zeros

# What the caller writes for a stage lies in one cache line, which then goes to each core once.
_OPEN, _BODY, _DATA, _BEGIN, _BUSY = map(np.int64, range(5))  # busy: whether a call goes on
_OVER, _YIELD = map(np.int64, (16, 32))  # a line each; the address of sched_yield
# A line of each thread: when its task was taken last, and whether it sleeps.
_LINES, _LINE, _ASLEEP = map(np.int64, (48, 16, 1))
_PAUSES = 300  # before another thread may have the core
_SPINS = 4000  # for a task, before a thread sleeps
ALONE = np.empty(0, np.int64)  # the state of the calling thread by itself


def _place(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def _load(typing_context, array, index):
    """array[index], which another thread may write."""

    def generate(context, builder, signature, values):
        place = _place(context, builder, signature.args[0], *values)
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def _store(typing_context, array, index, value):
    """array[index] = value, and what was written before is there for who reads it."""

    def generate(context, builder, signature, values):
        place = _place(context, builder, signature.args[0], *values[:2])
        builder.store_atomic(values[2], place, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def _add_one(typing_context, array, index):
    """array[index] += 1 in one step."""

    def generate(context, builder, signature, values):
        place = _place(context, builder, signature.args[0], *values)
        builder.atomic_rmw("add", place, ir.Constant(values[1].type, 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def _exchange(typing_context, array, index, old, new):
    """Whether array[index] was ``old``, and became ``new`` in one step."""

    def generate(context, builder, signature, values):
        place = _place(context, builder, signature.args[0], *values[:2])
        result = builder.cmpxchg(place, values[2], values[3], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(array, types.int64, types.int64, types.int64), generate


@intrinsic
def _pause(typing_context):
    """Tell the core that this thread waits in a loop."""

    def generate(context, builder, signature, values):
        family = builder.module.triple.split("-")[0]
        name, hint = {
            "x86_64": ("llvm.x86.sse2.pause", []),
            "aarch64": ("llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]),
        }.get(family, ("", []))
        if name:
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in hint])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), hint)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def address_of(typing_context, job):
    """The address of a tuple of this function, as long as it runs."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, values[0]), ir.IntType(64))

    return types.int64(job), generate


@njit(**JIT)
def _take(team, own, stage):
    """Compute a task that nobody has taken, the ``own`` one first; whether there was one."""
    count = stage & 0xFFFF
    for k in range(count):
        task = (own + k) % count
        line = _LINES + _LINE * task
        taken = _load(team, line)
        if taken < stage and _exchange(team, line, taken, stage):
            call(team[_BODY], (team[_DATA], team[_BEGIN] + task))
            _add_one(team, _OVER)
            return True
    return False


@cached
@njit(**ENTRY)
def _serve(team, own):
    """Take tasks until there was none for a while."""
    spins, done = 0, np.int64(0)
    while spins < _SPINS or _load(team, _BUSY) != 0:
        stage = _load(team, _OPEN)
        if stage == done:
            spins += 1
            _pause()
            if spins > _PAUSES:
                call(team[_YIELD], ())
        elif _take(team, own, stage):
            spins = 0
        else:
            done = stage
    _store(team, _LINES + _LINE * own + _ASLEEP, 1)


@njit(**JIT)
def spread(team, body, data, begin, end):
    """Call the function at ``body`` with ``data``, the `address_of` a tuple, and with each number
    from ``begin`` to ``end``: on the threads of the ``team``, or on this one where that is empty."""
    count, spins = end - begin, 0
    if count < 2 or len(team) < _LINES + _LINE * count:
        for index in range(begin, end):
            call(body, (data, index))
        return
    team[_BODY], team[_DATA], team[_BEGIN] = body, data, begin
    stage, over = (team[_OPEN] >> 16) + 1 << 16 | count, team[_OVER] + count
    _store(team, _OPEN, stage)
    while _load(team, _OVER) < over and _take(team, np.int64(0), stage):
        pass
    while _load(team, _OVER) < over:
        spins += 1
        _pause()
        if spins > _PAUSES:
            call(team[_YIELD], ())


class Team:
    """The calling thread and ``threads`` − 1 others, for one caller at a time, who has ``lock``."""

    def __init__(self, threads: int):
        self.lock = threading.Lock()
        self.state = aligned_zeros(int(_LINES + _LINE * threads), np.int64)
        self.state[_YIELD] = ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value
        self._asleep = []
        for own in range(1, threads):
            asleep, bell = int(_LINES + _LINE * own + _ASLEEP), threading.Lock()
            bell.acquire()
            self.state[asleep] = 1
            self._asleep.append((asleep, bell))
            name = f"minicnn {own}"
            threading.Thread(target=self._run, args=(own, bell), name=name, daemon=True).start()

    def _run(self, own: int, bell: threading.Lock) -> None:
        while bell.acquire():
            _serve(self.state, own)

    def wake(self) -> None:
        """Wake the threads that sleep."""
        for asleep, bell in self._asleep:
            if self.state[asleep]:
                self.state[asleep] = 0
                bell.release()

    def call(self, function, *arguments):
        """``function(state, *arguments)``, with the state that `spread` wants; no thread sleeps
        before its end."""
        self.state[_BUSY] = 1
        try:
            self.wake()
            return function(self.state, *arguments)
        finally:
            self.state[_BUSY] = 0


of = functools.cache(Team)


def over_threads(function):
    """Decorator: ``function(threads, *arguments)`` calls the compiled function with a team of so
    many ``threads``, or with that of the calling one alone."""
    compiled = cached(numba.njit(**ENTRY)(function))

    @functools.wraps(function)
    def run(threads, *arguments):
        if threads == 1:
            return compiled(ALONE, *arguments)
        team = of(threads)
        with team.lock:
            return team.call(compiled, *arguments)

    run.dispatcher = compiled
    return run


def _in_child() -> None:
    """A forked process has none of the threads."""
    of.cache_clear()
    global_compiler_lock.__exit__(None, None, None)


os.register_at_fork(  # a lock that another thread holds would be held for ever
    before=global_compiler_lock.__enter__,
    after_in_parent=lambda: global_compiler_lock.__exit__(None, None, None),
    after_in_child=_in_child,
)
