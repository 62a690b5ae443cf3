"""A schedule: how the learning rate changes while training goes on."""

from collections.abc import Callable
from dataclasses import dataclass

from minicnn.rules.hyperparameter import Hyperparameter


@dataclass(frozen=True)
class ScheduleRule:
    """The factor by which the learning rate is multiplied.

    ``factor(epoch, horizon, state, **hyperparameters) -> float`` is asked before every step; ``epoch`` is a float that
    counts the epochs done (2.5 in the middle of the third) and ``horizon`` the number of epochs that the run was
    planned for. A schedule that reacts to what happened has ``observe(metric, state, **hyperparameters)``,
    called after every epoch with the validation loss (the training loss if there is no validation set); it keeps what
    it needs in ``state``, a dict of floats that is saved with the run.
    """

    name: str
    factor: Callable[..., float]
    hyperparameters: tuple[Hyperparameter, ...] = ()
    observe: Callable[..., None] | None = None
    state: tuple[tuple[str, float], ...] = ()
    has_horizon: bool = False  # the horizon matters, so a resumed run keeps the stored one
    equation: str = ""
    source: str = ""
