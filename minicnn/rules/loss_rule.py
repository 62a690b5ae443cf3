"""A loss as a rule for one sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from minicnn.rules.hyperparameter import Hyperparameter


@dataclass(frozen=True)
class LossRule:
    """A loss on one sample: one undecorated function of a row of logits.

    ``row(logits, target, dlogits, *hyperparameters) -> loss`` reads ``logits`` [outputs], writes the gradient of this
    sample's loss into ``dlogits`` [outputs] and returns the loss. ``target`` is the label (an integer) or, with
    ``target="values"``, an array [outputs]: the target values, or the one-hot row of the label. With
    ``class_weights=True`` an array [outputs] of class weights follows ``dlogits``, before the hyperparameters.
    The mean over the batch is taken outside: the divisor is the number of samples or, with class weights, the sum of
    the weights of the samples' classes.
    """

    name: str
    row: Callable[..., float]
    hyperparameters: tuple[Hyperparameter, ...] = ()
    target: Literal["label", "values"] = "label"
    class_weights: bool = False
    probabilities: Literal["softmax", "sigmoid"] = "softmax"  # what turns this loss's logits into probabilities
    equation: str = ""
    source: str = ""
