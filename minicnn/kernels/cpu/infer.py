"""Inference over the threads: the logits of the images of a batch."""

import functools

import numpy as np
from numba import from_dtype, njit, types

from minicnn.kernels.cpu.call import TABLE, call, compiled
from minicnn.kernels.cpu.passes import PLAN, forward_chunk
from minicnn.kernels.cpu.team import address_of, over_threads, spread
from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def _infer_part(job, index):
    """The logits of the samples of part ``index``, chunk by chunk."""
    plan, params, works, gather, images, order, scale, views, logits = job[0]
    first, last, work, total = plan[0], plan[len(plan) - 1], works[index], len(order)
    begin, end = index * total // len(works), (index + 1) * total // len(works)
    for start in range(begin, end, first.chunk):
        n = min(first.chunk, end - start)
        call(gather, (plan, work, images, order, start, n, scale, views))
        forward_chunk(plan, params, work, n, np.uint64(0), start)
        for i in range(n):
            for k in range(last.output_size):
                logits[start + i, k] = work[last.y + i * last.output_size + k]


def _infer_types(plan, dtype):
    number, integer = from_dtype(np.dtype(dtype)), types.int64
    table = number[:, ::1]
    data = integer, types.uint8[:, ::1], integer[::1], table, types.float32[:, ::1]
    return plan, number[::1], table, *data, table


@functools.cache
def infer_address(dtype) -> int:
    """Address of a thread's part of inference, compiled for parameters of ``dtype``."""
    job = types.Tuple(_infer_types(TABLE, dtype))
    return compiled(_infer_part, types.CPointer(job), types.int64).address


@over_threads
def infer(team, part_at, plan, params, work, *data):
    """logits[i] of images[order[i]], chunk by chunk over the threads; ``work`` is [threads,
    work_size].

    ``part_at`` is the `infer_address`, ``data`` (gather, images, order, scale, views, logits), with
    the address of a compiled function and `opaque` images.
    """
    spread(team, part_at, address_of((plan, params, work, *data)), np.int64(0), len(work))


def compile_infer(dtype) -> None:
    """Compile `infer`, or load it from the cache."""
    plan, params, work, *data = _infer_types(PLAN, dtype)
    given = types.int64[::1], types.int64, plan, params, work
    infer.dispatcher.compile((*given, types.Tuple(data)))
