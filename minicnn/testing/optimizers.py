"""The conformance kit for optimizers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import types

from minicnn.errors import SettingError
from minicnn.kernels.cpu.rules import compile_update
from minicnn.network.layers import Dense, Flatten
from minicnn.network.network import Network
from minicnn.rules import AnyOptimizer, OptimizerRule, StepRule
from minicnn.testing import training
from minicnn.testing.checks import Check, Failed, close, declared, defaults, described, run_checks, without_float64
from minicnn.testing.on_cuda import works_on_cuda
from minicnn.training.optimizer import Optimizer

_STEPS = 20
_RATES = (1.0, 10.0, 100.0, 1000.0, 0.1, 0.01)  # of the default learning rate; the best of them counts


def check_optimizer(rule: AnyOptimizer) -> list[Check]:
    """Put an optimizer of any kind through the conformance kit.

    It, or what is inside a `StepRule`, is compared with itself in plain Python and in float64, sent down a parabola and
    Rosenbrock's valley, and tried in small trainings.
    """
    checks: dict[str, Callable[[], str]] = {"declaration": partial(_declaration, rule)}
    for part in rule.bases if isinstance(rule, StepRule) else (rule,):
        if isinstance(part, str):
            continue  # is checked by itself
        of_which = "" if part is rule else f": {part.name}"
        checks[f"compiled equals plain Python{of_which}"] = partial(_equals_plain_python, part)
        checks[f"no float64 arithmetic in float32{of_which}"] = partial(_without_float64, part)
    checks["float32 equals float64"] = partial(_equals_float64, rule)
    checks |= {
        "parabola": partial(_descends, rule, _parabola, np.ones(10), 300, 1e-2),
        "Rosenbrock": partial(_descends, rule, _rosenbrock, np.array([-0.5, 0.8]), 3000, 2e-2),
        "zero, tiny, huge gradients": partial(training.stays_finite, rule),
        "training": partial(training.learns, rule.full_batch, defaults(rule).get("learning_rate"), optimizer=rule),
        "resume": partial(training.resumes, optimizer=rule),
        "no recompilation": partial(training.compiles_once, optimizer=rule),
        "CUDA": partial(works_on_cuda, rule),
    }
    return run_checks(checks)


def _declaration(rule: AnyOptimizer) -> str:
    return described(rule) if isinstance(rule, StepRule) else declared(rule, rule.prepare, leading=2)


def _begin() -> tuple[Network, np.ndarray, np.ndarray]:
    """A network of three matrices and biases, first weights, and the gradients of some steps, all of them float32 numbers.

    Between the tensors there may be gaps, where the gradient is zero; no rule is asked to do anything there.
    """
    network, rng = Network((2, 3, 1), [Flatten(), Dense(5), Dense(4), Dense(2)]), np.random.default_rng(1)
    gradients = np.zeros((_STEPS, network.flat_size), np.float32)
    for grads in gradients:
        for tensor in network.unflatten(grads).values():
            tensor[:] = rng.normal(0.3, 1.0, tensor.shape)
    return network, np.linspace(-1, 1, network.flat_size, dtype=np.float32), gradients


def _path(rule: AnyOptimizer, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """(parameters, slots) of the compiled rule after some steps."""
    network, start, gradients = _begin()
    optimizer, params = Optimizer(rule, network, dtype), start.astype(dtype)
    for grads in gradients.astype(dtype):
        optimizer.update(params, partial(_same_everywhere, grads))
    return params, optimizer.slots


def _same_everywhere(grads: np.ndarray, params: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.0, grads


def _equals_plain_python(rule: OptimizerRule) -> str:
    start, gradients = _begin()[1:]
    params, slots, state = start.astype(np.float64), np.zeros((len(rule.slots), start.size)), dict(rule.state)
    for step, grads in enumerate(gradients.astype(np.float64), 1):
        scalars = np.array(rule.prepare(step, state, **defaults(rule)), np.float64).reshape(-1)
        for i in np.flatnonzero(gradients[0]):
            new = rule.update(params[i], grads[i], *slots[:, i], *scalars)
            params[i], *slots[:, i] = new if isinstance(new, tuple) else (new,)
    found = _path(rule, np.float64)
    close("slots", np.append(found[1], 0.0), np.append(slots, 0.0), 1e-10)
    return close(f"weights after {_STEPS} steps in float64", found[0], params, 1e-10)


def _equals_float64(rule: AnyOptimizer) -> str:
    start = _begin()[1]
    single, double = _path(rule, np.float32)[0], _path(rule, np.float64)[0]
    moved = float(np.abs(double - start).max())
    # What float32 itself loses in 20 additions to a weight of 1 is no fault of the rule.
    return close(f"weights after {_STEPS} steps", single, double, 1e-3, moved + _STEPS * 1e-4)


def _without_float64(rule: OptimizerRule) -> str:
    compiled = compile_update(rule, np.float32)
    return without_float64(compiled, *[types.float32] * (2 + len(rule.slots) + compiled.scalars))


_CURVATURE = np.linspace(0.5, 5.0, 10)


def _parabola(p: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.5 * float((_CURVATURE * p * p).sum()), _CURVATURE * p


def _rosenbrock(p: np.ndarray) -> tuple[float, np.ndarray]:
    x, y = p
    value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    return float(value), np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


def _descends(rule: AnyOptimizer, function: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray,
              steps: int, share: float) -> str:  # fmt: skip
    """The function falls to ``share`` of its first value, at the default learning rate or a multiple of it."""
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
    raise Failed(f"from {first:.3g} to {best:.3g} at best in {steps} steps, not to {share * first:.2g}")
