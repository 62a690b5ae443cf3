"""The passes: walk the plan forward and backward for one chunk of samples.

``forward`` is public: a plain njit function of arrays for the user's own compiled code. The functions that Python calls
(here and in ``step.py``) are cached on disk; the ones beneath them are compiled into them.
"""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
from numba import config, from_dtype, njit, types

from minicnn.kernels.cpu import activation, conv2d, dense, dropout, pool2d
from minicnn.kernels.cpu.call import PLAN, call, compiled
from minicnn.kernels.cpu.tile import JIT, product_was_compiled
from minicnn.kernels.cpu.vector import copy
from minicnn.plan import AVG_POOL2D, CONV2D, DENSE, DROPOUT, MAX_POOL2D


@njit(**JIT)
def forward_chunk(plan, params, work, n, key, first_sample):
    """From the input, already in ``work``, to the logits, in ``work`` at the last layer's output."""
    for index in range(len(plan)):
        layer = plan[index]
        kind = layer.kind
        if kind == CONV2D:
            conv2d.forward(layer, params, work, n)
        elif kind == DENSE:
            dense.forward(layer, params, work, n)
        elif kind == MAX_POOL2D:
            pool2d.max_forward(layer, params, work, n)
        elif kind == AVG_POOL2D:
            pool2d.average_forward(layer, work, n)
        elif kind == DROPOUT:
            dropout.forward(layer, work, n, key, first_sample)
        else:
            activation.forward(layer, work, n)


@functools.cache
def forward_address(dtype) -> int:
    """Address of `forward_chunk` for float32 or float64: what the plan's field ``forward`` holds."""
    numbers = types.Array(from_dtype(np.dtype(dtype)), 1, "C")
    return compiled(forward_chunk, PLAN, numbers, numbers, types.int64, types.uint64, types.int64).address


@njit(**JIT)
def backward_chunk(plan, turned, work, grads, n, key, first_sample):
    """The chain rule, layer by layer from the last: dy becomes dx, and the slopes of all weights are added to ``grads``.

    ``work`` is as ``forward_chunk`` left it, with dlogits at the last layer's ``d_output``.
    """
    for index in range(len(plan) - 1, -1, -1):
        layer = plan[index]
        kind = layer.kind
        if kind == CONV2D:
            conv2d.backward_filter(layer, work, grads, n)
            if layer.d_input >= 0:
                conv2d.backward_data(layer, turned, work, n)
        elif kind == DENSE:
            dense.backward_filter(layer, work, grads, n)
            if layer.d_input >= 0:
                dense.backward_data(layer, turned, work, n)
        elif layer.d_input < 0:
            continue
        elif kind == MAX_POOL2D:
            pool2d.max_backward(layer, work, n)
        elif kind == AVG_POOL2D:
            pool2d.average_backward(layer, work, n)
        elif kind == DROPOUT:
            dropout.backward(layer, work, n, key, first_sample)
        else:
            activation.backward(layer, work, n)


@njit(**JIT)
def turn_weights(plan, params, turned, part, parts):
    """Copy the weights into the order in which the backward pass reads them: once a step, before its chunks.

    ``parts`` threads share the work; this one is number ``part``.
    """
    for index in range(len(plan)):
        layer = plan[index]
        if layer.d_input >= 0:
            if layer.kind == CONV2D:
                conv2d.turn(layer, params, turned, part, parts)
            elif layer.kind == DENSE:
                dense.turn(layer, params, turned, part, parts)


def _begin_forward_beside(dtype: str) -> subprocess.Popen | None:
    """Start a process that compiles the forward pass; None with one core, or where Python runs inside another program."""
    if config.NUMBA_NUM_THREADS == 1 or not Path(sys.executable or "").name.startswith("python"):
        return None
    code = f"import sys; sys.path[:] = {sys.path}; from {__name__} import forward_address; forward_address({dtype!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@functools.cache
def training_addresses(dtype) -> tuple[int, int, int]:
    """Addresses of `forward_chunk`, `backward_chunk`, `turn_weights`: the plan's ``forward``, ``backward`` and ``turn``.

    Where they must be compiled and there is a second core, another process puts the forward pass into the disk cache
    meanwhile: all that `train` needs is compiled in 12 s in place of 16.
    """
    other = _begin_forward_beside(np.dtype(dtype).name) if product_was_compiled() else None
    numbers, integer = types.Array(from_dtype(np.dtype(dtype)), 1, "C"), types.int64
    backward = compiled(backward_chunk, PLAN, numbers, numbers, numbers, integer, types.uint64, integer).address
    turn = compiled(turn_weights, PLAN, numbers, numbers, integer, integer).address
    if other is not None:
        other.wait()  # had it failed, the next line compiles
    return forward_address(dtype), backward, turn


@njit(cache=True, **JIT)
def forward(plan, params, work, x, logits):
    """Inference: logits[n,o] of the images x[n,h,w,c].

    ``plan``, ``params`` and ``work`` come from ``Model.njit_arguments()``; ``x`` [N,H,W,C] and ``logits`` [N,outputs] are
    C-contiguous and of the dtype of ``params``, and x is scaled as the network was trained (``Model.scale``). Any N:
    the images are taken in chunks that fit ``work``. Allocates nothing, starts no thread, and can be called from any
    njit function, which caches with it.
    """
    first, last = plan[0], plan[len(plan) - 1]
    size, outputs = first.input_size, last.output_size
    images, out = x.reshape(-1), logits.reshape(-1)
    total = len(x)
    for start in range(0, total, first.chunk):
        n = min(first.chunk, total - start)
        copy(images, start * size, work, first.input, n * size)
        call(first.forward, (plan, params, work, n, np.uint64(0), start))
        copy(work, last.output, out, start * outputs, n * outputs)


@njit(cache=True, **JIT)
def forward_keep(plan, params, work, x, logits, key):
    """The forward pass of one chunk in the training plan, which keeps every activation for ``backward``."""
    first, last = plan[0], plan[len(plan) - 1]
    n = len(x)
    copy(x.reshape(-1), np.int64(0), work, first.input, n * first.input_size)
    call(first.forward, (plan, params, work, n, key, 0))
    copy(work, last.output, logits.reshape(-1), np.int64(0), n * last.output_size)


@njit(cache=True, **JIT)
def backward(plan, params, turned, work, dlogits, grads, key):
    """The slope of the loss by every weight, added to ``grads``, from dlogits[n,o] after ``forward_keep``."""
    last = plan[len(plan) - 1]
    n = len(dlogits)
    call(last.turn, (plan, params, turned, 0, 1))
    copy(dlogits.reshape(-1), np.int64(0), work, last.d_output, n * last.output_size)
    call(last.backward, (plan, turned, work, grads, n, key, 0))
