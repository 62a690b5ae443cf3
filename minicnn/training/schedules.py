"""The built-in schedules: factors by which the learning rate is multiplied, as functions of the
epochs done.

``epoch`` is a float (2.5 in the middle of the third epoch), ``horizon`` the number of epochs
planned. With the setting ``schedule_unit="step"`` both count steps, and so does what is said here
to be in epochs.
"""

import math
from bisect import bisect_right
from dataclasses import replace
from functools import partial
from itertools import pairwise

from minicnn.errors import SettingError
from minicnn.hookspecs import hookimpl
from minicnn.plugins import find
from minicnn.rules import Hyperparameter, ScheduleRule


def warm_up(done: float, length: float) -> float:
    """Return the factor of a linear warm-up: from 0 to 1 over ``length`` epochs or steps, then 1.
    It multiplies a schedule's."""
    return min(1.0, done / length) if length > 0 else 1.0


def constant(epoch, horizon, state):
    """Always 1."""
    return 1.0


def step(epoch, horizon, state, step_size, gamma):
    """γ to the power of the number of times that ``step_size`` epochs have passed."""
    return gamma ** math.floor(epoch / step_size)


def exponential(epoch, horizon, state, gamma):
    """γ^t."""
    return gamma**epoch


def multi_step(epoch, horizon, state, milestones, gamma):
    """γ to the power of the number of ``milestones`` passed."""
    return gamma ** bisect_right(sorted(milestones), epoch)


def linear(epoch, horizon, state, start, end, total):
    """From ``start`` to ``end`` in ``total`` epochs."""
    return start + (end - start) * min(epoch / (total or horizon), 1.0)


def polynomial(epoch, horizon, state, power, total):
    """(1 − t / T) to the ``power``."""
    return (1.0 - min(epoch / (total or horizon), 1.0)) ** power


def triangular(epoch, horizon, state, start, peak, end):
    """From ``start`` to 1 at ``peak``, a share of the run, and down to ``end``."""
    done = min(epoch / horizon, 1.0)
    if done < peak:
        return start + (1.0 - start) * done / peak
    return 1.0 + (end - 1.0) * (done - peak) / (1.0 - peak)


def cyclic(epoch, horizon, state, minimum, up, down, cycle_gamma, gamma):
    """Up from ``minimum`` and down again, over and over, and lower by γ each time or step."""
    cycle, within = divmod(epoch, up + down)
    height = within / up if within <= up else (up + down - within) / down
    return minimum + (1.0 - minimum) * height * cycle_gamma**cycle * gamma**epoch


def cosine_restarts(epoch, horizon, state, period, multiply, minimum):
    """Half a cosine down to ``minimum``, again and again, each ``multiply`` times as long."""
    if multiply == 1.0:
        return _cosine_between(1.0, minimum, epoch % period / period)
    # The periods before the n-th are p (mⁿ − 1) / (m − 1) epochs long together.
    number = int(math.log(epoch / period * (multiply - 1.0) + 1.0, multiply) + 1e-9)
    begin = period * (multiply**number - 1.0) / (multiply - 1.0)
    return _cosine_between(1.0, minimum, (epoch - begin) / (period * multiply**number))


def cosine(epoch, horizon, state, minimum):
    """Half a cosine, from 1 down to ``minimum``."""
    return _cosine_between(1.0, minimum, epoch / horizon)


def one_cycle(epoch, horizon, state, pct_start, div_factor, final_div_factor):
    """Up by half a cosine for ``pct_start`` of the run, and down by another."""
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
    """The product of the reductions so far."""
    return state["reached"]


def plateau_observe(metric, state, factor, patience, min_factor, threshold):
    """Multiply by ``factor`` where the loss has not improved for ``patience`` epochs."""
    if metric < state["best"] * (1.0 - threshold):
        state["best"] = metric
        state["bad_epochs"] = 0.0
        return
    state["bad_epochs"] += 1.0
    if state["bad_epochs"] > patience:
        state["bad_epochs"] = 0.0
        state["reached"] = max(state["reached"] * factor, min_factor)


_share = partial(Hyperparameter, minimum=0.0, maximum=1.0)  # 0 and 1 among them
_factor = partial(_share, open_minimum=True)  # without the 0
_within = partial(_factor, open_maximum=True)  # without either
_above_0 = partial(Hyperparameter, minimum=0.0, open_minimum=True)
_TOTAL = Hyperparameter("total", 0.0, 0.0, meaning="epochs T it takes; 0: all of the horizon")

_BUILT_IN = [
    ScheduleRule("constant", constant, equation="f = 1"),
    ScheduleRule(
        "step",
        step,
        hyperparameters=(
            _above_0("step_size", 5.0, meaning="epochs s between two steps"),
            _factor("gamma", 0.1, meaning="factor γ of a step"),
        ),
        equation="f = γ^⌊epoch / s⌋",
    ),
    ScheduleRule(
        "multi_step",
        multi_step,
        hyperparameters=(
            Hyperparameter(
                "milestones", (5.0, 8.0), 0.0, meaning="epochs after which a step comes"
            ),
            _factor("gamma", 0.1, meaning="factor γ of a step"),
        ),
        equation="f = γ^(number of milestones ≤ epoch)",
    ),
    ScheduleRule(
        "exponential",
        exponential,
        hyperparameters=(_factor("gamma", 0.9, meaning="factor γ of an epoch"),),
        equation="f = γ^epoch",
    ),
    ScheduleRule(
        "linear",
        linear,
        hyperparameters=(
            _share("start", 1.0, meaning="factor a at the start"),
            _share("end", 0.0, meaning="factor b at the end"),
            _TOTAL,
        ),
        has_horizon=True,
        equation="f = a + (b − a) min(epoch / T, 1)",
    ),
    ScheduleRule(
        "polynomial",
        polynomial,
        hyperparameters=(Hyperparameter("power", 1.0, 0.0, meaning="power p"), _TOTAL),
        has_horizon=True,
        equation="f = (1 − min(epoch / T, 1))^p",
    ),
    ScheduleRule(
        "triangular",
        triangular,
        hyperparameters=(
            _share("start", 0.2, meaning="factor at the start"),
            _within("peak", 0.23, meaning="fraction of the horizon in which the factor grows to 1"),
            _share("end", 0.07, meaning="factor at the end"),
        ),
        has_horizon=True,
        equation="a line from start up to 1 at peak · horizon, then a line down to end",
        source="Jordan 2024, arXiv:2404.00498 (airbench)",
    ),
    ScheduleRule(
        "cyclic",
        cyclic,
        hyperparameters=(
            _share("minimum", 0.1, meaning="factor m between two cycles"),
            _above_0("up", 2.0, meaning="epochs from m to the top"),
            _above_0("down", 2.0, meaning="epochs from there back to m"),
            _factor(
                "cycle_gamma",
                1.0,
                meaning="factor of the height with every cycle; 0.5 is PyTorch's triangular2",
            ),
            _factor(
                "gamma", 1.0, meaning="factor of the height with every epoch, PyTorch's exp_range"
            ),
        ),
        equation="f = m + (1 − m) h γ^epoch γ_c^cycle, with h from 0 up to 1 and down again",
        source="Smith 2017, arXiv:1506.01186",
    ),
    ScheduleRule(
        "cosine",
        cosine,
        hyperparameters=(_share("minimum", 0.0, meaning="factor m at the end"),),
        has_horizon=True,
        equation="f = m + ½ (1 − m) (1 + cos(π epoch / horizon))",
        source="Loshchilov and Hutter 2017, arXiv:1608.03983",
    ),
    ScheduleRule(
        "cosine_restarts",
        cosine_restarts,
        hyperparameters=(
            _above_0("period", 5.0, meaning="epochs to the first restart"),
            Hyperparameter(
                "multiply", 1.0, 1.0, meaning="each period is so many times the last one"
            ),
            _share("minimum", 0.0, meaning="factor m before a restart"),
        ),
        equation="f = m + ½ (1 − m) (1 + cos(π · fraction of the period done))",
        source="Loshchilov and Hutter 2017, arXiv:1608.03983",
    ),
    ScheduleRule(
        "one_cycle",
        one_cycle,
        hyperparameters=(
            _within(
                "pct_start", 0.3, meaning="fraction of the horizon in which the factor grows to 1"
            ),
            Hyperparameter("div_factor", 25.0, 1.0, meaning="the first factor is 1 / div_factor"),
            Hyperparameter(
                "final_div_factor",
                1e4,
                1.0,
                meaning="the last factor is the first / final_div_factor",
            ),
        ),
        has_horizon=True,
        equation="half a cosine from 1/div up to 1, then half a cosine down to 1/(div · final_div)",
        source="Smith and Topin 2017, arXiv:1708.07120",
    ),
    ScheduleRule(
        "reduce_on_plateau",
        plateau_factor,
        hyperparameters=(
            _within("factor", 0.1, meaning="what the factor is multiplied by on a plateau"),
            Hyperparameter(
                "patience", 2.0, 0.0, meaning="epochs without improvement that are let pass"
            ),
            _share("min_factor", 0.0, meaning="the factor never falls below this"),
            _share("threshold", 1e-4, meaning="relative improvement that counts as one"),
        ),
        observe=plateau_observe,
        state=(("best", math.inf), ("bad_epochs", 0.0), ("reached", 1.0)),
        equation="f ← max(factor · f, min_factor) after more than `patience` epochs without improvement",
    ),
]


def find_schedule(given: str | ScheduleRule) -> ScheduleRule:
    """The schedule of that name; ``linear+cosine`` is a sequence, see `sequence`."""
    if isinstance(given, str) and "+" in given:
        return sequence([find("schedule", name) for name in given.split("+")])
    rule: ScheduleRule = find("schedule", given)
    return rule


def sequence(rules: list[ScheduleRule]) -> ScheduleRule:
    """One schedule after the other, each beginning anew at its milestone.

    The hyperparameters are ``milestones``, where the second and those after it begin, and those of
    the parts, numbered: ``1.start=0.1``. Raises `SettingError` for a schedule that reacts to the
    loss.
    """
    name = "+".join(rule.name for rule in rules)
    if any(rule.observe for rule in rules):
        raise SettingError(
            f"schedule {name}: one that reacts to the loss cannot be part of a sequence"
        )
    numbered = [
        (f"{number}.", hyper)
        for number, rule in enumerate(rules, 1)
        for hyper in rule.hyperparameters
    ]

    def factor(epoch, horizon, state, milestones, **values):
        if len(milestones) != len(rules) - 1 or milestones != sorted(milestones):
            raise SettingError(
                f"schedule {name}: milestones must be {len(rules) - 1} rising numbers, not {milestones}"
            )
        part = bisect_right(milestones, epoch)
        begin, end = list(pairwise([0.0, *milestones, max(horizon, epoch)]))[part]
        prefix = f"{part + 1}."
        own = {
            key.removeprefix(prefix): value
            for key, value in values.items()
            if key.startswith(prefix)
        }
        return rules[part].factor(epoch - begin, end - begin or 1.0, {}, **own)

    return ScheduleRule(
        name,
        factor,
        hyperparameters=(
            Hyperparameter(
                "milestones",
                tuple(range(1, len(rules))),
                0.0,
                meaning="epochs at which the next schedule begins",
            ),
            *(replace(hyper, name=prefix + hyper.name) for prefix, hyper in numbered),
        ),
        has_horizon=True,
        equation="f of each schedule in its turn, its epochs counted from its milestone",
    )


@hookimpl
def minicnn_schedules():
    """The built-in schedules."""
    return _BUILT_IN
