"""One training step over the threads, called from Python.

A batch is cut into as many shards as there are gradient buffers; a shard goes chunk by chunk
through all operations forward, through the loss, and back. Threads take the shards, and their
gradients are added in their order, so that the result depends on the number of shards but not on
which thread ran when. Where an operation needs the whole batch (batch normalization), it ends a
segment: all shards pass it, what they measured is combined, and then they go on. Several processes
have some of the shards each, and meet where what all shards measured is combined, and before the
gradients are added.
"""

import functools
import math
from collections import namedtuple

import numpy as np
from numba import from_dtype, njit, types

from minicnn.kernels import common
from minicnn.kernels.augment import PARTNER, SHARE
from minicnn.kernels.cpu.batch_statistics import saved_size
from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import TABLE, call, call_loss, compiled, denormals
from minicnn.kernels.cpu.passes import (
    PLAN,
    backward_chunk,
    end_of_segment,
    forward_chunk,
    transpose_weights,
)
from minicnn.kernels.cpu.team import address_of, over_threads, spread
from minicnn.kernels.cpu.tile import ENTRY, JIT
from minicnn.kernels.cpu.vector import copy

# parameters that are reduced together: the order of the norm's sum does not depend on the threads
_BLOCK = 4096
MEET_STATISTICS, MEET_GRADIENTS, MEET_BUCKET = 0, 1, 2  # what processes meet for


_largest = njit(**JIT)(common.largest)


# What the threads share of a step: the arguments of `train_step`.
Step = namedtuple(
    "Step",
    "plan operations trained params transposed work grads gather images labels sample_weights "
    "order scale targets class_weights loss loss_hyper divisor key views mixed totals squares "
    "update slots scalars spans meet first_shard met met_plan borders",
)
# What a thread is asked for: all passes of its shards, a segment of one shard forward, or backward
# for its last chunk, its blocks of the sum over the shards, its part of the update.
_WHOLE, _FORWARD, _BACKWARD, _ADD, _UPDATE = map(np.int64, range(5))


@njit(**JIT)
def _loss(step, last, work, shard, start, n):
    """Add the loss of the ``n`` samples from ``start`` on, and whether each is right, to the
    shard's totals; write dlogits, of the operation ``last``.

    ``sample_weights`` [N] are the weights of all images, or empty: 1 each. Where a view has a
    partner (`minicnn.kernels.augment`), so has the loss; ``mixed`` [outputs] is scratch.
    """
    number, views = work.dtype.type, step.views
    outputs, mixed = last.output_size, step.mixed[shard]
    totals = step.totals[step.first_shard + shard]
    for i in range(n):
        image = step.order[start + i]
        label = step.labels[image]
        weight = step.sample_weights[image] if len(step.sample_weights) else number(1)
        logits = work[last.y + i * outputs : last.y + (i + 1) * outputs]
        dlogits = work[last.dy + i * outputs : last.dy + (i + 1) * outputs]
        rule, target = (step.class_weights, step.loss_hyper), step.targets[label]
        value = call_loss(step.loss, logits, label, target, dlogits, *rule)
        if len(views) and views[image, PARTNER] >= 0:
            share, other = number(views[image, SHARE]), step.labels[int(views[image, PARTNER])]
            second = call_loss(step.loss, logits, other, step.targets[other], mixed, *rule)
            value = share * value + (1 - share) * second
            for k in range(outputs):
                dlogits[k] = share * dlogits[k] + (number(1) - share) * mixed[k]
        totals[0] += weight * value
        totals[1] += _largest(logits) == label
        for k in range(outputs):
            dlogits[k] = dlogits[k] * weight / step.divisor


@njit(**JIT)
def _shard(step, shard, thread, task, first_op, end_op):
    """Loss and gradient of the samples of this process's ``shard`` of the batch.

    A plan of one segment does all of it, chunk by chunk; where the reduction overlaps, all but the
    last chunk's backward pass. Of several segments, this is ``first_op`` to ``end_op`` forward, the
    last one with the loss, or backward, on all chunks of the shard, each with its records.
    """
    operations, params = step.operations, step.params
    work, transposed = step.work[thread], step.transposed[thread]
    grads, batch, every = step.grads[shard], len(step.order), len(step.totals)
    if task != _WHOLE:
        every = min(every, batch)
    number = step.first_shard + shard
    begin, end = number * batch // every, (number + 1) * batch // every
    if first_op == 0 and task != _BACKWARD:
        grads[:] = 0
        step.totals[number, :] = 0
        if task == _FORWARD:
            transpose_weights(step.plan[:operations], params, transposed)
    chunk, parts = step.plan[0].chunk, len(step.plan) // operations
    chunks = (end - begin + chunk - 1) // chunk
    later = task == _WHOLE and len(step.borders) > 0
    for index in range(max(0, chunks - 1) if task == _BACKWARD and parts == 1 else 0, chunks):
        plan = step.plan[index % parts * operations : (index % parts + 1) * operations]
        segment = plan[first_op:end_op]
        start = begin + (end - begin) * index // chunks
        n = begin + (end - begin) * (index + 1) // chunks - start
        if task != _BACKWARD:
            if first_op == 0:
                given = step.images, step.order, start, n, step.scale, step.views
                call(step.gather, (plan, work, *given))
            forward_chunk(segment, params, work, n, step.key, start)
            if end_op == operations:
                _loss(step, plan[operations - 1], work, shard, start, n)
        if task != _FORWARD and not (later and index == chunks - 1):
            backward_chunk(segment, params, transposed, work, grads, n, step.key, start)


@njit(**JIT)
def _part(job, index):
    """Part ``index`` of a job, a pointer to a `Step`, what is asked for, the segment, and the
    factor and limit of the gradients."""
    step, task, first_op, end_op, shrink, limit = job[0]
    mode = denormals(np.int64(-1))  # square roots of vanishing second moments are slow
    parts = len(step.work)
    first, end = index * len(step.squares) // parts, (index + 1) * len(step.squares) // parts
    if task == _WHOLE:
        transpose_weights(step.plan[: step.operations], step.params, step.transposed[index])
        shards = len(step.grads)
        for shard in range(index * shards // parts, (index + 1) * shards // parts):
            _shard(step, shard, index, task, first_op, end_op)
    elif task == _ADD:
        grads = step.grads[:1] if step.meet != 0 else step.grads  # the sum, where processes met
        _add_blocks(grads, len(step.params), step.squares, first, end)
    elif task == _UPDATE:
        _update(step, first * _BLOCK, min(step.trained, end * _BLOCK), shrink, limit)
    else:
        _shard(step, index, index, task, first_op, end_op)
    denormals(mode)


def _step_types(plan, dtype):
    """The types of the fields of a `Step` on ``plan``, for parameters of ``dtype``."""
    number, integer, sums = from_dtype(np.dtype(dtype)), types.int64, types.float64
    row, table, integers = number[::1], number[:, ::1], integer[::1]
    buffers = plan, integer, integer, row, table, table, table, integer, types.uint8[:, ::1]
    data = integers, row, integers, table, table, row, integer, row, number
    rest = types.uint64, types.float32[:, ::1], table, sums[:, ::1], sums[::1]
    last = integer, table, table, integer[:, ::1], integer, integer, row, plan, integers
    return *buffers, *data, *rest, *last


@functools.cache
def part_address(dtype) -> int:
    """Address of what a thread does in a step, compiled for parameters of ``dtype``."""
    number, integer = from_dtype(np.dtype(dtype)), types.int64
    step = types.NamedTuple(_step_types(TABLE, dtype), Step)
    job = types.Tuple((step, integer, integer, integer, number, number))
    return compiled(_part, types.CPointer(job), integer).address


@over_threads
def train_step(team, part_at, clip_norm, clip_value, *fields):
    """One step on the batch ``order``: forward, loss, backward, update. Returns summed loss,
    correct, gradient norm.

    ``part_at`` is the `part_address`; a clip of 0 is none. The ``fields`` are those of a `Step`:
    ``plan`` [parts · ``operations``] has the records of all parts of a shard, ``work`` is [threads,
    work_size], ``grads`` [shards, P], ``scale`` [2, channels or 1], ``views`` those of the images,
    or empty, ``mixed`` [shards, outputs], ``totals`` [all shards, 2 or more], ``squares`` [blocks];
    ``gather``, ``loss`` and ``update`` are addresses of compiled functions, and ``images`` is
    `gather.opaque`. ``spans`` [count, (begin, end, row)] are the parameters to update, in their
    order and all of them among the first ``trained`` of ``params``, with that row of ``scalars``
    [rows, S]; what lies between is frozen, and its gradient is 0. Parameters and state stay as they
    are when the loss or the norm is not finite, the parameters also when ``update`` is 0;
    ``grads[0]`` is left with the clipped gradient.

    A plan of several segments has as many threads as shards, and a batch of fewer samples fewer of
    both.

    Of several processes this one has the shards from ``first_shard`` on. It calls ``meet(which,
    shards of the batch, numbers of each)``, the address of a C function (0: there is one process).
    With `MEET_STATISTICS` that gathers rows of ``met``; where that is empty the statistics are this
    process's alone. With `MEET_GRADIENTS` it gathers ``totals`` [all shards, 2 or more] and leaves
    the sum of all gradients in ``grads[0]``. ``met_plan`` [operations] is for those that keep what
    they measured in ``met``. With `MEET_BUCKET` it hears, in the place of the shards, after which
    operation of the backward pass a bucket of gradients is complete: one whose number in
    ``borders`` [operations] is not negative. It is empty where nothing overlaps.
    """
    step = Step(*fields)
    params, work, grads, totals, operations = (
        step.params,
        step.work,
        step.grads,
        step.totals,
        step.operations,
    )
    plan, none, one = step.plan[:operations], np.int64(0), params.dtype.type(1)
    threads, shards, every = len(work), len(grads), len(totals)
    if end_of_segment(plan, none) == operations:
        spread(team, part_at, address_of((step, _WHOLE, none, operations, one, one)), none, threads)
        end = operations if len(step.borders) > 0 else none
        while end > 0:
            begin = end - 1
            while begin > 0 and step.borders[begin] < 0:
                begin -= 1
            spread(team, part_at, address_of((step, _BACKWARD, begin, end, one, one)), none, shards)
            _bucket(step, begin)
            end = begin
    else:
        every = min(every, len(step.order))
        shards = max(none, min(shards, every - step.first_shard))
        for shard in range(shards, len(grads)):
            grads[shard, :] = 0
        begin, end, task = none, end_of_segment(plan, none), _FORWARD
        while end > begin:
            spread(team, part_at, address_of((step, task, begin, end, one, one)), none, shards)
            if task == _FORWARD:
                if end < operations:
                    _combine(step, plan[end - 1].combine, end - 1, shards, every)
                    begin, end = end, end_of_segment(plan, end)
                else:
                    task = _BACKWARD
            else:
                end = begin
                _bucket(step, begin)
                if begin > 0:
                    begin -= 1
                    _combine(step, plan[begin].combine_backward, begin, shards, every)
                    while begin > 0 and plan[begin - 1].combine == 0:
                        begin -= 1
    if step.meet != 0:
        call(step.meet, (MEET_GRADIENTS, every, none))
    _forget_gaps(grads, step.spans, step.trained)
    spread(team, part_at, address_of((step, _ADD, none, none, one, one)), none, threads)
    loss_sum, correct, square = 0.0, 0.0, 0.0
    for shard in range(every):
        loss_sum += totals[shard, 0]
        correct += totals[shard, 1]
    for block in range(len(step.squares)):
        square += step.squares[block]
    norm = math.sqrt(square)
    if math.isfinite(loss_sum) and math.isfinite(norm):
        shrink = params.dtype.type(clip_norm / norm if 0 < clip_norm < norm else 1)
        limit = params.dtype.type(clip_value)
        spread(team, part_at, address_of((step, _UPDATE, none, none, shrink, limit)), none, threads)
        for i in range(operations):
            if plan[i].finish != 0 and (shards > 0 or len(step.met) > 0):
                call(plan[i].finish, (plan[i : i + 1], params, work[0]))
    return loss_sum, correct, norm


@njit(**JIT)
def _bucket(step, op):
    """Tell the other processes that the gradients of a bucket are complete, if one ends at
    ``op``."""
    if len(step.borders) > 0 and step.borders[op] >= 0:
        call(step.meet, (MEET_BUCKET, op, np.int64(0)))


@njit(**JIT)
def _combine(step, address, op, shards, every):
    """Combine what the shards have measured for the operation ``op``, which all of them have passed.

    Over several processes the shards' numbers are gathered in ``met``, and combined there as one
    process combines them.
    """
    plan, params, work, met = step.plan, step.params, step.work, step.met
    if step.meet == 0 or len(met) == 0:
        if shards > 0:
            call(address, (plan[op : op + 1], params, work[:shards]))
        return
    at, size = plan[op].saved, saved_size(plan[op].input_channels, work.itemsize)
    for shard in range(shards):
        copy(work[shard], at, met, (step.first_shard + shard) * size, size)
    call(step.meet, (MEET_STATISTICS, every, size))
    rows = met[: every * size].reshape(every, size)
    call(address, (step.met_plan[op : op + 1], params, rows))
    # A process that has no shard of this batch still learns the running statistics.
    for shard in range(max(shards, 1)):
        copy(met, min(step.first_shard + shard, every - 1) * size, work[shard], at, size)


@njit(**JIT)
def _forget_gaps(grads, spans, trained):
    """Set the gradient of frozen parameters to 0: those of the first ``trained`` that are in no
    span."""
    begin = np.int64(0)
    for k in range(len(spans) + 1):
        end = spans[k, 0] if k < len(spans) else trained
        for shard in range(len(grads)):
            grads[shard, begin:end] = 0
        begin = spans[k, 1] if k < len(spans) else trained


@njit(**JIT)
def _add_blocks(grads, count, squares, first, end):
    """Add up the shards of the blocks ``first`` to ``end`` of ``count`` parameters, and keep each
    block's sum of squares."""
    for block in range(first, end):
        squares[block] = _sum_shards(grads, block * _BLOCK, min(count, (block + 1) * _BLOCK))


@njit(**JIT)
def _sum_shards(grads, begin, end):
    """Add the other shards to the first, in order; return the sum of the squares.

    What was read is set to 0: a core writes to what it alone has read or written last six times as
    fast as to what another one has read.
    """
    total = grads[0, begin:end]
    for shard in range(1, len(grads)):
        part = grads[shard, begin:end]
        for i in range(end - begin):
            total[i] += part[i]
            part[i] = 0
    square = 0.0
    for i in range(end - begin):
        square += np.float64(total[i]) * np.float64(total[i])
    return square


@njit(**JIT)
def _update(step, begin, end, shrink, limit):
    """Clip the gradient of the parameters ``begin`` to ``end``, scaled by ``shrink`` (global norm)
    and then limited to ±``limit``, where 1 and 0 change nothing; unless the rule is 0, update
    them."""
    grads, slots, spans = step.grads[0], step.slots, step.spans
    if shrink != 1:
        for i in range(begin, end):
            grads[i] *= shrink
    if limit > 0:
        for i in range(begin, end):
            grads[i] = min(max(grads[i], -limit), limit)
    for k in range(len(spans) if step.update != 0 else 0):
        first, last = max(begin, spans[k, 0]), min(end, spans[k, 1])
        if first < last:
            scalars = step.scalars[spans[k, 2]]
            call(step.update, (step.params, grads, slots, scalars, first, last))


def compile_step(dtype) -> None:
    """Compile `train_step`, or load it from the cache."""
    fields = types.Tuple(_step_types(PLAN, dtype))
    numbers = types.int64[::1], types.int64, types.float64, types.float64
    train_step.dispatcher.compile((*numbers, fields))


@cached
@njit(**ENTRY)
def loss_of(loss, logits, labels, sample_weights, targets, class_weights, loss_hyper, dlogits):
    """The summed loss of all rows, each times its weight (none: 1); ``dlogits`` receives the
    gradient of each row's own part."""
    total = 0.0
    for i in range(len(logits)):
        weight = sample_weights[i] if len(sample_weights) else logits.dtype.type(1)
        total += weight * call_loss(
            loss, logits[i], labels[i], targets[labels[i]], dlogits[i], class_weights, loss_hyper
        )
        row = dlogits[i]
        for k in range(len(row)):
            row[k] *= weight
    return total


@cached
@njit(**ENTRY)
def update(address, params, grads, slots, scalars, spans):
    """Apply the compiled update at ``address`` to ``spans`` (see `train_step`) on one thread."""
    for k in range(len(spans)):
        row = scalars[spans[k, 2]]
        call(address, (params, grads, slots, row, spans[k, 0], spans[k, 1]))


def reduction_blocks(count: int) -> int:
    """The number of partial sums of squares that ``train_step`` keeps for ``count`` parameters."""
    return -(-count // _BLOCK)
