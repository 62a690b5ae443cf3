"""What a plugin hands over: plain data and undecorated Python functions, compiled elsewhere
(``kernels/<device>``).

An optimizer is a function of one element, or one of whole steps; a loss is one of a sample's row of
logits, a schedule one of the epochs done, a layer one of an element or of a sample's arrays.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from minicnn.errors import SettingError, check_known

__all__ = [
    "ActivationRule",
    "AnyLayer",
    "AnyOptimizer",
    "Hyperparameter",
    "LayerRule",
    "LossRule",
    "OptimizerRule",
    "ScheduleRule",
    "Step",
    "StepRule",
    "Tensor",
    "resolve",
]


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a rule.

    ``minimum`` and ``maximum`` belong to the range unless ``open_minimum`` or ``open_maximum`` say
    otherwise: ``Hyperparameter("beta1", 0.9, 0.0, 1.0, open_maximum=True)`` admits [0, 1). With a
    tuple for ``default`` the value is a list of such numbers.
    """

    name: str
    default: Any
    minimum: float = -math.inf
    maximum: float = math.inf
    open_minimum: bool = False
    open_maximum: bool = False
    meaning: str = ""

    @property
    def range(self) -> str:
        """The admitted range in interval notation, such as ``[0, 1)``."""
        left = "(" if self.open_minimum or math.isinf(self.minimum) else "["
        right = ")" if self.open_maximum or math.isinf(self.maximum) else "]"
        return f"{left}{self.minimum:g}, {self.maximum:g}{right}"

    def check(self, owner: str, value: Any) -> Any:
        """Return ``value`` as a float, or a list of floats; raise `SettingError` naming ``owner``
        if it is outside the range."""
        if isinstance(self.default, tuple):
            one = replace(self, default=0.0)
            items = value if isinstance(value, list | tuple) else [value]
            return [one.check(owner, item) for item in items]
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise SettingError(f"{owner}: {self.name} must be a number, not {value!r}") from None
        above = number > self.minimum if self.open_minimum else number >= self.minimum
        below = number < self.maximum if self.open_maximum else number <= self.maximum
        if not (above and below and math.isfinite(number)):
            raise SettingError(
                f"{owner}: {self.name} must be a number in {self.range}, not {value!r}"
            )
        return number


def resolve(
    owner: str, declared: Iterable[Hyperparameter], given: Mapping[str, object]
) -> dict[str, Any]:
    """Return the value of every declared hyperparameter: the given one, checked, or the default.

    Raises `UnknownNameError`, which lists the declared names, for a name that ``owner`` does not
    have.
    """
    declared = tuple(declared)
    names = [hyper.name for hyper in declared]
    check_known(f"hyperparameter of {owner}", given, names)
    return {
        hyper.name: hyper.check(owner, given.get(hyper.name, hyper.default)) for hyper in declared
    }


@dataclass(frozen=True)
class OptimizerRule:
    """An elementwise optimizer: one undecorated scalar function, compiled into a fused loop over
    all parameters.

    ``prepare(step, state, **hyperparameters) -> scalars`` runs on the host once a step, ``step``
    counting from 1; it does what is the same for every element (bias correction, products of
    hyperparameters) in float64, and may change ``state``, the rule's own saved scalars. ``update(p,
    g, *slots, *scalars) -> (p, *slots)`` runs for each element: parameter ``p``, gradient ``g``,
    and the scalars that ``prepare`` returned, all of the buffers' dtype (its float literals too; an
    integer literal makes float64 of what it touches: write 2.0 and not 2). A rule without slots
    returns ``p`` alone or a tuple of one.
    """

    name: str
    update: Callable[..., object]
    prepare: Callable[..., tuple[float, ...]]
    hyperparameters: tuple[Hyperparameter, ...]
    slots: tuple[
        str, ...
    ] = ()  # names of the arrays kept for each parameter, all zero at the start
    state: tuple[
        tuple[str, float], ...
    ] = ()  # (name, first value) of the scalars that ``prepare`` keeps
    full_batch: bool = False  # the method is defined on the whole training set as one batch
    equation: str = ""
    source: str = ""


@dataclass(frozen=True)
class Tensor:
    """One of a network's trained tensors: a row of the table that a `StepRule` may ask for."""

    name: str  # conv1.weight, ...
    shape: tuple[int, ...]
    kind: Literal["weight", "bias", "scale", "shift"]
    layer: int  # number of its layer in the network
    # numbers that an output of its layer is a weighted sum of; 1 in a layer without weights
    fan_in: int
    first: bool  # whether its layer is the first one with weights,
    last: bool  # or the last
    # what the hyperparameters of these names are multiplied by for it: 1 unless the user said other
    # factors, and 0 for the weight decay that ``decay="weights"`` leaves out
    learning_rate: float
    weight_decay: float
    offset: int  # where it begins in a flat vector

    @property
    def decays(self) -> bool:
        """Whether ``weight_decay`` is to pull it."""
        return self.weight_decay != 0

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, columns): filters [R, S, C, K] as [R·S·C, K], dense weights [in, out], a bias [K]
        as [1, K]."""
        return math.prod(self.shape[:-1]), self.shape[-1]

    @property
    def is_matrix(self) -> bool:
        """Whether it holds weights in more than one row and column."""
        return self.kind == "weight" and min(self.matrix_shape) > 1


class Step(Protocol):
    """What a `StepRule` works with: flat vectors, one element a trained parameter, and matrices
    that are parts of them.

    They lie on the device and are changed in place, only by these functions.
    """

    number: int  # of this step, counting from 1
    hyper: dict[str, float]  # the hyperparameters, as scheduled for this step
    params: Any
    grads: Any  # the last gradient
    slots: dict[str, Any]  # the rule's own, and those of its bases as "base.slot"
    scratch: dict[str, Any]
    state: dict[str, float]
    tensors: tuple[Tensor, ...]  # the table, in the order of the layers

    def gradient(self) -> float:
        """Put the gradient of this batch's loss at ``params``, clipped if asked for, into
        ``grads``; return the loss."""

    def update(
        self, base: str, tensors: str | Iterable[Tensor] = "all", **hyperparameters: float
    ) -> None:
        """Let the base rule of that name change ``params`` by ``grads``.

        ``tensors`` limits it to some of the table, to "matrices" (`Tensor.is_matrix`) or to the
        "others". A base counts the steps of every tensor, and keeps its state, apart: a batch in
        several parts is one step. Its hyperparameters are those given, else those in ``hyper`` of
        the same name, else its defaults.
        """

    def matrix(self, x: Any, tensor: Tensor, shape: tuple[int, int] | None = None) -> Any:
        """The part of the vector ``x`` where ``tensor`` lies, as a matrix of
        ``tensor.matrix_shape``.

        With a ``shape`` of at most as many numbers, its beginning as a matrix of that shape: room
        for what is in between.
        """

    def axpy(self, factor: float, x: Any, y: Any) -> None:
        """y ← factor · x + y."""

    def scale(self, factor: float, x: Any) -> None:
        """x ← factor · x."""

    def copy(self, x: Any, y: Any) -> None:
        """y ← x."""

    def norm(self, x: Any) -> float:
        """√Σ x²."""

    def dot(self, x: Any, y: Any) -> float:
        """Σ x·y."""

    def matmul(
        self, a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False
    ) -> None:
        """out ← A · B of matrices, A being ``a`` or its transpose, B likewise; ``out`` must be
        neither of them."""


@dataclass(frozen=True)
class StepRule:
    """An optimizer made of whole steps: ``step(s)`` runs on the host for every batch, with a
    `Step`.

    It calls ``s.gradient()`` at least once; the loss of the first call is the one reported.
    ``bases`` are the rules, or names of rules, that ``s.update`` may use; each keeps slots and
    state of its own. ``evaluation(s, out)`` fills the vector ``out`` with the weights to validate,
    test and save, where they are not those that are trained.
    """

    name: str
    step: Callable[[Step], None]
    hyperparameters: tuple[Hyperparameter, ...]
    bases: tuple[OptimizerRule | str, ...] = ()
    slots: tuple[str, ...] = ()  # names of the vectors that are saved, all zero at the start
    scratch: tuple[str, ...] = ()  # names of the vectors that are not
    state: tuple[tuple[str, float], ...] = ()  # (name, first value) of the scalars that are saved
    evaluation: Callable[[Step, Any], None] | None = None
    full_batch: bool = False  # the method is defined on the whole training set as one batch
    # the factors of each `Tensor` are heeded: all that moves it is a base, or is multiplied by them
    by_tensor: bool = False
    equation: str = ""
    source: str = ""


AnyOptimizer = OptimizerRule | StepRule


@dataclass(frozen=True)
class LossRule:
    """A loss on one sample: one undecorated function of a row of logits.

    ``row(logits, target, dlogits, *hyperparameters) -> loss`` reads ``logits`` [outputs], writes
    the gradient of this sample's loss into ``dlogits`` [outputs] and returns the loss. ``target``
    is the label (an integer) or, with ``target="values"``, an array [outputs]: the target values,
    or the one-hot row of the label. With ``class_weights=True`` an array [outputs] of class weights
    follows ``dlogits``, before the hyperparameters. The mean over the batch is taken outside: the
    divisor is the number of samples or, with class weights, the sum of the weights of the samples'
    classes. ``soft`` says that the loss of a mixture of targets is the mixture of their losses.
    """

    name: str
    row: Callable[..., float]
    hyperparameters: tuple[Hyperparameter, ...] = ()
    target: Literal["label", "values"] = "label"
    class_weights: bool = False
    soft: bool = False
    probabilities: Literal["softmax", "sigmoid"] = (
        "softmax"  # what turns this loss's logits into probabilities
    )
    equation: str = ""
    source: str = ""


@dataclass(frozen=True)
class ScheduleRule:
    """The factor by which the learning rate is multiplied.

    ``factor(epoch, horizon, state, **hyperparameters) -> float`` is asked before every step;
    ``epoch`` is a float that counts the epochs done (2.5 in the middle of the third) and
    ``horizon`` the number of epochs that the run was planned for (with the setting
    ``schedule_unit="step"`` both count steps). A schedule that reacts to what
    happened has ``observe(metric, state, **hyperparameters)``, called after every epoch with the
    validation loss (the training loss if there is no validation set); it keeps what it needs in
    ``state``, a dict of floats that is saved with the run.
    """

    name: str
    factor: Callable[..., float]
    hyperparameters: tuple[Hyperparameter, ...] = ()
    observe: Callable[..., None] | None = None
    state: tuple[tuple[str, float], ...] = ()
    has_horizon: bool = False  # the horizon matters, so a resumed run keeps the stored one
    equation: str = ""
    source: str = ""


@dataclass(frozen=True)
class ActivationRule:
    """A layer that is one function of one element: two undecorated scalar functions, compiled into
    fused loops.

    ``value(x, *hyperparameters) -> y`` and ``derivative(x, *hyperparameters) -> dy/dx``; with
    ``reads="y"`` the derivative is a function of y, and the layer needs no memory of its own. At
    most two hyperparameters. Numbers are of the buffers' dtype (float literals too; an integer
    literal makes float64 of what it touches: write 2.0 and not 2). For a value from the other side
    of a choice write ``a if x < b else c``: ``min`` and ``max`` do not compile for CUDA.
    """

    name: str
    value: Callable[..., float]
    derivative: Callable[..., float]
    reads: Literal["x", "y"] = "x"
    hyperparameters: tuple[Hyperparameter, ...] = ()
    rectifies: bool = (
        False  # about 0 below 0 and x above: weights before it begin as He et al. 2015 say
    )
    kinks: tuple[
        float, ...
    ] = ()  # the x at which the derivative jumps, whatever the hyperparameters
    equation: str = ""
    source: str = ""


@dataclass(frozen=True)
class LayerRule:
    """A layer of one input: functions of one sample's arrays, for the CPU.

    ``output_shape(input_shape, **hyperparameters)`` gives the shape of one sample, (height, width,
    channels) or (features,), and raises `ValueError`, saying what would fit, for an input that does
    not. ``parameters(input_shape, **hyperparameters)`` gives {name: (shape, first value)}; the
    first value is a number, or "weight" for the usual random one of a tensor [..., inputs,
    outputs].

    Two undecorated functions are compiled, and called for each sample with arrays of those shapes:
    ``forward(x, y, *parameters, *hyperparameters)`` writes every element of y; ``backward(x, y, dy,
    dx, *parameters, *gradients, *hyperparameters)`` writes every element of dx and adds to the
    parameters' gradients. Hyperparameters are numbers of the buffers' dtype. Neither may keep or
    allocate an array.
    """

    name: str
    output_shape: Callable[..., tuple[int, ...]]
    forward: Callable[..., None]
    backward: Callable[..., None]
    parameters: Callable[..., Mapping[str, tuple[tuple[int, ...], float | str]]] = (
        lambda input_shape, **_: {}
    )
    hyperparameters: tuple[Hyperparameter, ...] = ()
    equation: str = ""
    source: str = ""


AnyLayer = ActivationRule | LayerRule
