"""The images of a batch, scaled and augmented, into the first operation's x."""

import functools

import numpy as np
from numba import cuda, float32, types

from minicnn.kernels import augment
from minicnn.kernels.augment import BORDER, BOX, CUTOUT, GAIN, KEPT, PARTNER, SHIFT
from minicnn.kernels.cuda.launches import INTEGER, NUMBERS, PLAN, ROWS
from minicnn.kernels.cuda.tile import THREADS, device

_bordered, _between, _inside = map(device, (augment.bordered, augment.between, augment.inside))


@functools.cache
def gather_signature(images):
    """The signature of `gather` for images of the Numba type ``images``, uint8 or float32."""
    return types.void(
        PLAN, NUMBERS, images[:, ::1], types.int64[::1], INTEGER, INTEGER, types.float32
    )


@functools.cache
def channels_signature(images):
    """The signature of `gather_channels`."""
    return types.void(PLAN, NUMBERS, images[:, ::1], types.int64[::1], INTEGER, INTEGER, ROWS)


@functools.cache
def views_signature(images):
    """The signature of `gather_views`."""
    given = images[:, ::1], types.int64[::1], INTEGER, INTEGER, ROWS, ROWS, INTEGER
    return types.void(PLAN, NUMBERS, *given)


def gather_channels(plan, work, images, order, start, n, scale):
    """The same with the factors and offsets [2, C] of the channels."""
    size, x0 = plan[0].input_size, plan[0].x
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        image = order[start + i]
        for j in range(cuda.threadIdx.x, size, THREADS):
            c = j % scale.shape[1]
            value = np.float32(images[image, j]) * scale[0, c] + scale[1, c]
            work[np.uint64(x0 + i * size + j)] = value


def gather(plan, work, images, order, start, n, scale):
    """x[i] = images[order[start + i]] · scale; ``images`` [N, H·W·C] uint8 or float32."""
    size, x0 = plan[0].input_size, plan[0].x
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        image = order[start + i]
        for j in range(cuda.threadIdx.x, size, THREADS):
            work[np.uint64(x0 + i * size + j)] = np.float32(images[image, j]) * scale


def gather_views(plan, work, images, order, start, n, scale, views, resident):
    """The same of augmented views, a thread per pixel: ``views`` [N, columns] of all images
    (`minicnn.kernels.augment`), ``scale`` [2, channels or 1].

    With ``resident`` 0 ``images`` holds the batch alone, and behind it the partners of all of it.
    """
    op = plan[0]
    size, channels = op.image_height * op.image_width, op.image_channels
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        image = order[start + i]
        partner = int(views[image, PARTNER])
        for pixel in range(cuda.threadIdx.x, size, THREADS):
            h, w = pixel // op.image_width, pixel % op.image_width
            spot = op.x + (i * size + pixel) * channels, h, w
            row = image if resident != 0 else i
            _show(op, work, spot, images, row, views[image], scale, float32(0))
            if partner >= 0:
                kept = float32(0) if _inside(views[image], BOX, h, w) else views[image, KEPT]
                row = partner if resident != 0 else n + i
                _show(op, work, spot, images, row, views[partner], scale, kept)


@device
def _show(op, work, spot, images, row, v, scale, kept):
    """The pixel of the view ``v`` of ``images[row]`` at ``spot``, (place in ``work``, h, w); the
    part ``kept`` of what is there stays."""
    place, h, w = spot
    height, width, channels = op.image_height, op.image_width, op.image_channels
    y = _bordered(v[0] * float32(h) + v[1] * float32(w) + v[2], height, v[BORDER])
    x = _bordered(v[3] * float32(h) + v[4] * float32(w) + v[5], width, v[BORDER])
    is_cut = _inside(v, CUTOUT, h, w)
    for c in range(channels):
        value, column = float32(0), min(c, scale.shape[1] - 1)
        if not is_cut:
            raw = _between(images, row, height, width, channels, y, x, c)
            value = (raw * v[GAIN] + v[SHIFT]) * scale[0, column] + scale[1, column]
        if kept > 0:
            value = kept * work[np.uint64(place + c)] + (float32(1) - kept) * value
        work[np.uint64(place + c)] = value
