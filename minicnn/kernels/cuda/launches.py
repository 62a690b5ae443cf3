"""What the backend launches for an operation.

The module of an operation (`minicnn.program.operations`) has `LAUNCHES`: for "forward" and
"backward", and where it has state for "finish", the kernels in their order. All of them take blocks
of `THREADS` threads and any number of blocks, and share the work out in strides of the grid. Their
arguments are

    plan                    the layout's table (`minicnn.kernels.cuda.layout`)
    params, work            float32 [P], [Layout.work_size]
    index                   which operation of the plan
    n                       the number of samples, at most the plan's chunk
    key                     numbers the step for dropout
    first_sample            the place in the batch of sample 0; above 0, gradients of parameters are added to those before

and for "finish", after the update of a step: plan, params, work, index, n, row of ``results``, results.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda, from_dtype, types

from minicnn.kernels.cuda.layout import TABLE
from minicnn.kernels.cuda.step import INTEGER, NUMBERS, ROWS
from minicnn.kernels.cuda.tile import THREADS, device

PLAN, KEY = types.Array(from_dtype(TABLE), 1, "C"), types.uint64
OPERATION = types.void(PLAN, NUMBERS, NUMBERS, INTEGER, INTEGER, KEY, INTEGER)
FINISH = types.void(PLAN, NUMBERS, NUMBERS, INTEGER, INTEGER, INTEGER, ROWS)


class Launch(NamedTuple):
    """A kernel, and how many blocks have work for a record and a number of samples: with 0 it is
    not launched."""

    kernel: Callable[..., None]
    blocks: Callable[[np.record, int], int]


def launches(module: str) -> dict[str, tuple[Launch, ...]] | None:
    """The launches of the operation's module ``module``; None if CUDA does not have it."""
    name = f"minicnn.kernels.cuda.{module}"
    if importlib.util.find_spec(name) is None:
        return None
    operation: dict[str, tuple[Launch, ...]] = importlib.import_module(name).LAUNCHES
    return operation


def _each_number(function: Callable[..., None], is_gradient: bool) -> Callable[..., None]:
    """The kernel that calls ``function(op, params, work, i)`` for each number i of y, or of dx."""
    of_one = device(function)

    def kernel(plan, params, work, index, n, key, first_sample):
        op = plan[index]
        size = op.input_size if is_gradient else op.output_size
        for i in range(cuda.grid(1), n * size, cuda.gridsize(1)):
            of_one(op, params, work, i)

    kernel.__name__, kernel.__module__ = function.__name__, function.__module__
    return kernel


def each_output(function: Callable[..., None]) -> Launch:
    """The launch of ``function(op, params, work, i)``, which makes number i of y."""
    return Launch(_each_number(function, False), outputs)


def each_gradient(function: Callable[..., None]) -> Launch:
    """The launch of ``function(op, params, work, i)``, which makes number i of dx."""
    return Launch(_each_number(function, True), gradients)


def outputs(record: np.record, n: int) -> int:
    """A thread for each number of y."""
    return -(-n * record.output_size // THREADS)


def gradients(record: np.record, n: int) -> int:
    """A thread for each number of dx, where there is a dx."""
    return -(-n * record.input_size // THREADS) * (record.dx >= 0)
