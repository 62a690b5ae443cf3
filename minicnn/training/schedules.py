"""The built-in schedules: factors by which the learning rate is multiplied, as functions of the
epochs done.

``epoch`` is a float (2.5 in the middle of the third epoch), ``horizon`` the number of epochs
planned.
"""

import math

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, ScheduleRule


def warm_up(epoch: float, warmup_epochs: float) -> float:
    """Return the factor of a linear warm-up: from 0 to 1 over ``warmup_epochs``, then 1. It
    multiplies a schedule's."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs > 0 else 1.0


def constant(epoch, horizon, state):
    return 1.0


def step(epoch, horizon, state, step_size, gamma):
    return gamma ** math.floor(epoch / step_size)


def exponential(epoch, horizon, state, gamma):
    return gamma**epoch


def cosine(epoch, horizon, state, minimum):
    return _cosine_between(1.0, minimum, epoch / horizon)


def one_cycle(epoch, horizon, state, pct_start, div_factor, final_div_factor):
    done = epoch / horizon
    first = 1.0 / div_factor
    if done < pct_start:
        return _cosine_between(first, 1.0, done / pct_start)
    return _cosine_between(1.0, first / final_div_factor, (done - pct_start) / (1.0 - pct_start))


def _cosine_between(start: float, end: float, fraction: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine while ``fraction`` goes from 0 to 1; stay there
    afterwards."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))


def plateau_factor(epoch, horizon, state, factor, patience, min_factor, threshold):
    return state["reached"]


def plateau_observe(metric, state, factor, patience, min_factor, threshold):
    if metric < state["best"] * (1.0 - threshold):
        state["best"] = metric
        state["bad_epochs"] = 0.0
        return
    state["bad_epochs"] += 1.0
    if state["bad_epochs"] > patience:
        state["bad_epochs"] = 0.0
        state["reached"] = max(state["reached"] * factor, min_factor)


CONSTANT = ScheduleRule("constant", constant, equation="f = 1")

STEP = ScheduleRule(
    "step",
    step,
    hyperparameters=(
        Hyperparameter(
            "step_size", 5.0, 0.0, open_minimum=True, meaning="epochs s between two steps"
        ),
        Hyperparameter("gamma", 0.1, 0.0, 1.0, open_minimum=True, meaning="factor γ of a step"),
    ),
    equation="f = γ^⌊epoch / s⌋",
)

EXPONENTIAL = ScheduleRule(
    "exponential",
    exponential,
    hyperparameters=(
        Hyperparameter("gamma", 0.9, 0.0, 1.0, open_minimum=True, meaning="factor γ of an epoch"),
    ),
    equation="f = γ^epoch",
)

COSINE = ScheduleRule(
    "cosine",
    cosine,
    hyperparameters=(Hyperparameter("minimum", 0.0, 0.0, 1.0, meaning="factor m at the end"),),
    has_horizon=True,
    equation="f = m + ½ (1 − m) (1 + cos(π epoch / horizon))",
    source="Loshchilov and Hutter 2017, arXiv:1608.03983",
)

ONE_CYCLE = ScheduleRule(
    "one_cycle",
    one_cycle,
    hyperparameters=(
        Hyperparameter(
            "pct_start",
            0.3,
            0.0,
            1.0,
            True,
            True,
            "fraction of the horizon in which the factor grows to 1",
        ),
        Hyperparameter("div_factor", 25.0, 1.0, meaning="the first factor is 1 / div_factor"),
        Hyperparameter(
            "final_div_factor", 1e4, 1.0, meaning="the last factor is the first / final_div_factor"
        ),
    ),
    has_horizon=True,
    equation="half a cosine from 1/div up to 1, then half a cosine down to 1/(div · final_div)",
    source="Smith and Topin 2017, arXiv:1708.07120",
)

REDUCE_ON_PLATEAU = ScheduleRule(
    "reduce_on_plateau",
    plateau_factor,
    hyperparameters=(
        Hyperparameter(
            "factor", 0.1, 0.0, 1.0, True, True, "what the factor is multiplied by on a plateau"
        ),
        Hyperparameter(
            "patience", 2.0, 0.0, meaning="epochs without improvement that are let pass"
        ),
        Hyperparameter("min_factor", 0.0, 0.0, 1.0, meaning="the factor never falls below this"),
        Hyperparameter(
            "threshold", 1e-4, 0.0, 1.0, meaning="relative improvement that counts as one"
        ),
    ),
    observe=plateau_observe,
    state=(("best", math.inf), ("bad_epochs", 0.0), ("reached", 1.0)),
    equation="f ← max(factor · f, min_factor) after more than `patience` epochs without improvement",
)


@hookimpl
def minicnn_schedules():
    return [CONSTANT, STEP, EXPONENTIAL, COSINE, ONE_CYCLE, REDUCE_ON_PLATEAU]
