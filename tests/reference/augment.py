"""The views of images in float64 NumPy, pixel by pixel in plain loops, from the same drawn numbers."""

import math

import numpy as np


def _bordered(y, size, border):
    if border == 1:
        return min(max(y, 0.0), size - 1.0)
    if border == 2:
        period = 2.0 * (size - 1)
        y = y % period if period else 0.0
        return min(y, period - y)
    return y


def _box(view, first, h, w):
    top, left, bottom, right = view[first : first + 4]
    return top <= h < bottom and left <= w < right


def view_of(images, number, views, scale, offset):
    """[H, W, C] of one image, without what is mixed into it."""
    image, view = images[number].astype(np.float64), views[number].astype(np.float64)
    height, width, channels = image.shape
    out = np.zeros(image.shape)
    for h in range(height):
        for w in range(width):
            if _box(view, 8, h, w):
                continue
            y, x = view[0] * h + view[1] * w + view[2], view[3] * h + view[4] * w + view[5]
            y, x = _bordered(y, height, view[12]), _bordered(x, width, view[12])
            pixel = np.zeros(channels)
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - row)) * (1 - abs(x - column))
                    if 0 <= row < height and 0 <= column < width:
                        pixel += weight * image[row, column]
            out[h, w] = (pixel * view[6] + view[7]) * scale + offset
    return out


def mixed_view(images, number, views, scale, offset):
    """The same with the part of its partner."""
    own, view = view_of(images, number, views, scale, offset), views[number].astype(np.float64)
    if view[13] < 0:
        return own
    other = view_of(images, int(view[13]), views, scale, offset)
    for h in range(own.shape[0]):
        for w in range(own.shape[1]):
            kept = 0.0 if _box(view, 16, h, w) else view[14]
            own[h, w] = kept * own[h, w] + (1 - kept) * other[h, w]
    return own
