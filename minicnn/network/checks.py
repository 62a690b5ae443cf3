"""Checks of the fields of a layer. Each returns the value in the form in which it is stored, or
raises `SettingError`."""

import math
import operator
import re
import sys
from collections.abc import Sequence
from typing import Literal

from minicnn.errors import SettingError

Pair = tuple[int, int]
Padding = Pair | tuple[int, int, int, int] | Literal["same"]


def times(shape: Sequence[int]) -> str:
    """``(3, 5)`` as text: ``3×5``."""
    return "×".join(map(str, shape))


def _is_integer(value: object, minimum: int) -> bool:
    return (
        hasattr(value, "__index__")
        and not isinstance(value, bool)
        and operator.index(value) >= minimum
    )


def integer(layer: str, field: str, value: object) -> int:
    """A whole number from 1 on."""
    if not _is_integer(value, 1):
        raise SettingError(f"{layer}: {field} must be a whole number from 1 on, not {value!r}")
    return operator.index(value)  # type: ignore[arg-type]


def pair(layer: str, field: str, value: object, minimum: int = 1) -> Pair:
    """A whole number, meant for height and width, or a pair (height, width)."""
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(_is_integer(one, minimum) for one in both):
        wanted = f"a whole number from {minimum} on or a pair of them (height, width)"
        raise SettingError(f"{layer}: {field} must be {wanted}, not {value!r}")
    return operator.index(both[0]), operator.index(both[1])


def padding(layer: str, field: str, value: object, four: bool = False) -> Padding:
    """A whole number, a pair (height, width), with ``four`` also (top, bottom, left, right),
    ``"valid"`` (none) or ``"same"``."""
    if (
        four
        and isinstance(value, tuple | list)
        and len(value) == 4
        and all(_is_integer(one, 0) for one in value)
    ):
        top, bottom, left, right = map(operator.index, value)
        return top, bottom, left, right
    if not isinstance(value, str):
        return pair(layer, field, value, minimum=0)
    if value not in ("same", "valid"):
        raise SettingError(
            f'{layer}: {field} must be a number, a pair of them, "same" or "valid", not {value!r}'
        )
    return "same" if value == "same" else (0, 0)


def name(layer: str, value: object) -> None:
    """A name of a layer, or None."""
    if value is not None and (
        not isinstance(value, str) or not re.fullmatch(r"[^\W\d][\w-]*", value)
    ):
        raise SettingError(
            f"{layer}: name must be a letter with letters, digits, _ and - after it, not {value!r}"
        )
    if value == "input":
        raise SettingError(
            f"{layer}: name must not be 'input', which is what the network's image is called"
        )


def names(layer: str, value: object) -> tuple[str, ...]:
    """Names of layers, or one name, as a tuple."""
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, tuple | list) or not all(isinstance(one, str) for one in several):
        raise SettingError(f"{layer}: inputs must be names of layers, not {value!r}")
    return tuple(several)


def number(
    layer: str,
    field: str,
    value: object,
    minimum: float = -math.inf,
    below: float = math.inf,
    closed: bool = False,
) -> float:
    """A finite number in [minimum, below), or with ``closed`` in [minimum, below]."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside = minimum <= value < below or (closed and value == below)
        if inside and abs(value) <= sys.float_info.max:
            return float(value)
    wanted = f"a number in [{minimum:g}, {below:g}{']' if closed else ')'}"
    if math.isinf(below):
        wanted = "a finite number" + (f" from {minimum:g} on" if minimum == 0 else "")
    raise SettingError(f"{layer}: {field} must be {wanted}, not {value!r}")


def flag(layer: str, field: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise SettingError(f"{layer}: {field} must be true or false, not {value!r}")
    return value
