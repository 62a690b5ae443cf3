"""The values that an option admits, defined once for its check, its error message and its help."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

from minicnn.errors import SettingError


@dataclass(frozen=True)
class Kind:
    """The values that an option admits: those of ``type`` that are ``within`` its range."""

    type: Any
    words: str
    metavar: str = ""
    within: Callable[[Any], bool] = lambda value: True

    def admits(self, value: object) -> bool:
        """Whether ``value`` is one of them; an int counts as a float, a bool counts as neither."""
        of = (int, float) if self.type is float else self.type
        is_number = self.type not in (int, float) or not isinstance(value, bool)
        return isinstance(value, of) and is_number and self.within(value)

    def check(self, name: str, value: object) -> None:
        """Raise `SettingError` unless ``value``, with Python's numbers, is one of them."""
        if not self.admits(plain(value)):
            raise SettingError(f"{name} must be {self.words}, not {shortened(value)}")


_MOST = sys.float_info.max  # whole numbers have no end
COUNT = Kind(int, "a whole number from 1 on", "N", lambda value: value >= 1)
INDEX = Kind(int, "a whole number from 0 on", "N", lambda value: value >= 0)
AMOUNT = Kind(float, "a finite number from 0 on", "X", lambda value: 0 <= value <= _MOST)
POSITIVE = Kind(float, "a finite number above 0", "X", lambda value: 0 < value <= _MOST)
FRACTION = Kind(float, "a number from 0 to below 1", "X", lambda value: 0 <= value < 1)
NAME = Kind(str, "a name", "NAME")
DATA = Kind(str, "a name or path", "NAME|PATH")
MODEL = Kind(str, "a name or path", "NAME|FILE.toml")
SIZE = Kind(
    list,
    "[height, width]",
    "HxW",
    lambda value: len(value) == 2 and all(type(side) is int and side > 0 for side in value),
)
PATTERNS = Kind(
    list,
    "names or patterns",
    "PATTERN",
    lambda value: bool(value) and all(type(pattern) is str for pattern in value),
)
FLAG = Kind(bool, "true or false")
TABLE = Kind(
    dict,
    "a table of names and values",
    "K=V",
    lambda value: all(isinstance(key, str) for key in value),
)
DURATION = Kind(
    float,
    "seconds above 0, or text such as 90s, 10m or 1.5h",
    "TIME",
    lambda value: 0 < value <= _MOST,
)


def _are_weights(value: Any) -> bool:
    numbers = list(value.values() if isinstance(value, dict) else value)
    return value == "balanced" or (numbers != [] and all(map(POSITIVE.admits, numbers)))


WEIGHTS = Kind(
    (str, list, dict),
    "balanced, numbers above 0, one per class, or class=number",
    "X|CLASS=X",
    _are_weights,
)


def one_of(*names: str) -> Kind:
    """The kind of an option that has one of these values."""
    return Kind(str, " or ".join(names), "|".join(names), names.__contains__)


def plain(value: Any, levels: int = 2) -> Any:
    """``value`` with Python's numbers and lists in the place of others, such as NumPy's, as deep as
    options go."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if levels and isinstance(value, dict):
        return {key: plain(item, levels - 1) for key, item in value.items()}
    if levels and isinstance(value, list | tuple):
        return [plain(item, levels - 1) for item in value]
    return value
