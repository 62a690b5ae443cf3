"""Labels in their common forms, and the classes or values that they mean."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.data.reading import note
from minicnn.errors import DataError, short
from minicnn.rules import LossRule

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
        if not _is_one_hot(labels):
            raise DataError(
                f"{name}: labels {list(labels.shape)} are not one-hot: not every row has a single 1 among zeros; "
                "rows of several labels are for the loss binary_cross_entropy, rows of values for mse, mae and huber"
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
            f"{name}: labels must be whole class numbers or names, not {labels.dtype} such as {examples}; "
            "values are for the losses mse, mae and huber"
        )
    return labels.astype(np.int64)


def _is_one_hot(rows: Array) -> bool:
    return bool(np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all())


def task_of(labels: Array, loss: LossRule | None, outputs: int | None) -> str:
    """What is learnt: "classification", "multilabel" (rows of 0 and 1) or "regression" (values).

    A loss on values has classes too, where ``labels`` are whole numbers, names or one-hot rows and
    the network has more ``outputs`` than one (None: it is not known yet).
    """
    if loss is None or loss.target == "label" or labels.dtype.kind not in "buif":
        return "classification"
    is_binary = loss.probabilities == "sigmoid"
    if labels.ndim == 2 and labels.shape[1] > 1:
        has_classes = _is_one_hot(labels)
    elif outputs is None:
        has_classes = is_binary or labels.dtype.kind != "f"
    else:
        has_classes = outputs > 1 and (labels.dtype.kind != "f" or bool((labels % 1 == 0).all()))
    return "classification" if has_classes else "multilabel" if is_binary else "regression"


@dataclass(frozen=True)
class Classes:
    """The classes by number: ``names``, and ``values``, what labels call them (None: by their
    numbers, 0, 1, ...). For another ``task`` than "classification" they are the network's
    outputs."""

    names: tuple[str, ...]
    values: tuple[int | str, ...] | None = None
    task: str = "classification"

    def targets(self, name: str, labels: Array, kind: str = "") -> Array:
        """``labels`` of any form as a split keeps them: class numbers int64 [N], or the target
        values float32 [N, outputs]."""
        if self.task == "classification":
            return self.numbers(name, plain_labels(name, labels), kind)
        rows = labels[:, np.newaxis] if labels.ndim == 1 else labels
        outputs = len(self.names)
        if rows.dtype.kind not in "buif" or rows.ndim != 2 or rows.shape[1] != outputs:
            raise DataError(
                f"{name}: the {kind}targets must be numbers [N, {outputs}], one for each output of the network, "
                f"not {labels.dtype} {list(labels.shape)}"
            )
        rows = np.ascontiguousarray(rows, np.float32)
        if not np.isfinite(rows).all():
            raise DataError(f"{name}: the {kind}targets hold a value that is not finite")
        if self.task == "multilabel" and not np.isin(rows, (0, 1)).all():
            raise DataError(f"{name}: the {kind}targets of binary cross-entropy must be 0 or 1")
        return rows

    def numbers(self, name: str, labels: Array, kind: str = "") -> Array:
        """The class numbers, int64 [N], of labels as `plain_labels` gives them; names of classes
        are understood too.

        Errors name the set and the ``kind`` of its images, such as "test ".
        """
        if self.values is None and labels.dtype.kind == "i":
            check_numbers(name, labels, len(self.names), kind)
            return labels
        known = self.names if self.values is None or labels.dtype.kind == "U" else self.values
        places: dict[int | str, int] = {value: i for i, value in enumerate(known)}
        unknown = [label for label in np.unique(labels).tolist() if label not in places]
        if unknown:
            raise DataError(
                f"{name}: the {kind}label {unknown[0]!r} is none of the classes {listing(known)}"
            )
        return np.array([places[label] for label in labels.tolist()], np.int64)


def check_numbers(name: str, labels: Array, count: int, kind: str) -> None:
    """Raise `DataError`, which names the set and the ``kind`` of its images, such as "test ", for a
    label that is none of the class numbers below ``count``."""
    outside = (labels < 0) | (labels >= count)
    if outside.any():
        first = int(outside.argmax())
        raise DataError(
            f"{name}: label {labels[first]} of {kind}image {first} is outside the {count} classes "
            f"(0 to {count - 1})"
        )


def find_classes(
    name: str,
    labels: Array,
    given: Iterable[Any] | None,
    outputs: int | None = None,
    loss: LossRule | None = None,
) -> Classes:
    """The classes of training labels in any form, or what the outputs are that learn values.

    ``given`` are the names of the classes, or their values, such as ``np.unique(y)``. Without them
    the classes are the labels that there are, sorted; ``outputs``, the number of classes that is
    expected, tells a class that has no image from a gap. Where labels do not count from 0, a line
    says what was made of them.
    """
    if isinstance(given, Mapping | Set) or not isinstance(given, Iterable | None):
        raise DataError(
            f"{name}: classes must be a list, in the order of the outputs, not {short(given)}"
        )
    names = None if given is None else tuple(given)
    task = task_of(labels, loss, outputs)
    if task != "classification":
        kind = "label" if task == "multilabel" else "output"
        width = outputs or (labels.shape[1] if labels.ndim == 2 else 1)
        return Classes(tuple(map(str, names or (f"{kind} {k}" for k in range(width)))), None, task)
    labels = plain_labels(name, labels)
    present = np.unique(labels).tolist()
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
