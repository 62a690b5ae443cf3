"""An optimizer that sees one parameter tensor at a time, for methods with norms or products of matrices."""

from collections.abc import Callable
from dataclasses import dataclass

from minicnn.rules.hyperparameter import Hyperparameter


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
