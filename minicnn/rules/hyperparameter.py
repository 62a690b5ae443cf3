"""A named number that a rule can be tuned by, with its default and the range that it admits."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from minicnn.errors import SettingError, UnknownNameError


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a rule.

    ``minimum`` and ``maximum`` belong to the range unless ``open_minimum`` or ``open_maximum`` say otherwise:
    ``Hyperparameter("beta1", 0.9, 0.0, 1.0, open_maximum=True)`` admits [0, 1).
    """

    name: str
    default: float
    minimum: float = -math.inf
    maximum: float = math.inf
    open_minimum: bool = False
    open_maximum: bool = False
    meaning: str = ""

    @property
    def range(self) -> str:
        """The admitted range in interval notation, such as ``[0, 1)``."""
        left = "(" if self.open_minimum or math.isinf(self.minimum) else "["
        right = ")" if self.open_maximum or math.isinf(self.maximum) else "]"
        return f"{left}{self.minimum:g}, {self.maximum:g}{right}"

    def check(self, owner: str, value: object) -> float:
        """Return ``value`` as a float; raise `SettingError` naming ``owner`` if it is outside the range."""
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise SettingError(f"{owner}: {self.name} must be a number, not {value!r}") from None
        above = number > self.minimum if self.open_minimum else number >= self.minimum
        below = number < self.maximum if self.open_maximum else number <= self.maximum
        if not (above and below and math.isfinite(number)):
            raise SettingError(f"{owner}: {self.name} must be a number in {self.range}, not {value!r}")
        return number


def resolve(owner: str, declared: Iterable[Hyperparameter], given: Mapping[str, object]) -> dict[str, float]:
    """Return the value of every declared hyperparameter: the given one, checked, or the default.

    Raises `UnknownNameError`, which lists the declared names, for a name that ``owner`` does not have.
    """
    declared = tuple(declared)
    names = [hyper.name for hyper in declared]
    for name in given:
        if name not in names:
            raise UnknownNameError(f"hyperparameter of {owner}", name, names)
    return {hyper.name: hyper.check(owner, given.get(hyper.name, hyper.default)) for hyper in declared}
