"""What an augmented view of an image is, a pixel at a time: the same source for the CPU and CUDA.

A view is a row of float32 numbers (`minicnn.data.augment`), under these columns. Pixel (h, w) shows

    (y, x) = (v₀·h + v₁·w + v₂, v₃·h + v₄·w + v₅)

of the image, between pixels bilinear, times `GAIN` plus `SHIFT`; inside the box at `CUTOUT` the
network's input is 0. Where `PARTNER` is an image, its view has the part 1 − `KEPT` outside the box
at `BOX` and all inside, and the part 1 − `SHARE` of the loss. A box is top, left, bottom, right.
"""

import math

import numpy as np

GAIN, SHIFT, CUTOUT, BORDER, PARTNER, KEPT, SHARE, BOX, COLUMNS = 6, 7, 8, 12, 13, 14, 15, 16, 20
BORDERS = ("zero", "edge", "reflect")


def bordered(y, size, border):
    """The coordinate inside the image that stands for ``y``; border zero leaves it outside."""
    last = np.float32(size - 1)
    if border == 2:
        period = max(last + last, np.float32(1))
        y = abs(y)
        y -= period * np.float32(math.floor(y / period))
        y = min(y, period - y)
    if border > 0:
        y = min(max(y, np.float32(0)), last)
    return y


def between(images, image, height, width, channels, y, x, c):
    """Channel ``c`` of ``images`` [N, H·W·C] at (y, x), between four pixels; outside there is 0."""
    top, left = math.floor(y), math.floor(x)
    below, right = y - np.float32(top), x - np.float32(left)
    total = np.float32(0)
    for i in range(2):
        row = np.int64(top) + i
        of_row = below if i == 1 else np.float32(1) - below
        if of_row > 0 and 0 <= row < height:
            for j in range(2):
                column = np.int64(left) + j
                weight = of_row * (right if j == 1 else np.float32(1) - right)
                if weight > 0 and 0 <= column < width:
                    value = images[image, (row * width + column) * channels + c]
                    total += weight * np.float32(value)
    return total


def inside(view, box, h, w):
    """Whether pixel (h, w) lies in the box that begins at column ``box``."""
    row, column = np.float32(h), np.float32(w)
    return view[box] <= row < view[box + 2] and view[box + 1] <= column < view[box + 3]
