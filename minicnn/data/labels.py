"""Labels in the forms that people have them, and the classes that they mean."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.data.reading import note
from minicnn.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


def plain_labels(name: str, labels: Array) -> Array:
    """Return labels as int64 [N] or, if they are names, as str [N].

    ``labels`` is [N] or [N, 1] of whole numbers of any dtype (floats too), bools or strings; or
    one-hot rows [N, classes] with a single 1 each.
    """
    if labels.dtype == object:
        labels = np.array(labels.tolist())
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "buif":
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise DataError(
                f"{name}: labels {list(labels.shape)} are not one-hot: not every row has a single 1 among zeros"
            )
        labels = labels.argmax(axis=1)
    if labels.ndim != 1:
        raise DataError(
            f"{name}: labels must be [N], [N, 1] or one-hot rows [N, classes], not {list(labels.shape)}"
        )
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "backslashreplace")
    if labels.dtype.kind == "U":
        return labels
    whole = labels.dtype.kind in "bui" or (
        labels.dtype.kind == "f" and (np.trunc(labels) == labels).all()
    )
    if not whole or (len(labels) and not -(2.0**63) <= labels.min() <= labels.max() < 2.0**63):
        examples = listing(labels[:3].tolist())
        raise DataError(
            f"{name}: labels must be whole class numbers or names, not {labels.dtype} such as {examples}"
        )
    return labels.astype(np.int64)


@dataclass(frozen=True)
class Classes:
    """The classes by number: ``names``, and ``values``, what labels call them (None: by their
    numbers, 0, 1, ...)."""

    names: tuple[str, ...]
    values: tuple[int | str, ...] | None = None

    def numbers(self, name: str, labels: Array, kind: str = "") -> Array:
        """The class numbers, int64 [N], of labels as `plain_labels` gives them; names of classes
        are understood too.

        Errors name the set and the ``kind`` of its images, such as "test ".
        """
        if self.values is None and labels.dtype.kind == "i":
            outside = (labels < 0) | (labels >= len(self.names))
            if outside.any():
                raise DataError(
                    f"{name}: label {labels[outside][0]} of {kind}image {outside.argmax()} is outside the "
                    f"{len(self.names)} classes (0 to {len(self.names) - 1})"
                )
            return labels
        known = self.names if self.values is None or labels.dtype.kind == "U" else self.values
        places: dict[int | str, int] = {value: i for i, value in enumerate(known)}
        unknown = [label for label in np.unique(labels).tolist() if label not in places]
        if unknown:
            raise DataError(
                f"{name}: the {kind}label {unknown[0]!r} is none of the classes {listing(known)}"
            )
        return np.array([places[label] for label in labels.tolist()], np.int64)


def find_classes(
    name: str, labels: Array, given: Iterable[Any] | None, outputs: int | None = None
) -> Classes:
    """The classes of training labels, as `plain_labels` gives them.

    ``given`` are the names of the classes, or their values, such as ``np.unique(y)``. Without them
    the classes are the labels that there are, sorted; ``outputs``, the number of classes that is
    expected, tells a class that has no image from a gap. Where labels do not count from 0, a line
    says what was made of them.
    """
    present = np.unique(labels).tolist()
    names = None if given is None else tuple(given)
    count = (outputs or len(present)) if names is None else len(names)
    if names is not None and not all(isinstance(value, str) for value in names):
        values = tuple(plain_labels(f"{name}: classes", np.array(names)).tolist())
        return Classes(tuple(map(str, values)), None if values == tuple(range(count)) else values)
    if labels.dtype.kind == "U":
        values = tuple(map(str, present if names is None else names))
        found = Classes(values, values)
        if names is not None:
            return found
    elif not present or len(present) != count or (0 <= present[0] and present[-1] < count):
        return Classes(tuple(map(str, names or range(count))))
    else:
        found = Classes(tuple(map(str, names or present)), tuple(present))
    note(f"{name}: the labels {listing(present)} are the classes 0 to {len(found.names) - 1}")
    return found


def listing(values: Iterable[object], most: int = 12) -> str:
    """The values with commas between them, the middle left out where they are many."""
    texts = [str(value) for value in values]
    return ", ".join(texts if len(texts) <= most else [*texts[: most - 1], "...", texts[-1]])
