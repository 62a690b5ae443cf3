"""The conformance kit for optimizers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numba import types

from minicnn.errors import SettingError
from minicnn.kernels.cpu.rules import compile_update
from minicnn.network.layers import Dense, Flatten
from minicnn.network.network import Network
from minicnn.rules import AnyOptimizer, OptimizerRule, Step, StepRule
from minicnn.testing import training
from minicnn.testing.checks import (
    PLAIN,
    CheckFailed,
    Checks,
    CheckWarning,
    close,
    declared,
    defaults,
    described,
    without_float64,
)
from minicnn.testing.on_cuda import works_on_cuda
from minicnn.training.optimizer import Optimizer

_STEPS = 20
# of the default learning rate; the best of them counts
_RATES = (1.0, 10.0, 100.0, 1000.0, 0.1, 0.01, 3.0)


def checks_of_optimizer(rule: AnyOptimizer) -> Checks:
    """The checks of an optimizer: the rule, or the base rules of a `StepRule`, is compared with
    itself in plain Python and in float64, minimizes a parabola and Rosenbrock's function, and
    trains small networks."""
    every = rule.bases if isinstance(rule, StepRule) else (rule,)
    bases = [base for base in every if not isinstance(base, str)]  # a name is checked by itself
    checks: Checks = {"declaration": partial(_declaration, rule), PLAIN: partial(_plain, bases)}
    for base in bases:
        of_which = "" if base is rule else f": {base.name}"
        checks |= {f"{name}{of_which}": partial(check, base) for name, check in _OF_BASES.items()}
    if isinstance(rule, StepRule):
        checks["steps of the bases"] = partial(_counts, rule)
    if any(hyper.name == "weight_decay" for hyper in rule.hyperparameters):
        checks["decay of weights alone"] = partial(_spares_biases, rule)
    rate = defaults(rule).get("learning_rate")
    return checks | {
        "float32 equals float64": partial(_equals_float64, rule),
        "parabola": partial(_descends, rule, _parabola, np.ones(10), 300, 1e-2),
        "Rosenbrock": partial(_descends, rule, _rosenbrock, np.array([-0.5, 0.8]), 3000, 2e-2),
        "zero, tiny, huge gradients": partial(training.stays_finite, rule),
        "training": partial(training.learns, rule.full_batch, rate, optimizer=rule),
        "resume": partial(training.resumes, optimizer=rule),
        "no recompilation": partial(training.compiles_once, optimizer=rule),
        "CUDA": partial(works_on_cuda, rule),
    }


def _declaration(rule: AnyOptimizer) -> str:
    if isinstance(rule, StepRule):
        return described(rule)
    return declared(rule, rule.prepare, leading=2)


def _begin() -> tuple[Network, np.ndarray, np.ndarray]:
    """A network of three matrices and biases, first weights, and the gradients of some steps, all
    of them float32 numbers.

    Between the tensors there may be gaps, where the gradient is zero.
    """
    network = Network((2, 3, 1), [Flatten(), Dense(5), Dense(4), Dense(2)])
    rng = np.random.default_rng(1)
    gradients = np.zeros((_STEPS, network.flat_size), np.float32)
    for grads in gradients:
        for tensor in network.unflatten(grads).values():
            tensor[:] = rng.normal(0.3, 1.0, tensor.shape)
    return network, np.linspace(-1, 1, network.flat_size, dtype=np.float32), gradients


def _path(rule: AnyOptimizer, dtype: Any) -> tuple[np.ndarray, Optimizer]:
    """(parameters, optimizer) of the compiled rule after some steps."""
    network, start, gradients = _begin()
    optimizer, params = Optimizer(rule, network, dtype), start.astype(dtype)
    for grads in gradients.astype(dtype):
        optimizer.update(params, partial(_same_everywhere, grads))
    return params, optimizer


def _same_everywhere(grads: np.ndarray, params: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.0, grads


def _in_plain_python(rule: OptimizerRule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(elements that are a tensor's, weights, slots) after the same steps, in float64."""
    start, gradients = _begin()[1:]
    used, state = np.flatnonzero(gradients[0]), dict(rule.state)  # what lies in gaps is nobody's
    params, slots = start.astype(np.float64), np.zeros((len(rule.slots), start.size))
    for step, grads in enumerate(gradients.astype(np.float64), 1):
        scalars = np.array(rule.prepare(step, state, **defaults(rule)), np.float64).reshape(-1)
        for i in used:
            new = rule.update(params[i], grads[i], *slots[:, i], *scalars)
            params[i], *slots[:, i] = new if isinstance(new, tuple) else (new,)
    return used, params, slots


def _plain(bases: Sequence[OptimizerRule]) -> str:
    for base in bases:
        _in_plain_python(base)
    return f"{_STEPS} steps of {', '.join(base.name for base in bases) or 'no base'}"


def _equals_plain_python(rule: OptimizerRule) -> str:
    used, expected, slots = _in_plain_python(rule)
    params, optimizer = _path(rule, np.float64)
    found = optimizer.slots[:, used]
    close("slots", np.append(found, 0.0), np.append(slots[:, used], 0.0), 1e-10)
    return close(f"weights after {_STEPS} steps in float64", params[used], expected[used], 1e-10)


def _equals_float64(rule: AnyOptimizer) -> str:
    start = _begin()[1]
    single, double = _path(rule, np.float32)[0], _path(rule, np.float64)[0]
    moved = float(np.abs(double - start).max())
    # What float32 itself loses in 20 additions to a weight of 1 is no fault of the rule.
    return close(f"weights after {_STEPS} steps", single, double, 1e-3, moved + _STEPS * 1e-4)


_LONG = 20_000  # steps after which running means that keep up to 0.999 have forgotten their start
_WATCHED = np.array([1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000])


def _constant_run(rule: OptimizerRule, first: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps, slots) in plain Python of a weight whose gradient is always 1; the steps are counted
    from ``first`` on."""
    names = defaults(rule)
    hyper = names | dict.fromkeys(names.keys() & {"weight_decay"}, 0.0)
    state, p, slots = dict(rule.state), 0.0, [0.0] * len(rule.slots)
    moves, kept = np.zeros(_LONG), np.zeros((_LONG, len(slots)))
    for t in range(_LONG):
        new = rule.update(p, 1.0, *slots, *rule.prepare(first + t, state, **hyper))
        after, *slots = new if isinstance(new, tuple) else (new,)
        moves[t], kept[t], p = after - p, slots, after
    return moves, kept


def _settles(path: np.ndarray) -> bool:
    return bool(path[-1] != 0 and abs(path[_LONG // 2] / path[-1] - 1) < 0.01)


def _corrects(rule: OptimizerRule) -> str:
    """What ``prepare`` makes of the step's number brings the first steps nearer to those of a long
    run, and not further off.

    Under a constant gradient a running mean begins at b = 1 − βᵗ of what it will be. The steps, as
    shares of the last one, are fitted by products of powers of the slots' b: all powers are 0 where
    the start is corrected. A power further from 0 than that of the same rule without a step number
    is a correction that multiplies where it should divide.

    It cannot see a correction that is left out, has a wrong β, or is a constant factor off; what a
    `StepRule` corrects itself; rules whose means have not settled after 20,000 steps; what happens
    only when gradients change.
    """
    moves, slots = _constant_run(rule, 1)
    late = _constant_run(rule, 10**9)[0]
    if not (np.isfinite(moves).all() and np.isfinite(slots).all()):
        raise CheckFailed(
            f"step {np.argmin(np.isfinite(moves)) + 1} of a long run with gradient 1 is not a finite number"
        )
    if np.array_equal(moves, late):
        return f"{_LONG:,} steps are finite, and do not depend on their number"

    settled = [slot[_WATCHED - 1] / slot[-1] for slot in slots.T if _settles(slot)]
    begun = [slot for slot in settled if (slot > 0).all()]
    paths = moves, late
    if not begun or not all(_settles(one) and (one / one[-1] > 0).all() for one in paths):
        return f"{_LONG:,} steps are finite; they do not settle, or no mean does, so no correction can be judged"
    means = np.log(np.column_stack(begun))
    shares = [np.log(one / one[-1])[_WATCHED - 1] for one in paths]
    powers, without = (np.linalg.lstsq(means, share)[0] for share in shares)
    missed = shares[0] - means @ powers
    if (np.abs(powers) > np.abs(without) + 0.4).any() and np.abs(missed).max() < 0.2:
        raise CheckFailed(
            f"the first step is {moves[0] / moves[-1]:.2g} of a later one under a constant gradient, and "
            f"{late[0] / late[-1]:.2g} without correction: does one multiply where it should divide?"
        )
    return f"the first step is {moves[0] / moves[-1]:.2g} of a later one, {late[0] / late[-1]:.2g} without correction"


def _in_parts(rule: OptimizerRule) -> str:
    """As a base whose steps are made in two parts, matrices and others, the rule does what it does
    alone."""

    def step(s: Step) -> None:
        s.gradient()
        s.update(rule.name, "matrices")
        s.update(rule.name, "others")

    parts = _path(StepRule("parts", step, rule.hyperparameters, bases=(rule,)), np.float64)
    return close(f"weights after {_STEPS} steps", parts[0], _path(rule, np.float64)[0], 1e-12)


def _counts(rule: StepRule) -> str:
    """No tensor takes more steps of a base than there were batches."""
    optimizer = _path(rule, np.float64)[1]
    taken = {key: int(value) for key, value in optimizer.state.items() if key.endswith(".step")}
    if often := [f"{key} is {count}" for key, count in taken.items() if count > _STEPS]:
        raise CheckWarning(
            f"after {_STEPS} batches {', '.join(often)}: is the same tensor meant to take several steps a batch?"
        )
    return f"{sum(taken.values())} steps of {len(taken)} tensors in {_STEPS} batches"


def _spares_biases(rule: AnyOptimizer) -> str:
    """With ``decay="weights"``, biases are what they are without weight decay."""
    network, start, gradients = _begin()
    ends = []
    for decay, weight_decay in (("weights", 0.1), ("all", 0.0)):
        optimizer = Optimizer(rule, network, np.float64, "cpu", decay, weight_decay=weight_decay)
        params = start.astype(np.float64)
        # One step: after it the weights differ, and so may what a rule on whole steps does to the
        # biases.
        optimizer.update(params, partial(_same_everywhere, gradients[0].astype(np.float64)))
        tensors = network.unflatten(params).items()
        ends.append(np.concatenate([one for name, one in tensors if name.endswith("bias")]))
    return close("biases after a step", ends[0], ends[1], 1e-12)


def _without_float64(rule: OptimizerRule) -> str:
    compiled = compile_update(rule, np.float32)
    numbers = [types.float32] * (2 + len(rule.slots) + compiled.scalars)
    return without_float64(compiled.cfunc, *numbers)


_OF_BASES = {
    "compiled equals plain Python": _equals_plain_python,
    "no float64 arithmetic in float32": _without_float64,
    "in parts equals whole": _in_parts,
    "first steps and long runs": _corrects,
}


_CURVATURE = np.linspace(0.5, 5.0, 10)


def _parabola(p: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.5 * float((_CURVATURE * p * p).sum()), _CURVATURE * p


def _rosenbrock(p: np.ndarray) -> tuple[float, np.ndarray]:
    x, y = p
    value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    return float(value), np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


def _descends(
    rule: AnyOptimizer,
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    steps: int,
    share: float,
) -> str:
    """The function falls to ``share`` of its first value, at the default learning rate or a
    multiple of it."""
    rate = defaults(rule).get("learning_rate")
    first, best = function(start)[0], np.inf
    for factor in _RATES if rate else _RATES[:1]:
        try:
            rates: dict[str, Any] = {"learning_rate": factor * rate} if rate else {}
            optimizer = Optimizer(rule, start.size, np.float64, **rates)
        except SettingError:
            continue  # outside the range
        params, weights, lowest = start.copy(), start.copy(), np.inf
        for _ in range(steps):
            optimizer.update(params, function)
            optimizer.evaluation(params, weights)
            value = function(weights)[0]
            lowest = min(lowest, value)
            if not np.isfinite(value) or lowest <= share * first:
                break
        best = min(best, lowest)
        if lowest <= share * first:
            at = f" at the learning rate {factor * rate:g}" if rate else ""
            return f"from {first:.3g} to {lowest:.2g}{at}"
    raise CheckFailed(
        f"from {first:.3g} to {best:.3g} at best in {steps} steps, not to {share * first:.2g}"
    )
