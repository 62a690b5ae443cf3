"""What a check is, and the checks that several kinds of rules share."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from minicnn.errors import MinicnnError
from minicnn.rules import Hyperparameter


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    result: Literal["passed", "warning", "skipped", "failed"]
    detail: str  # what was measured, what is wrong, or why nothing was checked

    @property
    def passed(self) -> bool:
        """Whether the check did not fail; warnings and skipped checks pass."""
        return self.result != "failed"


class CheckFailed(Exception):
    """A rule fails a check; the text says how."""


class CheckWarning(Exception):
    """The rule works, but not as well as it could; the text says why."""


class CheckSkipped(Exception):
    """Something that a check needs is missing; the text says what."""


PLAIN = "runs in plain Python"  # the check before all that run compiled code

Checks = dict[str, Callable[[], str]]  # each returns what it measured


def run_checks(checks: Checks) -> Iterator[Check]:
    """Run every check, even after failures; only a rule that fails in plain Python is not run
    compiled, since compiled code checks no index."""
    plain_failed = False
    for name, function in checks.items():
        try:
            if plain_failed:
                raise CheckSkipped("the rule fails in plain Python")
            with np.errstate(all="ignore"):
                check = Check(name, "passed", function())
        except CheckWarning as warning:
            check = Check(name, "warning", str(warning))
        except CheckSkipped as reason:
            check = Check(name, "skipped", f"not checked: {reason}")
        except (CheckFailed, MinicnnError) as error:
            check = Check(name, "failed", str(error))
        except Exception as error:  # whatever the rule's own code raises
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            check = Check(name, "failed", text)
        plain_failed |= name == PLAIN and not check.passed
        yield check


def read_only(*arrays: Any) -> list[np.ndarray]:
    """Copies that raise ValueError where a rule writes what it should only read."""
    copies = [np.array(array) for array in arrays]
    for copy in copies:
        copy.setflags(write=False)
    return copies


def declared(rule: Any, function: Callable[..., Any], leading: int) -> str:
    """The arguments of ``function`` after the ``leading`` ones are the declared hyperparameters,
    and all texts are given."""
    names = [hyper.name for hyper in rule.hyperparameters]
    taken = list(inspect.signature(function).parameters)[leading:]
    if sorted(taken) != sorted(names):
        raise CheckFailed(
            f"{function.__name__} takes {', '.join(taken) or 'none'}, declared are {', '.join(names) or 'none'}"
        )
    return described(rule)


def described(rule: Any) -> str:
    """Defaults lie in their ranges, and equation, source and meanings are given."""
    for hyper in rule.hyperparameters:
        if not isinstance(hyper, Hyperparameter):
            raise CheckFailed(f"{hyper!r} is not a Hyperparameter")
        hyper.check(rule.name, hyper.default)
    missing = [text for text in ("equation", "source") if not getattr(rule, text)]
    missing += [f"meaning of {hyper.name}" for hyper in rule.hyperparameters if not hyper.meaning]
    if missing:
        raise CheckWarning(f"not given: {', '.join(missing)}")
    return f"{len(rule.hyperparameters)} hyperparameters, equation and source"


def defaults(rule: Any) -> dict[str, float]:
    """The default of every hyperparameter."""
    return {hyper.name: hyper.check(rule.name, hyper.default) for hyper in rule.hyperparameters}


def close(
    what: str, found: Any, expected: Any, tolerance: float, scale: float | None = None
) -> str:
    """``found`` equals ``expected`` within ``tolerance`` · ``scale`` (default: the largest expected
    number, at least 1)."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = max(1.0, float(np.abs(expected).max())) if scale is None else scale
    error = float(np.abs(found - expected).max()) / scale
    if not error <= tolerance:
        raise CheckFailed(f"{what}: relative error {error:.1e}, above {tolerance:.0e}")
    return f"{what}: relative error {error:.1e}"


def without_float64(compiled: Any, *types: Any) -> str:
    """The compiled float32 rule has no float64 arithmetic, which halves the width of a vector.

    Machine code from the disk cannot be looked at, so the scalar function alone is compiled again.
    """
    rule = compiled._pyfunc.__globals__["rule"]
    rule.compile(types)
    (code,) = rule.inspect_llvm().values()
    arithmetic = r"= f(add|sub|mul|div|rem|neg)\b[^,]*\bdouble\b|call [^@]*double @(?!Py|_Py)"
    count = sum(re.search(arithmetic, line) is not None for line in code.splitlines())
    if count:
        raise CheckWarning(
            f"{count} operations in float64: write 2.0 and not 2, and no int in arithmetic"
        )
    return "none"
