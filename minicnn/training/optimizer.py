"""An optimizer at work: a rule, its hyperparameters, and what it remembers between steps."""

from typing import Any

import numpy as np

from minicnn.errors import PluginError
from minicnn.plugins import find
from minicnn.rules import OptimizerRule, resolve


class Optimizer:
    """A rule with its hyperparameters, slots and step count.

    ``rule`` is a name or an `OptimizerRule`; hyperparameters not given have the rule's defaults. ``size`` is the length of
    the parameter vector. Raises `UnknownNameError` and `SettingError` for a wrong name or value.

    >>> optimizer = Optimizer("sgd", size=2, learning_rate=0.5)
    >>> params, grads = np.array([1, 2], np.float32), np.array([1, -1], np.float32)
    >>> optimizer.update(params, grads)
    >>> params
    array([0.5, 2.5], dtype=float32)
    """

    def __init__(self, rule: str | OptimizerRule, size: int, dtype: Any = np.float32, **hyperparameters: float):
        self.rule = find("optimizer", rule)
        self.hyperparameters = resolve(f"optimizer {self.rule.name}", self.rule.hyperparameters, hyperparameters)
        self.slots: np.ndarray = np.zeros((len(self.rule.slots), size), dtype)
        self.state = dict(self.rule.state)
        self.step = 0

    def scalars(self, learning_rate: float | None = None) -> np.ndarray:
        """Begin the next step: what the rule computes once for all elements, with another learning rate if given."""
        self.step += 1
        values = dict(self.hyperparameters)
        if learning_rate is not None:
            values["learning_rate"] = learning_rate
        prepared = self.rule.prepare(self.step, self.state, **values)
        try:
            return np.array(prepared, self.slots.dtype).reshape(-1)
        except (TypeError, ValueError):
            raise PluginError(f"optimizer {self.rule.name}: prepare must return numbers, not {prepared!r}") from None

    def update(self, params: np.ndarray, grads: np.ndarray) -> None:
        """One step in place: every element of ``params`` moves by the rule; ``grads`` [size] is only read."""
        from minicnn.backends import cpu

        cpu.apply_update(self.rule, params, grads, self.slots, self.scalars())
