"""What an optimizer may be: a function of one element, of one parameter tensor, or of whole steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from minicnn.rules.hyperparameter import Hyperparameter


@dataclass(frozen=True)
class OptimizerRule:
    """An elementwise optimizer: one undecorated scalar function, compiled into a fused loop over all parameters.

    ``prepare(step, state, **hyperparameters) -> scalars`` runs on the host once a step, ``step`` counting from 1;
    it does what is the same for every element (bias correction, products of hyperparameters) in float64, and may
    change ``state``, the rule's own saved scalars. ``update(p, g, *slots, *scalars) -> (p, *slots)`` runs for each
    element: parameter ``p``, gradient ``g``, and the scalars that ``prepare`` returned, all of the buffers' dtype
    (its float literals too; an integer literal makes float64 of what it touches: write 2.0 and not 2). A rule without
    slots returns ``p`` alone or a tuple of one.
    """

    name: str
    update: Callable[..., object]
    prepare: Callable[..., tuple[float, ...]]
    hyperparameters: tuple[Hyperparameter, ...]
    slots: tuple[str, ...] = ()  # names of the arrays kept for each parameter, all zero at the start
    state: tuple[tuple[str, float], ...] = ()  # (name, first value) of the scalars that ``prepare`` keeps
    full_batch: bool = False  # the method is defined on the whole training set as one batch
    equation: str = ""
    source: str = ""


@dataclass(frozen=True)
class TensorRule:
    """An optimizer on whole tensors: one undecorated function of matrices, compiled and called for every tensor.

    ``update(p, g, *slots, *scalars, *scratch)`` changes ``p`` and the slots in place and returns nothing. All matrices are
    [rows, columns], contiguous: filters [R, S, C, K] as [R·S·C, K], dense weights [in, out], a bias [K] as [1, K].
    ``prepare`` and its scalars are those of `OptimizerRule`. The scratch matrices are as large as ``p`` and hold anything at
    the start. Besides loops over elements, ``update`` may use the functions of `minicnn.rules.operations`. (Numba compiles
    ``x[:] = y`` on matrices for seconds: write the loop.)
    """

    name: str
    update: Callable[..., None]
    prepare: Callable[..., tuple[float, ...]]
    hyperparameters: tuple[Hyperparameter, ...]
    slots: tuple[str, ...] = ()  # names of the arrays kept for each parameter, all zero at the start
    state: tuple[tuple[str, float], ...] = ()  # (name, first value) of the scalars that ``prepare`` keeps
    scratch: tuple[str, ...] = ()  # names of the matrices that ``update`` may fill, and that nobody keeps
    full_batch: bool = False  # the method is defined on the whole training set as one batch
    equation: str = ""
    source: str = ""


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
