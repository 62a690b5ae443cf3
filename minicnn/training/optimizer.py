"""An optimizer at work: a rule of any kind, its hyperparameters, and what it remembers between steps."""

import functools
from collections.abc import Callable
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from minicnn.errors import PluginError, SettingError, UnknownNameError
from minicnn.network.network import Network
from minicnn.memory import aligned_zeros
from minicnn.plugins import find
from minicnn.rules import AnyOptimizer, OptimizerRule, StepRule, TensorRule, resolve

Gradient = Callable[[np.ndarray], tuple[float, np.ndarray]]  # params -> (loss, grads)


class Optimizer:
    """A rule with its hyperparameters, slots and step count.

    ``rule`` is a name or a rule; hyperparameters not given have the rule's defaults. ``size`` is the network, or the length
    of a parameter vector, which a whole-tensor rule takes for one row. ``slots`` [slots, size] and ``state`` hold all that
    is remembered, also by the rules inside a `StepRule`, as "rule.slot". Raises `UnknownNameError` and `SettingError` for a
    wrong name or value.

    >>> optimizer = Optimizer("sgd", 2, learning_rate=0.5)
    >>> params, grads = np.array([1, 2], np.float32), np.array([1, -1], np.float32)
    >>> optimizer.update(params, grads)
    >>> params
    array([0.5, 2.5], dtype=float32)
    """

    def __init__(self, rule: str | AnyOptimizer, size: int | Network, dtype: Any = np.float32, device: str = "cpu", /,
                 **hyperparameters: float):  # fmt: skip
        self.rule = find("optimizer", rule)
        self.hyperparameters = resolve(f"optimizer {self.rule.name}", self.rule.hyperparameters, hyperparameters)
        self.step = 0
        self.state = dict(self.rule.state)
        self.slot_names = list(self.rule.slots)
        self._rules, self._device, self._tensors = self._bases(), device, _tensors(size)
        for name, base in self._rules.items():
            if base is not self.rule:
                self.slot_names += [f"{name}.{slot}" for slot in base.slots]
                self.state |= {f"{name}.{key}": value for key, value in base.state} | {f"{name}.step": 0.0}
        flat_size = size.flat_size if isinstance(size, Network) else size
        self.slots: np.ndarray = aligned_zeros((len(self.slot_names), flat_size), dtype)

    @functools.cached_property
    def backend(self) -> Any:
        """The backend of its device."""
        from minicnn.backends import backend

        return backend(self._device)

    @functools.cached_property
    def vectors(self) -> Any:
        """The slots where the device has them: made of ``slots`` when they are first needed."""
        return self.slots if self._device == "cpu" else self.backend.vector(self.slots)

    @functools.cached_property
    def _parts(self) -> "dict[str, _Part]":
        return {name: _Part(self, name, base) for name, base in self._rules.items()}

    @functools.cached_property
    def _work(self) -> "_Step":
        assert isinstance(self.rule, StepRule)
        return _Step(self, self.rule)

    def fetch(self) -> None:
        """Bring ``slots`` up to date with what the steps on the device left."""
        self.backend.fetch(self.vectors, self.slots)

    def _bases(self) -> dict[str, OptimizerRule | TensorRule]:
        """The rules that are at work: those inside a `StepRule`, else the rule itself, by name."""
        if not isinstance(self.rule, StepRule):
            return {self.rule.name: self.rule}
        bases: dict[str, OptimizerRule | TensorRule] = {}
        for given in self.rule.bases:
            base = find("optimizer", given)
            if isinstance(base, StepRule) or base.name in bases:
                wrong = "is a StepRule" if isinstance(base, StepRule) else "is there twice"
                raise PluginError(f"optimizer {self.rule.name}: the base {base.name} {wrong}")
            bases[base.name] = base
        return bases

    def compile(self) -> None:
        """Compile what a step needs, or load it from the disk; raises `PluginError` if that fails."""
        for part in self._parts.values():
            part.compiled  # noqa: B018
        if isinstance(self.rule, StepRule):
            vector = self.backend.vector(np.zeros(1, self.slots.dtype))
            self._work.axpy(self._work.norm(vector), vector, vector)
            if self._device != "cpu":
                _check_hands_off(self.rule, self)

    def scalars(self, **scheduled: float) -> np.ndarray:
        """Begin the next step of an elementwise rule: what it computes once for all elements, with what is scheduled."""
        self.step += 1
        return self._parts[self.rule.name].scalars(self.step, self.hyperparameters | scheduled)

    def update(self, params: np.ndarray, grads: np.ndarray | Gradient, **scheduled: float) -> None:
        """One step in place, with the hyperparameters that are ``scheduled`` at other values than usual.

        ``grads`` [size] is only read; a function ``grads(params) -> (loss, grads)`` serves also the rules that ask for the
        gradient at another point.
        """
        self.step += 1
        values = self.hyperparameters | scheduled
        if isinstance(self.rule, StepRule):
            self._work.run(self.step, values, params, grads)
        else:
            gradient = grads(params)[1] if callable(grads) else grads
            self._parts[self.rule.name].update(self.step, values, params, gradient, "all")

    def evaluation(self, params: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out`` [size] with the weights to use: those of the rule's ``evaluation`` if it has one, else ``params``."""
        if isinstance(self.rule, StepRule) and self.rule.evaluation is not None and self.step:
            self._work.number, self._work.params = self.step, params
            self.rule.evaluation(self._work, out)
        else:
            out[:] = params


class _Untouchable:
    """Stands for a vector on a device that Python cannot reach into: whatever is done with it fails."""


def _check_hands_off(rule: StepRule, owner: Optimizer) -> None:
    """Raise `PluginError` for a rule whose Python works on vectors itself, which it can on the CPU alone."""
    vector = _Untouchable()
    probe: Any = SimpleNamespace(
        number=1, hyper=dict(owner.hyperparameters), state=dict(owner.state), params=vector, grads=vector,
        slots=dict.fromkeys(owner.slot_names, vector), scratch=dict.fromkeys(rule.scratch, vector),
        gradient=lambda: 0.0, update=lambda base, tensors="all", **hyperparameters: None, axpy=lambda factor, x, y: None,
        copy=lambda x, y: None, norm=lambda x: 1.0,
    )  # fmt: skip
    try:
        rule.step(probe)
        if rule.evaluation is not None:
            rule.evaluation(probe, vector)
    except (TypeError, AttributeError, ValueError) as error:
        if "_Untouchable" not in str(error):
            raise
        raise PluginError(f"optimizer {rule.name} works on vectors itself, which only the cpu can; on another device it may "
                          "use no more than gradient, update, axpy, copy and norm of Step") from None  # fmt: skip


def _tensors(size: int | Network) -> dict[str, np.ndarray]:
    """(offset, rows, columns) of the tensors, by what `Step.update` calls them."""
    if isinstance(size, Network):
        table = [(spec.offset, prod(spec.shape[:-1]), spec.shape[-1]) for spec in size.parameters]
    else:
        table = [(0, 1, size)]
    every = np.array(table, np.int64).reshape(-1, 3)
    matrices = (every[:, 1] > 1) & (every[:, 2] > 1)
    return {"all": every, "matrices": every[matrices], "others": every[~matrices]}


class _Part:
    """An elementwise or a whole-tensor rule with its share of an optimizer's slots and state."""

    def __init__(self, owner: Optimizer, name: str, rule: OptimizerRule | TensorRule):
        self.rule, self.owner = rule, owner
        self.prefix = "" if rule is owner.rule else f"{name}."
        first = owner.slot_names.index(self.prefix + rule.slots[0]) if rule.slots else 0
        self.slots = owner.vectors[first : first + len(rule.slots)] if rule.slots else owner.vectors

    @functools.cached_property
    def compiled(self) -> Callable[..., None]:
        compiled: Callable[..., None] = self.owner.backend.Update(self.rule, self.slots.dtype, self.owner._tensors["all"])
        return compiled

    def scalars(self, step: int, values: dict[str, float]) -> np.ndarray:
        own = {name: self.owner.state[self.prefix + name] for name, _ in self.rule.state}
        prepared = self.rule.prepare(step, own, **values)
        self.owner.state |= {self.prefix + name: own[name] for name, _ in self.rule.state}
        try:
            return np.array(prepared, self.slots.dtype).reshape(-1)
        except (TypeError, ValueError):
            raise PluginError(f"optimizer {self.rule.name}: prepare must return numbers, not {prepared!r}") from None

    def update(self, step: int, values: dict[str, float], params: np.ndarray, grads: np.ndarray, tensors: str) -> None:
        self.compiled(params, grads, self.slots, self.scalars(step, values), self.owner._tensors[tensors])


class _Step:
    """What a `StepRule` works with; the protocol `minicnn.rules.Step` says what the names mean."""

    def __init__(self, owner: Optimizer, rule: StepRule):
        self._owner, self._rule = owner, rule
        self.state = owner.state
        self.slots: dict[str, Any] = {name: owner.vectors[k] for k, name in enumerate(owner.slot_names)}
        empty = np.zeros(owner.slots.shape[1], owner.slots.dtype)
        vector = np.copy if owner._device == "cpu" else owner.backend.vector
        self.scratch: dict[str, Any] = {name: vector(empty) for name in rule.scratch}
        self.number = 0
        self.hyper = owner.hyperparameters
        self.params: Any = None
        self.grads: Any = None

    def run(self, number: int, hyper: dict[str, float], params: np.ndarray, source: np.ndarray | Gradient) -> None:
        """One step."""
        self.number, self.hyper, self.params, self.grads, self._source = number, hyper, params, None, source
        self._rule.step(self)
        if self.grads is None:
            raise PluginError(f"optimizer {self._rule.name}: step must call gradient()")

    def gradient(self) -> float:
        if callable(self._source):
            loss, self.grads = self._source(self.params)
            return loss
        if self.grads is not None:
            asks = f"optimizer {self._rule.name} asks for the gradient at another point"
            raise SettingError(f"{asks}: grads must be a function of params")
        self.grads = self._source
        return float("nan")  # nobody knows

    def update(self, base: str, tensors: str = "all", **hyperparameters: float) -> None:
        if base not in self._owner._parts:
            raise UnknownNameError(f"base of optimizer {self._rule.name}", base, self._owner._parts)
        if self.grads is None:
            raise PluginError(f"optimizer {self._rule.name}: step must call gradient() before update()")
        part, step = self._owner._parts[base], f"{base}.step"
        values = {hyper.name: self.hyper.get(hyper.name, hyper.default) for hyper in part.rule.hyperparameters}
        for name in hyperparameters:
            if name not in values:
                raise UnknownNameError(f"hyperparameter of {base}", name, values)
        values |= hyperparameters
        self.state[step] += 1
        part.update(int(self.state[step]), values, self.params, self.grads, tensors)

    def axpy(self, factor: float, x: Any, y: Any) -> None:
        self._owner.backend.axpy(factor, x, y)

    def copy(self, x: Any, y: Any) -> None:
        self._owner.backend.copy(x, y)

    def norm(self, x: Any) -> float:
        return float(self._owner.backend.norm(x))
