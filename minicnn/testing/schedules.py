"""The conformance kit for schedules."""

import math
from functools import partial

from minicnn.rules import ScheduleRule
from minicnn.testing import training
from minicnn.testing.checks import CheckFailed, Checks, declared, defaults

_HORIZON = 10


def checks_of_schedule(rule: ScheduleRule) -> Checks:
    """Its factors, its state, and a training that is resumed."""
    return {
        "declaration": partial(_declaration, rule),
        "factors": partial(_factors, rule),
        "state": partial(_state, rule),
        "training": partial(training.learns, schedule=rule),
        "resume": partial(training.resumes, schedule=rule),
    }


def _declaration(rule: ScheduleRule) -> str:
    if rule.observe is not None:
        declared(rule, rule.observe, leading=2)
    return declared(rule, rule.factor, leading=3)


def _factors(rule: ScheduleRule) -> str:
    """Finite and not negative from the first step on to twice the horizon, and the same when asked
    again."""
    state, seen = dict(rule.state), []
    for quarter in range(8 * _HORIZON + 1):
        factors = [
            rule.factor(quarter / 4, _HORIZON, dict(state), **defaults(rule)) for _ in range(2)
        ]
        if factors[0] != factors[1]:
            raise CheckFailed(
                f"at epoch {quarter / 4:g} the factor is {factors[0]!r}, and asked again {factors[1]!r}"
            )
        if not (math.isfinite(factors[0]) and factors[0] >= 0):
            raise CheckFailed(f"the factor at epoch {quarter / 4:g} is {factors[0]!r}")
        seen.append(factors[0])
    return f"from {min(seen):g} to {max(seen):g} in {2 * _HORIZON} epochs"


def _state(rule: ScheduleRule) -> str:
    """The state keeps its names, and its values are numbers, which is what a checkpoint can
    hold."""
    state = dict(rule.state)
    for epoch in range(1, _HORIZON + 1):
        rule.factor(float(epoch), _HORIZON, state, **defaults(rule))
        if rule.observe is not None:
            rule.observe(1.0, state, **defaults(rule))
    if state.keys() != dict(rule.state).keys():
        raise CheckFailed(
            f"the state holds {', '.join(state)}; declared is {', '.join(dict(rule.state)) or 'nothing'}"
        )
    for name, value in state.items():
        if not isinstance(value, int | float):
            raise CheckFailed(f"state {name} is {value!r}, not a number")
    return ", ".join(state) or "none"
