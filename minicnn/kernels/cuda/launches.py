"""What the backend launches for an operation.

The module of an operation (`minicnn.program.operations`) has `LAUNCHES`: for "forward" and
"backward", and where it has state for "finish", the kernels in their order. All of them take blocks
of `THREADS` threads and any number of blocks, and share the work out in strides of the grid. Their
arguments are

    plan, floats            the layout (`minicnn.kernels.cuda.layout`)
    params, work            float32 [P], [Layout.work_size]
    op                      which operation of the plan
    n                       the number of samples, at most the plan's chunk
    key                     numbers the step for dropout
    first_sample            the place in the batch of sample 0; above 0, gradients of parameters are added to those before

and for "finish", after the update of a step: plan, floats, params, work, op, n, row of ``results``,
results.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import types

from minicnn.kernels.cuda.tile import THREADS

PLAN, NUMBERS, ROWS, INTEGER, KEY = (
    types.int64[:, ::1],
    types.float32[::1],
    types.float32[:, ::1],
    types.int64,
    types.uint64,
)
OPERATION = types.void(PLAN, ROWS, NUMBERS, NUMBERS, INTEGER, INTEGER, KEY, INTEGER)
FINISH = types.void(PLAN, ROWS, NUMBERS, NUMBERS, INTEGER, INTEGER, INTEGER, ROWS)


class Launch(NamedTuple):
    """A kernel, and how many blocks have work for a record and a number of samples: with 0 it is
    not launched."""

    kernel: Callable[..., None]
    blocks: Callable[[np.void, int], int]


def launches(module: str) -> dict[str, tuple[Launch, ...]] | None:
    """The launches of the operation's module ``module``; None if CUDA does not have it."""
    name = f"minicnn.kernels.cuda.{module}"
    if importlib.util.find_spec(name) is None:
        return None
    found: dict[str, tuple[Launch, ...]] = importlib.import_module(name).LAUNCHES
    return found


def outputs(record: np.void, n: int) -> int:
    """A thread for each number of y."""
    return -(-n * int(record["output_size"]) // THREADS)


def gradients(record: np.void, n: int) -> int:
    """A thread for each number of dx, where there is a dx."""
    return -(-n * int(record["input_size"]) // THREADS) if record["dx"] >= 0 else 0
