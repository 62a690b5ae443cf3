"""A labelled set of images, checked once, when it is made."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minicnn.data.labels import Array, check_numbers, find_classes
from minicnn.data.reading import note, one_line
from minicnn.errors import DataError, SettingError, short
from minicnn.kinds import POSITIVE
from minicnn.rules import LossRule

ARRAYS = "arrays"  # the name of a set that is no file
Arrays = tuple[Array, ...]  # images, labels and, if there are any, the weights of the samples


class Contents(NamedTuple):
    """What a file or folder holds: the splits it has, and the names of the classes if there are
    any."""

    train: Arrays | None
    test: Arrays | None = None
    classes: tuple[str, ...] | None = None
    validation: Arrays | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels: uint8 or float32 [N, H, W, C], C-contiguous, and int64 [N].

    Where values are learnt ``labels`` are these, float32 [N, outputs]. ``weights`` [N], float32,
    say how much each image counts; None: 1.
    """

    images: Array
    labels: Array
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, test and validation images of one shape and dtype, and what their labels mean.

    ``maximum`` is the value that is scaled to 1: 255 for uint8, 1 for floats, or what was declared.
    Label ``i`` means ``classes[i]``. ``image_dtype`` is "uint16" where float32 images were that;
    ``labels`` are what a caller's own labels called the classes, None: by their numbers. ``task`` is
    as in `task_of`. ``seen`` is the range of standardised images, which have negative values and
    are not scaled; None: values are from 0 to ``maximum``.

    Raises `DataError` for: no image; numbers of images and labels that differ; a label outside the
    classes; NaN or infinity; values outside [0, maximum]; splits that differ in shape or dtype;
    weights below 0.
    """

    name: str
    train: Split
    test: Split | None
    classes: tuple[str, ...]
    maximum: float
    validation: Split | None = None
    image_dtype: str = ""
    labels: tuple[int | str, ...] | None = None
    task: str = "classification"
    seen: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Check everything again, since the arrays may have been written to; raises `DataError`."""
        POSITIVE.check("maximum", self.maximum)
        for split in (self.train, *self.splits.values()):
            if not isinstance(split, Split):
                raise DataError(f"{self.name}: a split must be a Split, not {short(split)}")
        if len(set(self.classes)) < len(self.classes):
            raise DataError(
                f"{self.name}: two classes have the same name ({', '.join(self.classes)})"
            )
        for kind, split in self.splits.items():
            self._check_split(kind, split)

    def _check_split(self, kind: str, split: Split) -> None:
        images, labels, train = split.images, split.labels, self.train.images
        if (
            images.ndim != 4
            or images.dtype not in (np.uint8, np.float32)
            or not images.flags.c_contiguous
        ):
            raise DataError(
                f"{self.name}: {kind} images must be C-contiguous uint8 or float32 [N, H, W, C], "
                f"not {images.dtype} {list(images.shape)}"
            )
        if images.size == 0:
            raise DataError(f"{self.name}: there is no {kind} image")
        if images.dtype != train.dtype or images.shape[1:] != train.shape[1:]:
            raise DataError(
                f"{self.name}: {kind} images are {images.dtype} {list(images.shape[1:])}, "
                f"but training images are {train.dtype} {list(train.shape[1:])}"
            )
        if len(labels) != len(images):
            raise DataError(f"{self.name}: {len(images)} {kind} images but {len(labels)} labels")
        has_classes = self.task == "classification"
        wanted = (len(images),) if has_classes else (len(images), len(self.classes))
        if labels.dtype != (np.int64 if has_classes else np.float32) or labels.shape != wanted:
            raise DataError(
                f"{self.name}: {kind} labels must be {'int64' if has_classes else 'float32'} {list(wanted)}, "
                f"not {labels.dtype} {list(labels.shape)}"
            )
        if has_classes:
            check_numbers(self.name, labels, len(self.classes), f"{kind} ")
        if split.weights is not None:
            as_weights(self.name, split.weights, len(images))
        check_values(self.name, images, self.maximum, self.seen)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by the names "training", "validation" and "test"."""
        every = {"training": self.train, "validation": self.validation, "test": self.test}
        return {kind: split for kind, split in every.items() if split is not None}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def scale(self) -> float:
        """The factor that takes a stored value to [0, 1]."""
        return 1 / self.maximum


def check_values(
    name: str, images: Array, maximum: float = math.inf, seen: tuple[float, float] | None = None
) -> None:
    """Raise `DataError` unless all values are finite and lie in [0, maximum].

    Standardised images must lie about where those of training did, which is ``seen``.
    """
    with np.errstate(invalid="ignore"):
        low, high = float(images.min()), float(images.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(
            f"{name}: the images hold a value that is not a finite number (NaN or infinity)"
        )
    if seen is not None:
        width = seen[1] - seen[0]
        if low < seen[0] - width or high > seen[1] + width:
            raise DataError(
                f"{name}: the images hold values from {low:g} to {high:g}, but the images trained on are "
                f"standardised, from {seen[0]:g} to {seen[1]:g}: bring these to the same mean and deviation"
            )
        return
    if low < 0:
        raise DataError(
            f"{name}: the images hold negative values (down to {low:g}); values must start at 0"
        )
    if high > maximum:
        raise DataError(
            f"{name}: the images hold values up to {high:g}, beyond the scale's end {maximum:g}; "
            "declare the maximum with maximum="
        )


def as_weights(name: str, weights: Array, count: int) -> Array:
    """``weights`` of ``count`` images as float32 [N]; raises `DataError` unless all are finite and
    at least 0."""
    usable = weights.dtype.kind in "buif" and weights.shape == (count,)
    if not usable or not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError(
            f"{name}: sample_weight must be {count} finite numbers from 0 on, not all of them 0"
        )
    return np.ascontiguousarray(weights, np.float32)


def as_array(name: str, value: Any) -> Array:
    """``value`` as an array; raises `DataError` for anything else, such as rows of different
    lengths, a generator or a path."""
    try:
        array = np.asarray(value)
    except Exception as error:  # of NumPy, or of the object that is to become an array
        raise DataError(f"the {name} are not an array: {one_line(error)}") from None
    if np.ma.is_masked(value):
        raise DataError(f"the {name} are a masked array: fill or leave out what is masked")
    if array.ndim == 0:
        raise DataError(f"the {name} must be an array, not {short(value)}")
    return array


def channels_last(array: Array, channels: str) -> Array:
    """``array`` as [N, H, W, C]: with ``channels`` "first" it is [N, C, H, W]."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 and channels == "first" else array


def as_images(name: str, array: Array) -> Array:
    """Return ``array`` as uint8 or float32 [N, H, W, C], without a copy if it is so already.

    Grey images [N, H, W] get a channel axis; everything but uint8 becomes float32. An array that
    looks like [N, C, H, W] is reported in one line.
    """
    if array.ndim not in (3, 4):
        raise DataError(
            f"{name}: images must have shape [N, H, W] or [N, H, W, C], not {list(array.shape)}"
        )
    if array.ndim == 4 and array.shape[1] in (1, 3, 4) and min(array.shape[2:]) > 4:
        note(
            f"{name}: images {list(array.shape)} are taken as height {array.shape[1]} and {array.shape[3]} channels; "
            "if the channels come first, say channels= first"
        )
    if array.dtype.kind not in "buif":
        raise DataError(f"{name}: images must be numbers, not {array.dtype}")
    if array.dtype != np.uint8:
        with np.errstate(
            over="ignore"
        ):  # what is beyond float32 becomes infinity, which check_values reports
            array = array.astype(np.float32, copy=False)
    return np.ascontiguousarray(array[..., np.newaxis] if array.ndim == 3 else array)


def natural_maximum(name: str, dtype: np.dtype[Any]) -> float:
    """Return the value that ``dtype`` scales to 1: that of uint8 and uint16 themselves, 1 for
    floats and bool."""
    if dtype.kind in "bf":
        return 1.0
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return float(np.iinfo(dtype).max)
    raise DataError(
        f"{name}: values of dtype {dtype} have no natural scale; declare the maximum with maximum="
    )


def build_dataset(
    name: str,
    train: Arrays,
    test: Arrays | None = None,
    *,
    classes: Iterable[Any] | None = None,
    maximum: float | None = None,
    validation: Arrays | None = None,
    outputs: int | None = None,
    loss: LossRule | None = None,
) -> Dataset:
    """Make a `Dataset` of raw arrays (images, labels) or (images, labels, weights).

    Labels may have any form that `plain_labels` takes or, for a ``loss`` on values, be these;
    ``classes`` and ``outputs`` are as in `find_classes`; with ``outputs`` the set also keeps what
    the labels called its classes. Floats with negative values and no ``maximum`` are standardised
    images. Raises `DataError` for a class without a training image, for a single class, and for a
    ``maximum`` that makes all images black.
    """
    if train[1].ndim < 3 and len(train[1]) != len(
        train[0]
    ):  # before the labels, for what they mean is then a guess
        raise DataError(f"{name}: {len(train[0])} training images but {len(train[1])} labels")
    found = find_classes(name, train[1], classes, outputs, loss)
    if found.task == "classification" and len(found.names) == 1:
        raise DataError(
            f"{name}: all training images are of one class, {found.names[0]!r}: there is nothing to tell apart"
        )

    def split(kind: str, arrays: Arrays) -> Split:
        images, labels, *weights = arrays
        return Split(
            as_images(name, images),
            found.targets(name, labels, f"{kind} "),
            as_weights(name, weights[0], len(images)) if weights else None,
        )

    first, seen, is_known = split("training", train), None, maximum is not None
    if maximum is None and train[0].dtype.kind == "f" and train[0].size and train[0].min() < 0:
        maximum, seen = 1.0, (float(train[0].min()), float(train[0].max()))
    dataset = Dataset(
        name,
        first,
        split("test", test) if test else None,
        found.names,
        float(natural_maximum(name, train[0].dtype) if maximum is None else maximum),
        split("validation", validation) if validation else None,
        "uint16" if train[0].dtype.newbyteorder("=") == np.uint16 else first.images.dtype.name,
        None if outputs is None else found.values,
        found.task,
        seen,
    )
    if is_known and 0 < (high := float(first.images.max())) < dataset.maximum / 1000:
        raise DataError(
            f"{name}: the training images hold values up to {high:g}, so on a scale that ends at "
            f"{maximum:g} they are black; declare the maximum with maximum="
        )
    for kind, arrays in (("test", test), ("validation", validation)):
        dtypes = train[0].dtype, (arrays or train)[0].dtype
        if not is_known and len({dtype.kind in "bf" for dtype in dtypes}) > 1:
            raise DataError(
                f"{name}: {kind} images are {dtypes[1]}, which has another scale than the "
                f"{dtypes[0]} of training: bring them to one dtype"
            )
    if found.task == "classification":
        present = np.bincount(first.labels, minlength=len(found.names))
        if not present.all():
            raise DataError(
                f"{name}: class {found.names[int(present.argmin())]!r} has no training image"
            )
    return dataset


def limited(labels: Array, limit: int | None, seed: int) -> Array:
    """The indices of ``limit`` images, sorted: every class in proportion, chosen by ``seed``; of
    all images if None."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    chosen = stratified_split(labels, 1 - limit / len(labels), seed)[0]
    return np.sort(
        np.random.default_rng(seed).permutation(chosen)[:limit]
    )  # there may be more classes than that


def stratified_split(labels: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Choose ``round(fraction * N)`` images for validation, every class in proportion (largest
    remainder).

    Every class keeps at least one image in training. Returns the indices (training, validation),
    int64, sorted; the same seed gives the same split. Raises `SettingError` unless 0 <= fraction <
    1.

    >>> train, validation = stratified_split(np.array([0, 1, 0, 1, 0, 1]), 1 / 3, seed=0)
    >>> len(train), len(validation)
    (4, 2)
    """
    if not 0 <= fraction < 1:
        raise SettingError(f"the fraction of images held out must be in [0, 1), not {fraction}")
    counts = np.bincount(labels)
    room = np.maximum(counts - 1, 0)
    quota = fraction * counts
    share = np.minimum(quota.astype(np.int64), room)
    for _ in range(min(round(fraction * len(labels)), int(room.sum())) - int(share.sum())):
        share[np.where(share < room, quota - share, -np.inf).argmax()] += 1

    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = place_in_class < np.repeat(share, counts)
    return np.sort(by_class[~held_out]), np.sort(by_class[held_out])
