"""Numba's simulator with blocks that run quickly and always alike: import it before a kernel.

Numba's own makes every thread of a block a thread of the host; most of its time they wait for each
other. Here they are greenlets: one after the other, each to its next barrier. They go in rising
order in one block and in falling order in the next, so that a missing barrier shows whether the
first threads write and the last ones read, or the other way round. A barrier that some threads of a
block never reach, which hangs a GPU, is an error.

Of `numba.cuda`, kernels find here what they use; anything else is still Numba's.
"""

import sys
from types import SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet
from numba import cuda, types
from numba.cuda.np.numpy_support import as_dtype
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

assert cuda.config.ENABLE_CUDASIM

thread, block, threads, blocks = (SimpleNamespace(x=0) for _ in range(4))
shared: dict = {}  # the arrays of the block by the line that makes them


def array(shape, dtype):
    """An array of one thread; before it is written, it holds NaN or the least number."""
    dtype = as_dtype(dtype) if isinstance(dtype, types.Type) else np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).min, dtype)


def shared_array(shape, dtype):
    """The array of the line that calls."""
    line = sys._getframe(1)
    key = line.f_code, line.f_lineno
    if key not in shared:
        shared[key] = array(shape, dtype)
    return shared[key]


def barrier():
    """The next thread's turn, until all are here."""
    getcurrent().parent.switch()


def run_block(function, arguments, order):
    """Every thread of a block, from barrier to barrier."""
    shared.clear()
    running = [(number, greenlet(function)) for number in order]
    given = arguments
    while running:
        for number, one in running:
            thread.x = number
            one.switch(*given)
        waiting = [(number, one) for number, one in running if not one.dead]
        if 0 < len(waiting) < len(running):
            raise RuntimeError(f"{len(running) - len(waiting)} threads never reach a barrier")
        running, given = waiting, ()


def at_hand(argument):
    """An argument as kernels read it: plain arrays, and records by the names of their fields."""
    array = argument._ary if isinstance(argument, FakeCUDAArray) else argument
    if not isinstance(array, np.ndarray) or array.dtype.names is None:
        return array
    return [
        SimpleNamespace(**{name: record[name] for name in array.dtype.names}) for record in array
    ]


class Kernel:
    """A kernel that is launched: ``kernel[blocks, threads](...)``."""

    falls = False

    def __init__(self, function):
        self.function = function

    def __getitem__(self, grid):
        def launch(*arguments):
            blocks.x, threads.x = grid
            arguments = [at_hand(argument) for argument in arguments]
            for block.x in range(blocks.x):
                order = range(threads.x)
                run_block(self.function, arguments, order[::-1] if Kernel.falls else order)
                Kernel.falls = not Kernel.falls

        return launch


def jit(function=None, device=False, **_):
    """In place of `numba.cuda.jit`: a device function is called as it is."""
    if function is None:
        return lambda function: jit(function, device)
    return function if device else Kernel(function)


vars(cuda).update(
    jit=jit,
    threadIdx=thread,
    blockIdx=block,
    blockDim=threads,
    gridDim=blocks,
    grid=lambda _: block.x * threads.x + thread.x,
    gridsize=lambda _: blocks.x * threads.x,
    syncthreads=barrier,
    shared=SimpleNamespace(array=shared_array),
    local=SimpleNamespace(array=array),
)
