"""Inference of one image: the tasks of its `minicnn.program.pieces.Pieces`, stage by stage.

What is the same for all images is packed once: Numba takes 0.1 µs for each array that it is handed,
and 0.5 for a tuple.
"""

import functools

import numpy as np
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import TABLE, call, compiled
from minicnn.kernels.cpu.passes import forward_chunk
from minicnn.kernels.cpu.team import spread
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.kernels.cpu.vector import copy

_WORDS = 96  # room for a job


def _job_type(numbers):
    """A pointer to a job: pieces, tasks, plan, the `task_address`, the gather's, scale, order, views,
    params, work."""
    of_tasks = TABLE, types.int64[:, ::1], TABLE, types.int64
    of_gather = types.int64, numbers.dtype[:, ::1], types.int64[::1], types.float32[:, ::1]
    return types.CPointer(types.Tuple((*of_tasks, *of_gather, numbers, numbers)))


@intrinsic
def _write(typing_context, memory, job):
    """Write a job into ``memory``. It borrows its arrays, and keeps none of them alive."""

    def generate(context, builder, signature, values):
        memory, job = values
        for i, kind in enumerate(signature.args[1].types):
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder, builder.extract_value(job, i))
                array.meminfo = cgutils.get_null_value(array.meminfo.type)
                array.parent = cgutils.get_null_value(array.parent.type)
                job = builder.insert_value(job, array._getvalue(), i)
        place = context.make_array(signature.args[0])(context, builder, memory).data
        assert context.get_abi_sizeof(job.type) <= 8 * _WORDS
        builder.store(job, builder.bitcast(place, job.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(memory, job), generate


@intrinsic
def _job(typing_context, memory, out):
    """The job in ``memory``, with parameters of the dtype of ``out``."""

    def generate(context, builder, signature, values):
        place = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.bitcast(place, context.get_value_type(signature.return_type))

    return _job_type(out.dtype[::1])(memory, out), generate


@njit(**JIT)
def _task(job, index):
    """Compute what is in task ``index`` of a job."""
    pieces, tasks, _, _, _, _, _, _, params, work = job[0]
    begin, end, _ = tasks[index]
    forward_chunk(pieces[begin:end], params, work, 1, np.uint64(0), 0)


@functools.cache
def task_address(dtype) -> int:
    """Address of what computes a task of one image, compiled for parameters of ``dtype``."""
    return compiled(_task, _job_type(from_dtype(np.dtype(dtype))[::1]), types.int64).address


@cached
@njit(**ENTRY)
def pack(*job):
    """What is in ``job`` (`_job_type`), for `infer_one`; the arrays must live on."""
    memory = np.empty(_WORDS, np.int64)
    _write(memory, job)
    return memory


@cached
@njit(**ENTRY)
def infer_one(team, memory, image, out):
    """out[0] = logits of the opaque ``image`` [1, numbers], by the tasks of the job that `pack` put
    into ``memory``, or where the ``team`` is empty by its whole plan."""
    _, tasks, plan, task_at, gather, scale, order, views, params, work = _job(memory, out)[0]
    call(gather, (plan, work, image, order, 0, 1, scale, views))
    if len(team) == 0:
        forward_chunk(plan, params, work, 1, np.uint64(0), 0)
    else:
        begin = np.int64(0)
        while begin < len(tasks):
            end = tasks[begin, 2]
            spread(team, task_at, memory.ctypes.data, begin, end)
            begin = end
    last = plan[len(plan) - 1]
    copy(work, last.y, out.reshape(-1), np.int64(0), last.output_size)
