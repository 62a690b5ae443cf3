"""An optimizer that says itself what happens in a step: gradients at other points, other rules inside, averages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from minicnn.rules.hyperparameter import Hyperparameter
from minicnn.rules.optimizer_rule import OptimizerRule
from minicnn.rules.tensor_rule import TensorRule


class Step(Protocol):
    """What a `StepRule` works with. Vectors are flat, one element a parameter, and are changed in place."""

    number: int  # of this step, counting from 1
    hyper: dict[str, float]  # the hyperparameters, as scheduled for this step
    params: Any
    grads: Any  # the last gradient
    slots: dict[str, Any]  # the rule's own, and those of its bases as "base.slot"
    scratch: dict[str, Any]
    state: dict[str, float]

    def gradient(self) -> float:
        """Put the gradient of this batch's loss at ``params``, clipped if asked for, into ``grads``; return the loss."""

    def update(self, base: str, tensors: str = "all", **hyperparameters: float) -> None:
        """Let the base rule of that name change ``params`` by ``grads``.

        ``tensors`` limits it to "matrices", tensors of more than one row and column, or to the "others". Its hyperparameters
        are those given, else those in ``hyper`` of the same name, else its defaults.
        """

    def axpy(self, factor: float, x: Any, y: Any) -> None:
        """y ← factor · x + y."""

    def copy(self, x: Any, y: Any) -> None:
        """y ← x."""

    def norm(self, x: Any) -> float:
        """√Σ x²."""


@dataclass(frozen=True)
class StepRule:
    """An optimizer made of whole steps: ``step(s)`` runs on the host for every batch, with a `Step`.

    It calls ``s.gradient()`` at least once; the loss of the first call is the one reported. ``bases`` are the rules, or
    names of rules, that ``s.update`` may use; each keeps slots and state of its own. ``evaluation(s, out)`` fills the
    vector ``out`` with the weights to validate, test and save, where they are not those that are trained.
    """

    name: str
    step: Callable[[Step], None]
    hyperparameters: tuple[Hyperparameter, ...]
    bases: tuple[OptimizerRule | TensorRule | str, ...] = ()
    slots: tuple[str, ...] = ()  # names of the vectors that are saved, all zero at the start
    scratch: tuple[str, ...] = ()  # names of the vectors that are not
    state: tuple[tuple[str, float], ...] = ()  # (name, first value) of the scalars that are saved
    evaluation: Callable[[Step, Any], None] | None = None
    full_batch: bool = False  # the method is defined on the whole training set as one batch
    equation: str = ""
    source: str = ""


AnyOptimizer = OptimizerRule | TensorRule | StepRule
