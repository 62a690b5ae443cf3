"""The passes: execute the plan forward and backward for one chunk of samples, calling the kernel of
each operation by its address.

``forward`` is public: a plain njit function of arrays for the user's own compiled code. The kernels
are compiled one by one, when a network first uses them, and are cached on disk; the loops over the
plan are compiled once.
"""

import functools
import importlib

import numpy as np
from numba import from_dtype, njit, types
from numba.extending import intrinsic

from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import TABLE, call, compiled
from minicnn.kernels.cpu.rules import compile_layer
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.kernels.cpu.vector import copy
from minicnn.kernels.sources import digest_of
from minicnn.program.plan import record_type

# A user's own compiled function is cached by the types of its arguments: the name in the plan's
# changes with what `forward` is compiled from. All plans share one dtype: where it is another of
# the same fields, Numba compares these, for 1.5 µs an argument of each call from Python.
PLAN_RECORD = record_type(f"passes_{digest_of(__name__)}")
PLAN = types.Array(from_dtype(PLAN_RECORD), 1, "C")


@functools.cache
def kernel_address(row, name: str, dtype, ranks: tuple[int, ...] = ()) -> int:
    """Address of the function ``name`` of the operation ``row``, compiled for float32 or float64; 0
    if it has none. Its ``backward`` is also what it has for ``backward_weights``, by default.

    ``ranks`` are those of a `LayerRule`'s arrays.
    """
    usual = name.removesuffix("_weights")
    if row.rule is not None:
        return (
            compile_layer(row.rule, usual, dtype, ranks).address
            if usual in ("forward", "backward")
            else 0
        )
    module = importlib.import_module(f"minicnn.kernels.cpu.{row.module}")
    function = getattr(module, name, None) or getattr(module, usual, None)
    if function is None:
        return 0
    return compiled(function, *argument_types(usual, dtype)).address


def argument_types(name: str, dtype) -> tuple[types.Type, ...]:
    """Those of the function ``name`` of an operation, compiled for float32 or float64."""
    number = from_dtype(np.dtype(dtype))
    numbers, works = number[::1], number[:, ::1]
    sample = types.int64, types.uint64, types.int64  # n, key, first_sample
    arguments = {
        "forward": (numbers, numbers, *sample),
        "backward": (numbers, numbers, numbers, numbers, *sample),
        "combine": (numbers, works),
        "combine_backward": (numbers, works),
    }
    return TABLE, *arguments.get(name, (numbers, numbers))


@njit(**JIT)
def forward_chunk(plan, params, work, n, key, first_sample):
    """The forward pass, from the input, already in ``work``, to the logits, in ``work`` at the last
    operation's y."""
    for i in range(len(plan)):
        if plan[i].again == 0:
            call(plan[i].forward, (plan[i : i + 1], params, work, n, key, first_sample))


@njit(**JIT)
def backward_chunk(plan, params, transposed, work, grads, n, key, first_sample):
    """The chain rule, operation by operation from the last: dy becomes dx, and weight gradients are
    added to ``grads``.

    ``work`` is as ``forward_chunk`` left it, with dlogits at the last operation's ``dy``.
    """
    for i in range(len(plan) - 1, -1, -1):
        if plan[i].again != 0:
            call(plan[i].forward, (plan[i : i + 1], params, work, n, key, first_sample))
        elif plan[i].backward != 0:  # it has a gradient
            call(
                plan[i].backward,
                (plan[i : i + 1], params, transposed, work, grads, n, key, first_sample),
            )


@njit(**JIT)
def transpose_weights(plan, params, transposed):
    """Copy the weights into the order in which the backward pass reads them: once a step, before
    its chunks."""
    for i in range(len(plan)):
        if plan[i].transpose != 0:
            call(plan[i].transpose, (plan[i : i + 1], params, transposed))


@cached
@njit(**ENTRY)
def prepare(plan, params):
    """Write what kernels read in the place of weights behind these, where a plan of inference has
    the functions in its field ``transpose``."""
    transpose_weights(plan, params, params)


@njit(**JIT)
def end_of_segment(plan, begin):
    """One past the first operation from ``begin`` on that must have passed all shards before any of
    them goes on."""
    for i in range(begin, len(plan)):
        if plan[i].combine != 0:
            return i + 1
    return len(plan)


@intrinsic
def _check_types(typing_context, plan, params, work, x, logits):
    """Raise `TypeError` at compile time for arguments that `forward` cannot take."""
    number = types.float64 if getattr(params, "dtype", None) == types.float64 else types.float32
    wanted = {"params": (params, 1), "work": (work, 1), "x": (x, 4), "logits": (logits, 2)}
    if plan != PLAN:
        raise TypeError(
            "minicnn.forward: plan must be that of Model.njit_arguments(), handed over as an argument, "
            "for Numba takes a global array for a constant"
        )
    for name, (kind, rank) in wanted.items():
        array = isinstance(kind, types.Array) and (kind.dtype, kind.ndim, kind.layout)
        if array != (number, rank, "C"):
            needed = f"a C-contiguous array of {number} with {rank} dimension{'s' * (rank > 1)}"
            raise TypeError(f"minicnn.forward: {name} must be {needed}, not {kind}")
        if not kind.mutable and name in ("work", "logits"):
            raise TypeError(f"minicnn.forward: {name} is read-only, but is written to")
    return types.void(plan, params, work, x, logits), lambda *_: None


@cached
@njit(**ENTRY)
def forward(plan, params, work, x, logits):
    """Inference: logits[n,o] of the images x[n,h,w,c].

    ``plan``, ``params`` and ``work`` come from ``Model.njit_arguments()``; ``x`` [N,H,W,C] and
    ``logits`` [N,outputs] are C-contiguous and of the dtype of ``params``, and x is scaled as the
    network was trained (``Model.scale``). Any N: the images are taken in chunks that fit ``work``,
    which serves one thread at a time. Allocates nothing, starts no thread, and can be called from
    any njit function, which caches with it. Raises ValueError for arrays that do not fit the
    network, and TypeError, when it is compiled, for other dtypes and ranks.
    """
    _check_types(plan, params, work, x, logits)
    if len(plan) == 0:
        raise ValueError("minicnn.forward: the plan is empty")
    first, last = plan[0], plan[len(plan) - 1]
    size, outputs = first.input_size, last.output_size
    image = (first.image_height, first.image_width, first.image_channels)
    total = len(x)
    if params.itemsize != first.itemsize:
        raise ValueError("minicnn.forward: the plan is that of parameters of another dtype")
    if x.shape[1:] != image:
        raise ValueError(
            "minicnn.forward: an image [H, W, C] of x must be", image, "not", x.shape[1:]
        )
    if logits.shape != (total, outputs):
        raise ValueError("minicnn.forward: logits must be", (total, outputs), "not", logits.shape)
    if len(params) != first.params_size:
        raise ValueError(
            "minicnn.forward: params must have the length", first.params_size, "not", len(params)
        )
    if len(work) < first.work_size:
        raise ValueError(
            "minicnn.forward: work must have the length", first.work_size, "not", len(work)
        )
    images, out = x.reshape(-1), logits.reshape(-1)
    for start in range(0, total, first.chunk):
        n = min(first.chunk, total - start)
        copy(images, start * size, work, first.x, n * size)
        forward_chunk(plan, params, work, n, np.uint64(0), start)
        copy(work, last.y, out, start * outputs, n * outputs)


@cached
@njit(**ENTRY)
def forward_keep(plan, params, work, x, logits, key):
    """The forward pass of one chunk in the training plan, which keeps what ``backward`` reads."""
    first, last = plan[0], plan[len(plan) - 1]
    n, begin = len(x), 0
    copy(x.reshape(-1), np.int64(0), work, first.x, n * first.input_size)
    while begin < len(plan):
        end = end_of_segment(plan, begin)
        forward_chunk(plan[begin:end], params, work, n, key, 0)
        if plan[end - 1].combine != 0:
            call(plan[end - 1].combine, (plan[end - 1 : end], params, work.reshape(1, -1)))
        begin = end
    copy(work, last.y, logits.reshape(-1), np.int64(0), n * last.output_size)


@cached
@njit(**ENTRY)
def backward(plan, params, transposed, work, dlogits, grads, key):
    """The gradient of the loss with respect to the weights, added to ``grads``, from dlogits[n,o]
    after ``forward_keep``."""
    last = plan[len(plan) - 1]
    n = len(dlogits)
    transpose_weights(plan, params, transposed)
    copy(dlogits.reshape(-1), np.int64(0), work, last.dy, n * last.output_size)
    for i in range(len(plan) - 1, -1, -1):
        if plan[i].combine_backward != 0:
            call(plan[i].combine_backward, (plan[i : i + 1], params, work.reshape(1, -1)))
        backward_chunk(plan[i : i + 1], params, transposed, work, grads, n, key, 0)
