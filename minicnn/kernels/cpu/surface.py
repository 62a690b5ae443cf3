"""The loss at many weights: params + c · direction for every c of a row, doing once what they have
in common.

Let k be the first operation that the direction changes. All before k is the same for every c, and a
convolution or a dense layer is ``linear`` in its weights (anything else runs anew for each c):

    y(c) = y_params + c · y_direction            two products a row, where there was one for each c

Where the direction changes k alone, and there only some channels (one weight changes one), all
other channels are the same for every c too, and so is their share in g, the next layer with
weights. That share is computed once, and for each c the ``packed`` layers, which have no other
channels, add the rest. Threads take chunks of images.
"""

import numpy as np
from numba import njit, prange

from minicnn.kernels.cpu.call import call_loss
from minicnn.kernels.cpu.passes import forward_chunk
from minicnn.kernels.cpu.team import over_threads
from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import copy


@njit(**JIT)
def _run(plan, params, work, n):
    """The operations of ``plan``, if there are any, on ``n`` images; without dropout there is no
    need of a key."""
    forward_chunk(plan, params, work, n, np.uint64(0), 0)


@njit(**JIT)
def _pick(op, channels, work, n, out):
    """out[m, j] = the output of the layer, [pixels, channels], in those ``channels`` alone."""
    at = 0
    for pixel in range(n * op.output_height * op.output_width):
        for channel in channels:
            out[at] = work[op.y + pixel * op.output_channels + channel]
            at += 1
    return at


@njit(**JIT)
def _chunk(
    before,
    changing,
    following,
    packed,
    rest,
    params,
    fixed,
    packed_params,
    direction,
    tail,
    channels,
    coordinates,
    linear,
    x,
    labels,
    targets,
    class_weights,
    loss,
    loss_hyper,
    work,
    y_params,
    y_direction,
    share,
    moved,
    dlogits,
    totals,
):
    """totals[i] = summed loss of the images x at the i-th coordinate."""
    n, layer = len(x), changing[0]
    first = before[0] if len(before) > 0 else layer
    for i in range(n):
        for j in range(first.input_size):
            work[first.x + i * first.input_size + j] = x[i, j]
    _run(before, params, work, n)
    size = 0
    if linear:
        _run(changing, direction, work, n)
        _pick(layer, channels, work, n, y_direction)
        _run(changing, params, work, n)
        size = _pick(layer, channels, work, n, y_params)
    joint, shared = layer, 0
    if len(packed) > 0:
        joint = packed[len(packed) - 1]
        shared = n * joint.output_size
        _run(following, fixed, work, n)
        copy(work, joint.y, share, np.int64(0), shared)
    last = rest[len(rest) - 1] if len(rest) > 0 else joint
    begin, end = tail
    rest_params = params
    if end > begin:
        rest_params = moved
        copy(params, np.int64(0), moved, np.int64(0), len(params))
    # Slices, whose indices begin at 0, are what LLVM vectorizes.
    tail_params, tail_direction, tail_moved = (
        params[begin:end],
        direction[begin:end],
        moved[begin:end],
    )
    z, after = work[layer.y : layer.y + size], work[joint.y : joint.y + shared]
    for index in range(len(coordinates)):
        c = work.dtype.type(coordinates[index])
        for i in range(end - begin):
            tail_moved[i] = tail_params[i] + c * tail_direction[i]
        if linear:
            for i in range(size):
                z[i] = y_params[i] + c * y_direction[i]
        else:
            _run(changing, rest_params, work, n)
        _run(packed, packed_params, work, n)
        for i in range(shared):
            after[i] += share[i]
        _run(rest, rest_params, work, n)
        total = 0.0
        for i in range(n):
            logits = work[last.y + i * last.output_size : last.y + (i + 1) * last.output_size]
            total += call_loss(
                loss, logits, labels[i], targets[labels[i]], dlogits, class_weights, loss_hyper
            )
        totals[index] = total


@over_threads
def loss_row(
    before,
    changing,
    following,
    packed,
    rest,
    params,
    fixed,
    packed_params,
    direction,
    tail,
    channels,
    coordinates,
    linear,
    images,
    labels,
    targets,
    class_weights,
    loss,
    loss_hyper,
    work,
    y_params,
    y_direction,
    share,
    moved,
    dlogits,
    totals,
):
    """totals[chunk, i] = summed loss of the chunk's images at params + coordinates[i] · direction.

    The operations: all ``before`` k; k, which is ``changing``; ``following`` from there to g, and
    the same ``packed``, with the changing ``channels`` alone (both empty: nothing is shared); the
    ``rest``. ``fixed`` [P] are the parameters of g without the changing channels, ``packed_params``
    those channels' weights; ``tail`` is the range (begin, end) of parameters after k that the
    direction changes. ``images`` [N, H·W·C] are scaled. The buffers from ``work`` to ``dlogits``
    have one row a thread.
    """
    threads, size = len(work), changing[0].chunk
    for thread in prange(threads):
        for chunk in range(thread, len(totals), threads):
            begin, end = chunk * size, min(len(images), (chunk + 1) * size)
            _chunk(
                before,
                changing,
                following,
                packed,
                rest,
                params,
                fixed,
                packed_params,
                direction,
                tail,
                channels,
                coordinates,
                linear,
                images[begin:end],
                labels[begin:end],
                targets,
                class_weights,
                loss,
                loss_hyper,
                work[thread],
                y_params[thread],
                y_direction[thread],
                share[thread],
                moved[thread],
                dlogits[thread],
                totals[chunk],
            )
