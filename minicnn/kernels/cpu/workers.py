"""Threads that compute one image together: they take the tasks of its `minicnn.program.pieces.Pieces`.

Whoever wants a task takes the next one that may begin, so that nothing waits for a thread that does
not run: where the other one has no core, the calling thread takes all tasks. A worker looks for
tasks for some 100 µs after the last one, and then sleeps.

Their state is an array of int64. Tasks are counted on and on, from image to image: those that are
`_OVER`, the `_LIMIT` below which they may be taken, by others than the caller the limit `_SHARED`,
and in `_TAKEN` the next one times 2¹⁶ plus how many were taken from the end. The job, its first
task and what computes a task are read after a task was taken, and cannot change before it is over.
"""

import ctypes
import functools
import os
import threading

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import TABLE, call, compiled
from minicnn.kernels.cpu.passes import forward_chunk
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.kernels.cpu.vector import copy
from minicnn.memory import aligned_zeros

# Each in a cache line of its own, but what is written together.
_TAKEN, _OVER, _LIMIT, _SHARED = map(np.int64, (0, 16, 32, 33))
_JOB, _FIRST, _TASK, _YIELD = map(np.int64, range(48, 52))
_ASLEEP = 64  # and 16 more for each thread but the caller's
_PAUSES = 300  # before another thread may have the core
_SPINS = 4000  # for a task, before a thread sleeps


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
    """array[index] + 1, which array[index] becomes in one step."""

    def generate(context, builder, signature, values):
        place, one = (
            _place(context, builder, signature.args[0], *values),
            ir.Constant(values[1].type, 1),
        )
        return builder.add(builder.atomic_rmw("add", place, one, "seq_cst"), one)

    return types.int64(array, types.int64), generate


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
def _address_of(typing_context, job):
    """The address of a tuple of this function, as long as it runs."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, values[0]), ir.IntType(64))

    return types.int64(job), generate


@njit(**JIT)
def _take(workers, limit, is_caller):
    """Take a task below ``limit``, if there is one: whether it was. The caller takes the first of
    the stage and the others the last, so that what a thread reads is what it wrote before."""
    taken = _load(workers, _TAKEN)
    task, last = taken >> 16, taken & 0xFFFF
    end = _load(workers, limit)
    if task + last >= end or not _exchange(
        workers, _TAKEN, taken, taken + (1 << 16 if is_caller else 1)
    ):
        return False
    call(
        workers[_TASK],
        (workers[_JOB], workers, (task if is_caller else end - 1 - last) - workers[_FIRST]),
    )
    return True


@njit(**JIT)
def _open(workers, tasks, task):
    """Let the tasks of the stage be taken that begins with ``task``; the others leave one alone to
    the caller."""
    begin, end = workers[_FIRST] + task, workers[_FIRST] + tasks[task, 2]
    _store(workers, _TAKEN, begin << 16)
    _store(workers, _LIMIT, end)
    if end > begin + 1:
        _store(workers, _SHARED, end)


@njit(**JIT)
def _task(job, workers, task):
    """Compute what is in a task; the last that is over opens the next stage."""
    pieces, tasks, _, params, work = job[0]
    begin, end, stage = tasks[task]
    forward_chunk(pieces[begin:end], params, work, 1, np.uint64(0), 0)
    is_last = stage == len(tasks)  # of an image, which may be gone when it is over
    if _add_one(workers, _OVER) == workers[_FIRST] + stage and not is_last:
        _open(workers, tasks, stage)


@njit(**JIT)
def _wait(workers, spins):
    """A moment, longer for the others the more often it was already."""
    _pause()
    if spins > _PAUSES and workers[_YIELD] != 0:
        call(workers[_YIELD], ())


@cached
@njit(**ENTRY)
def _serve(workers, asleep):
    """Take tasks until there was none for a while, which is noted at ``asleep``."""
    spins = 0
    while spins < _SPINS:
        spins += 1
        if _take(workers, _SHARED, False):
            spins = 0
        else:
            _wait(workers, spins)
    _store(workers, asleep, 1)


@njit(**JIT)
def _share(workers, task_at, tasks, job):
    """Take tasks with the others until all are over."""
    first, spins = workers[_OVER], 0
    workers[_JOB], workers[_FIRST], workers[_TASK] = job, first, task_at
    _open(workers, tasks, 0)
    while _load(workers, _OVER) < first + len(tasks):
        spins += 1
        if _take(workers, _LIMIT, True):
            spins = 0
        else:
            _wait(workers, spins)


@cached
@njit(**ENTRY)
def infer_one(workers, task_at, gather, data, out, *job):
    """out[0] = logits of one image, by the tasks of ``job`` (pieces, tasks, plan, params, work);
    with an empty ``workers`` as the whole ``plan``, by this thread alone.

    ``task_at`` is the `task_address`, ``gather`` the address of a compiled function and ``data``
    (opaque images, order, scale, views) what it reads.
    """
    _, tasks, plan, params, work = job
    images, order, scale, views = data
    call(gather, (plan, work, images, order, 0, 1, scale, views))
    if len(workers) == 0:
        forward_chunk(plan, params, work, 1, np.uint64(0), 0)
    else:
        _share(workers, task_at, tasks, _address_of(job))
    last = plan[len(plan) - 1]
    copy(work, last.y, out.reshape(-1), np.int64(0), last.output_size)


@functools.cache
def task_address(dtype) -> int:
    """Address of what computes a task, compiled for parameters of ``dtype``."""
    numbers = from_dtype(np.dtype(dtype))[::1]
    job = types.Tuple((TABLE, types.int64[:, ::1], TABLE, numbers, numbers))
    return compiled(_task, types.CPointer(job), types.int64[::1], types.int64).address


class Workers:
    """The calling thread and ``threads`` − 1 others, for one caller at a time, who has ``lock``."""

    def __init__(self, threads: int):
        self.lock = threading.Lock()
        self._state = aligned_zeros(_ASLEEP + 16 * threads, np.int64)
        self._state[_YIELD] = _yield_address()
        self._asleep = []
        for index in range(1, threads):
            asleep, bell = int(_ASLEEP + 16 * index), threading.Lock()
            bell.acquire()
            self._state[asleep] = 1
            self._asleep.append((asleep, bell))
            name = f"minicnn {index}"
            threading.Thread(target=self._run, args=(asleep, bell), name=name, daemon=True).start()

    def _run(self, asleep: int, bell: threading.Lock) -> None:
        while bell.acquire():
            _serve(self._state, asleep)

    def call(self) -> np.ndarray:
        """Wake who sleeps; the state that `infer_one` wants."""
        for asleep, bell in self._asleep:
            if self._state[asleep]:
                self._state[asleep] = 0
                bell.release()
        return self._state


def _yield_address() -> int:
    """Address of the system's function that lets another thread have the core; 0 if it is not
    found."""
    try:
        library = ctypes.CDLL(None) if os.name == "posix" else ctypes.windll.kernel32
        function = library.sched_yield if os.name == "posix" else library.SwitchToThread
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


of = functools.cache(Workers)
if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=of.cache_clear)
