"""An elementwise optimizer as one scalar rule."""

from collections.abc import Callable
from dataclasses import dataclass

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
