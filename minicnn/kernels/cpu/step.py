"""What Python calls: one training step, and inference, over the threads.

A batch is cut into as many shards as there are gradient buffers; a shard goes chunk by chunk
through all operations forward, through the loss, and back. Threads take the shards, and their
gradients are added in their order, so that the result depends on the number of shards but not on
which thread ran when. Where an operation needs the whole batch (batch normalization), it ends a
segment: all shards pass it, what they measured is combined, and then they go on.
"""

import functools
import math

import numpy as np
from numba import from_dtype, njit, prange, types

from minicnn.kernels.augment import PARTNER, SHARE
from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import TABLE, call, call_loss, call_update, compiled
from minicnn.kernels.cpu.gather import gather, gather_views
from minicnn.kernels.cpu.passes import (
    backward_chunk,
    end_of_segment,
    forward_chunk,
    transpose_weights,
)
from minicnn.kernels.cpu.team import over_threads
from minicnn.kernels.cpu.tile import JIT

# parameters from which on threads also share what is done once a step; a region costs 5 µs
_WORTH_SHARING = 10_000
# parameters that are reduced together: the order of the norm's sum does not depend on the threads
_BLOCK = 4096


@njit(**JIT)
def _largest(row):
    """Index of the first largest number: the predicted class."""
    best = 0
    for k in range(1, len(row)):
        if row[k] > row[best]:
            best = k
    return best


@njit(**JIT)
def _loss(
    plan,
    work,
    labels,
    sample_weights,
    order,
    start,
    n,
    targets,
    class_weights,
    loss,
    loss_hyper,
    divisor,
    views,
    mixed,
    totals,
):
    """Add the loss of the ``n`` samples from ``start`` on, and whether each is right, to
    ``totals``; write dlogits.

    ``sample_weights`` [N] are the weights of all images, or empty: 1 each. Where a view has a
    partner (`minicnn.kernels.augment`), so has the loss; ``mixed`` [outputs] is scratch.
    """
    last = plan[len(plan) - 1]
    outputs = last.output_size
    for i in range(n):
        image = order[start + i]
        label = labels[image]
        weight = sample_weights[image] if len(sample_weights) else work.dtype.type(1)
        logits = work[last.y + i * outputs : last.y + (i + 1) * outputs]
        dlogits = work[last.dy + i * outputs : last.dy + (i + 1) * outputs]
        value = call_loss(loss, logits, label, targets[label], dlogits, class_weights, loss_hyper)
        if len(views) and views[image, PARTNER] >= 0:
            share, other = work.dtype.type(views[image, SHARE]), labels[int(views[image, PARTNER])]
            given = logits, other, targets[other], mixed, class_weights, loss_hyper
            value = share * value + (1 - share) * call_loss(loss, *given)
            for k in range(outputs):
                dlogits[k] = share * dlogits[k] + (work.dtype.type(1) - share) * mixed[k]
        totals[0] += weight * value
        totals[1] += _largest(logits) == label
        for k in range(outputs):
            dlogits[k] = dlogits[k] * weight / divisor


@njit(**JIT)
def _shard(
    plan,
    first_op,
    end_op,
    is_backward,
    params,
    transposed,
    work,
    grads,
    images,
    labels,
    sample_weights,
    order,
    begin,
    end,
    scale,
    targets,
    class_weights,
    loss,
    loss_hyper,
    divisor,
    key,
    views,
    mixed,
    totals,
):
    """Loss and gradient of the samples ``begin`` to ``end`` of the batch.

    A plan of one segment does all of it, chunk by chunk. Of several, this is the segment
    ``first_op`` to ``end_op`` forward, the last one with the loss, or backward, on all samples of
    the shard.
    """
    whole = first_op == 0 and end_op == len(plan)
    if first_op == 0 and is_backward == 0:
        grads[:] = 0
        totals[:] = 0
        if not whole:
            transpose_weights(plan, params, transposed)
    segment = plan[first_op:end_op]
    chunks = (end - begin + plan[0].chunk - 1) // plan[0].chunk
    for index in range(chunks):
        start = begin + (end - begin) * index // chunks
        n = begin + (end - begin) * (index + 1) // chunks - start
        if is_backward == 0:
            if first_op == 0:
                if len(views):
                    gather_views(plan[0], work, images, order, start, n, scale, views)
                else:
                    gather(plan[0], work, images, order, start, n, scale)
            forward_chunk(segment, params, work, n, key, start)
            if end_op == len(plan):
                _loss(
                    plan,
                    work,
                    labels,
                    sample_weights,
                    order,
                    start,
                    n,
                    targets,
                    class_weights,
                    loss,
                    loss_hyper,
                    divisor,
                    views,
                    mixed,
                    totals,
                )
        if whole or is_backward != 0:
            backward_chunk(segment, params, transposed, work, grads, n, key, start)


@functools.cache
def shard_address(dtype, image_dtype) -> int:
    """Address of a shard's passes compiled for parameters of ``dtype`` and images of
    ``image_dtype``."""
    number = from_dtype(np.dtype(dtype))
    image = types.Array(from_dtype(np.dtype(image_dtype)), 2, "C")
    row, table = types.Array(number, 1, "C"), types.Array(number, 2, "C")
    integers, sums, integer = types.int64[::1], types.float64[::1], types.int64
    return compiled(
        _shard,
        TABLE,
        integer,
        integer,
        integer,
        row,
        row,
        row,
        row,
        image,
        integers,
        row,
        integers,
        integer,
        integer,
        table,
        table,
        row,
        integer,
        row,
        number,
        types.uint64,
        types.float32[:, ::1],
        row,
        sums,
    ).address


@over_threads
def train_step(
    shard_at,
    plan,
    trained,
    params,
    transposed,
    work,
    grads,
    images,
    labels,
    sample_weights,
    order,
    scale,
    targets,
    class_weights,
    loss,
    loss_hyper,
    divisor,
    key,
    views,
    mixed,
    totals,
    squares,
    update_rule,
    slots,
    scalars,
    spans,
    clip_norm,
    clip_value,
):
    """One step on the batch ``order``: forward, loss, backward, update. Returns summed loss,
    correct, gradient norm.

    ``scale`` [2, channels or 1], ``views`` of the images, or empty, ``work`` [threads, work_size],
    ``grads`` [shards, P], ``mixed`` [shards, outputs], ``totals`` [shards, 2 or more], ``squares``
    [blocks]; ``shard_at``, ``loss`` and ``update_rule`` are addresses of compiled functions; a clip
    of 0 is none. ``spans`` [count, (begin, end, row)] are the parameters to update, in their order
    and all of them among the first ``trained`` of ``params``, with that row of ``scalars`` [rows,
    S]; what lies between is frozen, and its gradient is 0. Parameters and state stay as they are
    when the loss or the norm is not finite, the parameters also when ``update_rule`` is 0;
    ``grads[0]`` is left with the clipped gradient.

    A plan of several segments has as many threads as shards, and a batch of fewer samples fewer of
    both.
    """
    threads, shards, batch, count, none = len(work), len(grads), len(order), trained, np.int64(0)
    together, operations = count > _WORTH_SHARING, len(plan)
    if end_of_segment(plan, 0) == operations:
        for thread in prange(threads):
            transpose_weights(plan, params, transposed[thread])
            for shard in range(thread * shards // threads, (thread + 1) * shards // threads):
                call(
                    shard_at,
                    (
                        plan,
                        none,
                        operations,
                        none,
                        params,
                        transposed[thread],
                        work[thread],
                        grads[shard],
                        images,
                        labels,
                        sample_weights,
                        order,
                        shard * batch // shards,
                        (shard + 1) * batch // shards,
                        scale,
                        targets,
                        class_weights,
                        loss,
                        loss_hyper,
                        divisor,
                        key,
                        views,
                        mixed[shard],
                        totals[shard],
                    ),
                )
    else:
        shards = min(shards, batch)
        for shard in range(shards, len(grads)):
            grads[shard, :] = 0
        begin, end, is_backward = none, end_of_segment(plan, 0), none
        while end > begin:
            for shard in prange(shards):
                call(
                    shard_at,
                    (
                        plan,
                        begin,
                        end,
                        is_backward,
                        params,
                        transposed[shard],
                        work[shard],
                        grads[shard],
                        images,
                        labels,
                        sample_weights,
                        order,
                        shard * batch // shards,
                        (shard + 1) * batch // shards,
                        scale,
                        targets,
                        class_weights,
                        loss,
                        loss_hyper,
                        divisor,
                        key,
                        views,
                        mixed[shard],
                        totals[shard],
                    ),
                )
            if is_backward == 0:
                if end < operations:
                    call(plan[end - 1].combine, (plan[end - 1 : end], params, work[:shards]))
                    begin, end = end, end_of_segment(plan, end)
                else:
                    is_backward = np.int64(1)
            else:
                end = begin
                if begin > 0:
                    call(
                        plan[begin - 1].combine_backward,
                        (plan[begin - 1 : begin], params, work[:shards]),
                    )
                    begin -= 1
                    while begin > 0 and plan[begin - 1].combine == 0:
                        begin -= 1
    _forget_gaps(grads, spans, trained)
    blocks = len(squares)
    if together:
        for thread in prange(threads):
            _add_blocks(
                grads, squares, thread * blocks // threads, (thread + 1) * blocks // threads
            )
    else:
        _add_blocks(grads, squares, none, blocks)
    loss_sum, correct, square = 0.0, 0.0, 0.0
    for shard in range(shards):
        loss_sum += totals[shard, 0]
        correct += totals[shard, 1]
    for block in range(blocks):
        square += squares[block]
    norm = math.sqrt(square)
    if math.isfinite(loss_sum) and math.isfinite(norm):
        shrink = params.dtype.type(clip_norm / norm if 0 < clip_norm < norm else 1)
        limit = params.dtype.type(clip_value)
        if together:
            for thread in prange(threads):
                begin, end = (
                    thread * blocks // threads * _BLOCK,
                    min(count, (thread + 1) * blocks // threads * _BLOCK),
                )
                _update(
                    update_rule, params, grads[0], slots, scalars, spans, begin, end, shrink, limit
                )
        else:
            _update(
                update_rule, params, grads[0], slots, scalars, spans, none, count, shrink, limit
            )
        for i in range(operations):
            if plan[i].finish != 0:
                call(plan[i].finish, (plan[i : i + 1], params, work[0]))
    return loss_sum, correct, norm


@njit(**JIT)
def _forget_gaps(grads, spans, trained):
    """No gradient for what of the first ``trained`` parameters is in no span: it is frozen."""
    begin = np.int64(0)
    for k in range(len(spans) + 1):
        end = spans[k, 0] if k < len(spans) else trained
        for shard in range(len(grads)):
            grads[shard, begin:end] = 0
        begin = spans[k, 1] if k < len(spans) else trained


@njit(**JIT)
def _add_blocks(grads, squares, first, end):
    """Add up the shards of the blocks ``first`` to ``end``, and keep each block's sum of
    squares."""
    for block in range(first, end):
        squares[block] = _sum_shards(
            grads, block * _BLOCK, min(grads.shape[1], (block + 1) * _BLOCK)
        )


@njit(**JIT)
def _sum_shards(grads, begin, end):
    """Add the other shards to the first, in order; return the sum of the squares."""
    total = grads[0, begin:end]
    for shard in range(1, len(grads)):
        part = grads[shard, begin:end]
        for i in range(end - begin):
            total[i] += part[i]
    square = 0.0
    for i in range(end - begin):
        square += np.float64(total[i]) * np.float64(total[i])
    return square


@njit(**JIT)
def _update(rule, params, grads, slots, scalars, spans, begin, end, shrink, limit):
    """Clip the gradient of the parameters ``begin`` to ``end`` and, unless ``rule`` is 0, update
    them."""
    _clip(grads, begin, end, shrink, limit)
    if rule != 0:
        for k in range(len(spans)):
            first, last = max(begin, spans[k, 0]), min(end, spans[k, 1])
            if first < last:
                call_update(
                    rule, params, grads, slots, slots.shape[1], scalars[spans[k, 2]], first, last
                )


@njit(**JIT)
def _clip(grads, begin, end, shrink, clip_value):
    """Scale by ``shrink`` (global norm), then limit every element to ±``clip_value``; 1 and 0
    change nothing."""
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
        gather(first, work, images, order, start, n, scale)
        forward_chunk(plan, params, work, n, np.uint64(0), start)
        for i in range(n):
            for k in range(outputs):
                logits[start + i, k] = work[last.y + i * outputs + k]


@functools.cache
def range_address(dtype, image_dtype) -> int:
    """Address of the inference of a range compiled for parameters of ``dtype`` and images of
    ``image_dtype``."""
    number = from_dtype(np.dtype(dtype))
    image = types.Array(from_dtype(np.dtype(image_dtype)), 2, "C")
    row, table, integer = types.Array(number, 1, "C"), types.Array(number, 2, "C"), types.int64
    return compiled(
        _infer_range,
        TABLE,
        row,
        row,
        image,
        types.int64[::1],
        integer,
        integer,
        table,
        table,
    ).address


@over_threads
def infer(range_at, plan, params, work, images, order, scale, logits):
    """logits[i] of images[order[i]], chunk by chunk over the threads; ``work`` is [threads,
    work_size].

    ``range_at`` is the address of the compiled `_infer_range`.
    """
    threads, total = len(work), len(order)
    for thread in prange(threads):
        call(
            range_at,
            (
                plan,
                params,
                work[thread],
                images,
                order,
                thread * total // threads,
                (thread + 1) * total // threads,
                scale,
                logits,
            ),
        )


@cached
@njit(**JIT)
def loss_of(loss, logits, labels, sample_weights, targets, class_weights, loss_hyper, dlogits):
    """The summed loss of all rows, each times its weight (none: 1); ``dlogits`` receives the
    gradient of each row's own part."""
    total = 0.0
    for i in range(len(logits)):
        weight = sample_weights[i] if len(sample_weights) else logits.dtype.type(1)
        total += weight * call_loss(
            loss, logits[i], labels[i], targets[labels[i]], dlogits[i], class_weights, loss_hyper
        )
        dlogits[i] *= weight
    return total


@cached
@njit(**JIT)
def update(address, params, grads, slots, scalars, spans):
    """Every weight takes its step: the compiled update at ``address`` over ``spans`` (see
    `train_step`), on one thread."""
    for k in range(len(spans)):
        call_update(
            address,
            params,
            grads,
            slots,
            slots.shape[1],
            scalars[spans[k, 2]],
            spans[k, 0],
            spans[k, 1],
        )


def reduction_blocks(count: int) -> int:
    """How many partial sums of squares ``train_step`` keeps for ``count`` parameters."""
    return -(-count // _BLOCK)
