"""What Python calls: one training step, and inference, over the threads.

A batch is cut into as many lanes as there are gradient buffers; a lane goes chunk by chunk through all layers forward,
through the loss, and back. Threads share out the lanes, and lanes are added in their order, so that the result depends
on the number of lanes but not on which thread ran when.
"""

import functools
import math

import numpy as np
from numba import from_dtype, njit, prange, types

from minicnn.kernels.cpu.call import PLAN, call, call_loss, call_update, compiled
from minicnn.kernels.cpu.tile import JIT

_WORTH_SHARING = 10_000  # parameters from which on threads also share what is done once a step; a region costs 5 µs
_BLOCK = 4096  # parameters that are reduced together: the order of the norm's sum does not depend on the threads


@njit(**JIT)
def _gather(layer, work, images, order, start, n, scale):
    """Scale ``n`` images, taken in the order of the epoch, into the first layer's input."""
    size = layer.input_size
    for i in range(n):
        x = work[layer.input + i * size : layer.input + (i + 1) * size]
        image = images[order[start + i]]
        for j in range(size):
            x[j] = work.dtype.type(image[j]) * scale


@njit(**JIT)
def _largest(row):
    """Index of the first largest number: the predicted class."""
    best = 0
    for k in range(1, len(row)):
        if row[k] > row[best]:
            best = k
    return best


@njit(**JIT)
def _lane(plan, params, turned, work, grads, images, labels, order, begin, end, scale,
          targets, class_weights, loss, loss_hyper, divisor, key, totals):  # fmt: skip
    """Loss and slopes of the samples ``begin`` to ``end`` of the batch, chunk by chunk."""
    first, last = plan[0], plan[len(plan) - 1]
    outputs = last.output_size
    grads[:] = 0
    totals[:] = 0
    chunks = (end - begin + first.chunk - 1) // first.chunk
    for index in range(chunks):
        start = begin + (end - begin) * index // chunks
        n = begin + (end - begin) * (index + 1) // chunks - start
        _gather(first, work, images, order, start, n, scale)
        call(first.forward, (plan, params, work, n, key, start))
        for i in range(n):
            label = labels[order[start + i]]
            logits = work[last.output + i * outputs : last.output + (i + 1) * outputs]
            dlogits = work[last.d_output + i * outputs : last.d_output + (i + 1) * outputs]
            totals[0] += call_loss(loss, logits, label, targets[label], dlogits, class_weights, loss_hyper)
            totals[1] += _largest(logits) == label
            for k in range(outputs):
                dlogits[k] /= divisor
        call(first.backward, (plan, turned, work, grads, n, key, start))


@functools.cache
def lane_address(dtype, image_dtype) -> int:
    """Address of a lane compiled for parameters of ``dtype`` and images of ``image_dtype``."""
    number = from_dtype(np.dtype(dtype))
    image = types.Array(from_dtype(np.dtype(image_dtype)), 2, "C")
    row, table = types.Array(number, 1, "C"), types.Array(number, 2, "C")
    integers, sums, integer = types.int64[::1], types.float64[::1], types.int64
    return compiled(_lane, PLAN, row, row, row, row, image, integers, integers, integer, integer, number, table, row,
                    integer, row, number, types.uint64, sums).address  # fmt: skip


@njit(cache=True, parallel=True, **JIT)
def train_step(lane_at, plan, params, turned, work, grads, images, labels, order, scale, targets, class_weights, loss,
               loss_hyper, divisor, key, totals, squares, update_rule, slots, scalars, spans, clip_norm,
               clip_value):  # fmt: skip
    """One step on the batch ``order``: forward, loss, backward, update. Returns summed loss, correct, gradient norm.

    ``work`` [threads, work_size], ``grads`` [lanes, P], ``totals`` [lanes, 2 or more], ``squares`` [blocks]; ``lane_at``,
    ``loss`` and ``update_rule`` are addresses of compiled functions; a clip of 0 is none. ``spans`` [count,
    (begin, end, row)] are the parameters to update, with that row of ``scalars`` [rows, S]. They stay as they are when the
    loss or the norm is not finite, or ``update_rule`` is 0; ``grads[0]`` is left with the clipped gradient.
    """
    threads, lanes, batch, count = len(work), len(grads), len(order), len(params)
    together, none, turn_at = count > _WORTH_SHARING, np.int64(0), plan[0].turn
    for thread in prange(threads):
        call(turn_at, (plan, params, turned[thread], 0, 1))
        for lane in range(thread * lanes // threads, (thread + 1) * lanes // threads):
            call(lane_at, (plan, params, turned[thread], work[thread], grads[lane], images, labels, order,
                           lane * batch // lanes, (lane + 1) * batch // lanes, scale, targets, class_weights, loss,
                           loss_hyper, divisor, key, totals[lane]))  # fmt: skip
    blocks = len(squares)
    if together:
        for thread in prange(threads):
            _add_blocks(grads, squares, thread * blocks // threads, (thread + 1) * blocks // threads)
    else:
        _add_blocks(grads, squares, none, blocks)
    loss_sum, correct, square = 0.0, 0.0, 0.0
    for lane in range(lanes):
        loss_sum += totals[lane, 0]
        correct += totals[lane, 1]
    for block in range(blocks):
        square += squares[block]
    norm = math.sqrt(square)
    if math.isfinite(loss_sum) and math.isfinite(norm):
        shrink = params.dtype.type(clip_norm / norm if 0 < clip_norm < norm else 1)
        limit = params.dtype.type(clip_value)
        if together:
            for thread in prange(threads):
                begin, end = thread * blocks // threads * _BLOCK, min(count, (thread + 1) * blocks // threads * _BLOCK)
                _update(update_rule, params, grads[0], slots, scalars, spans, begin, end, shrink, limit)
        else:
            _update(update_rule, params, grads[0], slots, scalars, spans, none, count, shrink, limit)
    return loss_sum, correct, norm


@njit(**JIT)
def _add_blocks(grads, squares, first, end):
    """Add up the lanes of the blocks ``first`` to ``end``, and keep each block's sum of squares."""
    for block in range(first, end):
        squares[block] = _add_lanes(grads, block * _BLOCK, min(grads.shape[1], (block + 1) * _BLOCK))


@njit(**JIT)
def _add_lanes(grads, begin, end):
    """Add the other lanes to the first, in order; return the sum of the squares."""
    total = grads[0, begin:end]
    for lane in range(1, len(grads)):
        part = grads[lane, begin:end]
        for i in range(end - begin):
            total[i] += part[i]
    square = 0.0
    for i in range(end - begin):
        square += np.float64(total[i]) * np.float64(total[i])
    return square


@njit(**JIT)
def _update(rule, params, grads, slots, scalars, spans, begin, end, shrink, limit):
    """Clip the gradient of the parameters ``begin`` to ``end`` and, unless ``rule`` is 0, update them."""
    _clip(grads, begin, end, shrink, limit)
    if rule != 0:
        for k in range(len(spans)):
            first, last = max(begin, spans[k, 0]), min(end, spans[k, 1])
            if first < last:
                call_update(rule, params, grads, slots, slots.shape[1], scalars[spans[k, 2]], first, last)


@njit(**JIT)
def _clip(grads, begin, end, shrink, clip_value):
    """Scale by ``shrink`` (global norm), then limit every element to ±``clip_value``; 1 and 0 change nothing."""
    if shrink != 1:
        for i in range(begin, end):
            grads[i] *= shrink
    if clip_value > 0:
        for i in range(begin, end):
            grads[i] = min(max(grads[i], -clip_value), clip_value)


@njit(**JIT)
def _infer_range(plan, params, work, images, order, begin, end, scale, logits):
    """The logits of the samples ``begin`` to ``end``, chunk by chunk."""
    first, last = plan[0], plan[len(plan) - 1]
    outputs = last.output_size
    for start in range(begin, end, first.chunk):
        n = min(first.chunk, end - start)
        _gather(first, work, images, order, start, n, scale)
        call(first.forward, (plan, params, work, n, np.uint64(0), start))
        for i in range(n):
            for k in range(outputs):
                logits[start + i, k] = work[last.output + i * outputs + k]


@functools.cache
def range_address(dtype, image_dtype) -> int:
    """Address of the inference of a range compiled for parameters of ``dtype`` and images of ``image_dtype``."""
    number = from_dtype(np.dtype(dtype))
    image = types.Array(from_dtype(np.dtype(image_dtype)), 2, "C")
    row, table, integer = types.Array(number, 1, "C"), types.Array(number, 2, "C"), types.int64
    return compiled(_infer_range, PLAN, row, row, image, types.int64[::1], integer, integer, number, table).address


@njit(cache=True, parallel=True, **JIT)
def infer(range_at, plan, params, work, images, order, scale, logits):
    """logits[i] of images[order[i]], chunk by chunk over the threads; ``work`` is [threads, work_size].

    ``range_at`` is the address of the compiled `_infer_range`.
    """
    threads, total = len(work), len(order)
    for thread in prange(threads):
        call(range_at, (plan, params, work[thread], images, order, thread * total // threads,
                        (thread + 1) * total // threads, scale, logits))  # fmt: skip


@njit(cache=True, **JIT)
def infer_serial(range_at, plan, params, work, images, order, scale, logits):
    """The same on the calling thread: for a few images, waking the other threads takes longer than the work."""
    call(range_at, (plan, params, work[0], images, order, 0, len(order), scale, logits))


@njit(cache=True, **JIT)
def loss_of(loss, logits, labels, targets, class_weights, loss_hyper, dlogits):
    """The summed loss of all rows; ``dlogits`` receives the gradient of each row's own loss."""
    total = 0.0
    for i in range(len(logits)):
        total += call_loss(loss, logits[i], labels[i], targets[labels[i]], dlogits[i], class_weights, loss_hyper)
    return total


@njit(cache=True, **JIT)
def update(address, params, grads, slots, scalars, spans):
    """Every weight takes its step: the compiled update at ``address`` over ``spans`` (see `train_step`), on one thread."""
    for k in range(len(spans)):
        call_update(address, params, grads, slots, slots.shape[1], scalars[spans[k, 2]], spans[k, 0], spans[k, 1])


def reduction_blocks(count: int) -> int:
    """How many partial sums of squares ``train_step`` keeps for ``count`` parameters."""
    return -(-count // _BLOCK)
