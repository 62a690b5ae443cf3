"""The images of a batch, scaled and augmented, into the first operation's x."""

import functools

import numpy as np
from numba import from_dtype, njit, types

from minicnn.kernels import augment
from minicnn.kernels.augment import BORDER, BOX, CUTOUT, GAIN, KEPT, PARTNER, SHIFT
from minicnn.kernels.cpu.cache import cached
from minicnn.kernels.cpu.call import TABLE, call, compiled
from minicnn.kernels.cpu.tile import ENTRY, JIT

_bordered, _between, _inside = map(njit(**JIT), (augment.bordered, augment.between, augment.inside))


@njit(**JIT)
def gather(plan, work, images, order, start, n, scale, views):
    """x[i] = images[order[start + i]] · scale[0] + scale[1], with a column for each channel or one
    for all."""
    op, channels = plan[0], scale.shape[1]
    size = op.input_size
    for i in range(n):
        x = work[op.x + i * size : op.x + (i + 1) * size]
        image = images[order[start + i]]
        if channels == 1:
            factor, offset = scale[0, 0], scale[1, 0]
            for j in range(size):
                x[j] = work.dtype.type(image[j]) * factor + offset
        else:
            for pixel in range(0, size, channels):
                for c in range(channels):
                    value = work.dtype.type(image[pixel + c])
                    x[pixel + c] = value * scale[0, c] + scale[1, c]


@njit(**JIT)
def gather_views(plan, work, images, order, start, n, scale, views):
    """The same of augmented views: ``views`` [N, columns] of all images (`kernels.augment`)."""
    op = plan[0]
    shape = op.image_height, op.image_width, op.image_channels
    for i in range(n):
        image = order[start + i]
        x = work[op.x + i * op.input_size : op.x + (i + 1) * op.input_size]
        if _is_whole(views[image]):
            _whole_view(x, images, image, views[image], scale, shape)
        else:
            _view(x, images, image, views, scale, shape, np.int64(-1))
        partner = np.int64(views[image, PARTNER])
        if partner >= 0:
            _view(x, images, partner, views, scale, shape, image)


@functools.cache
def gather_address(dtype, image_dtype, augmented: bool) -> int:
    """Address of `gather`, or of `gather_views` for ``augmented``, compiled for images of
    ``image_dtype``."""
    number, integer = from_dtype(np.dtype(dtype)), types.int64
    images = from_dtype(np.dtype(image_dtype))[:, ::1]
    given = images, integer[::1], integer, integer, number[:, ::1], types.float32[:, ::1]
    return compiled(gather_views if augmented else gather, TABLE, number[::1], *given).address


@njit(**JIT)
def _is_whole(v):
    """Whether a view is mirrored and moved by whole pixels alone."""
    mirrors = abs(v[0]) == 1 and v[1] == 0 and v[3] == 0 and abs(v[4]) == 1
    return mirrors and v[2] == np.int64(v[2]) and v[5] == np.int64(v[5])


@njit(**JIT)
def _whole_view(x, images, image, v, scale, shape):
    """`_view` where it `_is_whole`, line by line: the columns that lie inside at once."""
    (height, width, channels), across, left = shape, np.int64(v[4]), np.int64(v[5])
    begin = max(0, -left if across > 0 else left - width + 1)
    end = max(begin, min(width, width - left if across > 0 else left + 1))
    given = images, image, v, scale, channels
    for h in range(height):
        y = np.int64(_bordered(v[0] * np.float32(h) + v[2], height, v[BORDER]))
        is_row = 0 <= y < height
        inner = end - begin if is_row else 0
        for outer in range(width - inner):
            w = outer if outer < begin or not is_row else outer + inner
            z = np.int64(_bordered(np.float32(across * w + left), width, v[BORDER]))
            first = y * width + z if is_row and 0 <= z < width else np.int64(-1)
            _pixels(x, h * width + w, given, first, 1, across)
        first = y * width + across * begin + left
        _pixels(x, h * width + begin, given, first, inner, across)
    top, bottom = max(0, np.int64(v[CUTOUT])), min(height, np.int64(v[CUTOUT + 2]))
    for h in range(top, bottom):
        for w in range(max(0, np.int64(v[CUTOUT + 1])), min(width, np.int64(v[CUTOUT + 3]))):
            for c in range(channels):
                x[(h * width + w) * channels + c] = 0


@njit(**JIT)
def _pixels(x, place, given, first, count, across):
    """``count`` pixels of an image from number ``first`` on, to the right or to the left, into x
    from ``place`` on; 0 where ``first`` is negative."""
    images, image, v, scale, channels = given
    number, gain, shift, pixels = x.dtype.type, v[GAIN], v[SHIFT], images[image]
    if scale.shape[1] == 1 and across > 0 and first >= 0:
        factor, offset = scale[0, 0], scale[1, 0]
        for j in range(count * channels):
            raw = np.float32(pixels[first * channels + j])
            x[place * channels + j] = number(raw * gain + shift) * factor + offset
        return
    for c in range(channels):
        factor, offset = scale[0, c % scale.shape[1]], scale[1, c % scale.shape[1]]
        if first < 0:
            for i in range(count):
                x[(place + i) * channels + c] = number(shift) * factor + offset
            continue
        at, step = first * channels + c, across * channels
        for i in range(count):
            raw = np.float32(pixels[at + i * step])
            x[(place + i) * channels + c] = number(raw * gain + shift) * factor + offset


@njit(**JIT)
def _view(x, images, image, views, scale, shape, into):
    """Write the view of ``image``, or mix it into that of the image ``into``, which ``x`` holds."""
    number, (height, width, channels) = x.dtype.type, shape
    step = 1 if scale.shape[1] > 1 else 0
    v = views[image]
    a, b, c0, d, e, f = v[0], v[1], v[2], v[3], v[4], v[5]
    gain, shift, border = v[GAIN], v[SHIFT], v[BORDER]
    for h in range(height):
        for w in range(width):
            kept = np.float32(0)
            if into >= 0 and not _inside(views[into], BOX, h, w):
                kept = views[into, KEPT]
            if kept < 1:
                y = _bordered(a * np.float32(h) + b * np.float32(w) + c0, height, border)
                z = _bordered(d * np.float32(h) + e * np.float32(w) + f, width, border)
                is_cut = _inside(v, CUTOUT, h, w)
                row, column = np.int64(y), np.int64(z)
                is_pixel = y == row and z == column  # the one between which `_between` would be
                is_inside = 0 <= row < height and 0 <= column < width
                first = (row * width + column) * channels
                for c in range(channels):
                    value = number(0)
                    if not is_cut:
                        raw = np.float32(0)
                        if not is_pixel:
                            raw = _between(images, image, height, width, channels, y, z, c)
                        elif is_inside:
                            raw = np.float32(images[image, first + c])
                        value = number(raw * gain + shift) * scale[0, c * step] + scale[1, c * step]
                    place = (h * width + w) * channels + c
                    if kept > 0:
                        value = number(kept) * x[place] + (number(1) - number(kept)) * value
                    x[place] = value


@cached
@njit(**ENTRY)
def show(gather, plan, out, images, order, scale, views):
    """Write the views of the images ``order`` into ``out``, for the image's sizes in ``plan[0]``."""
    call(gather, (plan, out, images, order, 0, len(order), scale, views))


def opaque(images: np.ndarray) -> np.ndarray:
    """``images`` [N, numbers] as an array of bytes of that shape, which only the compiled gather
    knows how to read: what hands them on is compiled once for all dtypes."""
    return images if images.dtype == np.uint8 else np.ndarray(images.shape, np.uint8, images)
