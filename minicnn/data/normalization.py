"""Mean and deviation of images by channel, and what takes stored values to the network's input."""

import functools
from typing import Any

import numpy as np

from minicnn.data.labels import Array
from minicnn.errors import DataError

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation by channel


def as_normalization(stored: Any, channels: int) -> Normalization | None:
    """``stored`` as mean and deviation of so many channels, or None; raises `DataError` for what is
    neither."""
    if stored is None:
        return None
    try:
        numbers = np.array(stored, float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (2, channels) or not np.isfinite(numbers).all():
        raise DataError(f"normalization must be mean and deviation of {channels} channels")
    if numbers[1].min() <= 0:
        raise DataError("normalization has a deviation that is not above 0")
    return tuple(numbers[0].tolist()), tuple(numbers[1].tolist())


@functools.lru_cache(maxsize=16)  # made anew, factors took 5 µs of each call for one image
def channel_scale(maximum: float, normalization: Normalization | None) -> float | Array:
    """What turns stored values into the network's input: the factor 1 / ``maximum``, or, if values
    are normalized, factors and offsets [2, C] of the channels, read-only. The same object each
    time."""
    if normalization is None:
        return 1 / maximum
    mean, deviation = np.array(normalization)
    scale = np.stack([1 / (float(maximum) * deviation), -mean / deviation])
    scale.setflags(write=False)
    return scale


def scaled(images: Array, scale: float | Array, dtype: Any = np.float32) -> Array:
    """``images`` [..., C] as the network reads them; ``scale`` is that of `channel_scale`."""
    factor, offset = (scale, 0) if isinstance(scale, float) else scale.astype(dtype)
    result: Array = images.astype(dtype) * np.asarray(factor, dtype) + np.asarray(offset, dtype)
    return result


def measure(images: Array, order: Array, maximum: float) -> Normalization:
    """Mean and deviation by channel of ``images[order]`` [N, H, W, C], over ``maximum``; of a
    channel that has one value the deviation is taken for 1."""

    def mean(of: Any) -> Array:
        sums = [
            of(images[order[i : i + 1024]].astype(np.float64)).sum(axis=(0, 1, 2))
            for i in range(0, len(order), 1024)
        ]
        return np.sum(sums, axis=0) / (len(order) * images[0, ..., 0].size)

    middle = mean(lambda x: x)
    deviation = np.sqrt(mean(lambda x: (x - middle) ** 2))
    deviation = np.where(deviation > 0, deviation, maximum)
    return tuple((middle / maximum).tolist()), tuple((deviation / maximum).tolist())
