"""Time by operation: functions that stand in the records of a plan in the place of its kernels, call
these, and count what the processor's clock says meanwhile.

A plan without them is executed as before, so profiling costs nothing when it is off.
"""

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import call, compiled
from minicnn.kernels.cpu.passes import argument_types
from minicnn.kernels.cpu.rules import numbers_at
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.program.plan import RECORD
from minicnn.program.planner import Plan

_CLOCK = "cycle" if platform.machine().lower() in ("x86_64", "amd64") else "steady"


@intrinsic
def _ticks(typing_context):
    """The processor's clock, which runs at one rate whatever the processor does."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [])
        name = f"llvm.read{_CLOCK}counter"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])

    return types.int64(), generate


@cached
@njit(**ENTRY)
def ticks():
    """The clock that `timed` counts by."""
    return _ticks()


@njit(**JIT)
def _row(plan):
    """What is known of an operation: the addresses of `TIMED`, and the ticks spent in each."""
    return numbers_at(plan[0].digest.view(np.int64)[0])


@njit(**JIT)
def _forward(plan, params, work, n, key, first_sample):
    row, begin = _row(plan), _ticks()
    call(np.int64(row[0]), (plan, params, work, n, key, first_sample))
    row[3] += _ticks() - begin


@njit(**JIT)
def _backward(plan, params, transposed, work, grads, n, key, first_sample):
    row, begin = _row(plan), _ticks()
    given = plan, params, transposed, work, grads, n, key, first_sample
    call(np.int64(row[1]), given)
    row[4] += _ticks() - begin


@njit(**JIT)
def _transpose(plan, params, transposed):
    row, begin = _row(plan), _ticks()
    call(np.int64(row[2]), (plan, params, transposed))
    row[5] += _ticks() - begin


TIMED = {"forward": _forward, "backward": _backward, "transpose": _transpose}


def timed(plan: Plan, dtype: Any) -> tuple[Plan, np.ndarray]:
    """``plan`` with functions that count, and the ticks [operations, `TIMED`] counted so far, for
    one thread."""
    table = plan.table.copy()
    rows = np.zeros((len(table), 2 * len(TIMED)))
    for k, (name, function) in enumerate(TIMED.items()):
        rows[:, k] = table[name]  # an address has fewer digits than a float64
        address = compiled(function, *argument_types(name, dtype)).address
        table[name] = np.where(table[name] != 0, address, 0)
    places = rows.ctypes.data + rows.strides[0] * np.arange(len(table))
    table.view(RECORD)["digest"] = places[:, np.newaxis].view(np.uint8)
    return plan._replace(table=table), rows[:, len(TIMED) :]
