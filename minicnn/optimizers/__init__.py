"""The built-in optimizers, found through entry points like those of third-party plugins, and the
hyperparameters that they share."""

from minicnn.rules import Hyperparameter

EPSILON = Hyperparameter(
    "epsilon", 1e-8, 0.0, open_minimum=True, meaning="added to the root, against division by zero"
)
WEIGHT_DECAY = Hyperparameter(
    "weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"
)


def learning_rate(default: float, meaning: str = "step size η") -> Hyperparameter:
    """A learning rate, above 0."""
    return Hyperparameter("learning_rate", default, 0.0, open_minimum=True, meaning=meaning)


def decay_rate(name: str, default: float, meaning: str) -> Hyperparameter:
    """A number from 0 to below 1."""
    return Hyperparameter(name, default, 0.0, 1.0, open_maximum=True, meaning=meaning)
