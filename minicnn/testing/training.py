"""Small trainings on the embedded data: does it learn, does it resume bitwise, does it compile
again."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from numba.core import event

from minicnn.data import Dataset, load_dataset
from minicnn.errors import DivergedError, SettingError
from minicnn.network.network import Network
from minicnn.network.presets import preset
from minicnn.rules import AnyOptimizer, Hyperparameter, LossRule
from minicnn.testing.checks import CheckFailed
from minicnn.training.checkpoint import Progress, load_checkpoint
from minicnn.training.trainer import Trainer

IMAGES = 2000
ENOUGH = 0.5  # accuracy; ten classes, so chance is 0.1; the built-in optimizers reach 0.61 to 0.76
RATES = (1.0, 10.0, 0.1)  # of the default learning rate


@functools.cache
def _data(images: int = IMAGES) -> Dataset:
    whole = load_dataset("fashion-mnist-12k")
    train = replace(
        whole.train, images=whole.train.images[:images], labels=whole.train.labels[:images]
    )
    return replace(whole, train=train)


def _trainer(network: str | Network = "softmax", **options: Any) -> Trainer:
    options = {"epochs": 2, "threads": 1, "val_split": 0.0, **options}
    return Trainer(
        preset(network, (28, 28, 1), 10) if isinstance(network, str) else network, **options
    )


def learns(full_batch: bool = False, rate: float | None = None, **options: Any) -> str:
    """LeNet-5, or another network, learns 2,000 images: its accuracy on the test images is far
    above chance.

    With ``rate``, the default learning rate, also ten times and a tenth of it are tried. A rule on
    the full batch makes 100 steps of a softmax regression instead.
    """
    reached = []
    network = options.pop("network", "softmax" if full_batch else "lenet5")
    epochs = 100 if full_batch else 5
    for factor in RATES if rate else RATES[:1]:
        if rate:
            options["learning_rate"] = factor * rate
        try:
            trainer = _trainer(network, epochs=epochs, **options)
            test = trainer.fit(_data()).ended.test
        except (DivergedError, SettingError):
            continue  # the rate is too large, or outside the range
        assert test is not None
        reached.append(test.accuracy)
        if test.accuracy >= ENOUGH:
            at = f" at the learning rate {factor * rate:g}" if rate else ""
            return f"accuracy {test.accuracy:.2f} after {epochs} epochs of {IMAGES:,} images{at}"
    raise CheckFailed(
        f"accuracy {max(reached, default=0):.2f} after {epochs} epochs, below {ENOUGH}"
    )


def resumes(**options: Any) -> str:
    """Four epochs in one go, and two and two with a file in between, end with the same bits."""
    data = _data(300)
    straight, resumed = (_trainer(epochs=4, horizon=4, **options) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        _trainer(epochs=2, horizon=4, **options).fit(data, output=Path(folder))
        straight.fit(
            data
        )  # in between, so that what a rule keeps to itself is not by chance what the resumed run needs
        resumed.fit(data, resume=load_checkpoint(Path(folder) / "last.safetensors"))
    one, other = straight.progress, resumed.progress
    assert isinstance(one, Progress) and isinstance(other, Progress)
    for what in ("params", "best_params", "slots"):
        if getattr(one, what).tobytes() != getattr(other, what).tobytes():
            raise CheckFailed(
                f"the {what} differ; is there something that is kept in neither slots nor state?"
            )
    for what in ("optimizer_state", "schedule_state"):
        if getattr(one, what) != getattr(other, what):
            raise CheckFailed(
                f"{what} is {getattr(other, what)}, and without a stop {getattr(one, what)}"
            )
    return "weights, slots and state are bitwise equal"


def compiles_once(**options: Any) -> str:
    """A second training in the same process compiles nothing."""
    for _ in range(2):
        with event.install_recorder("numba:compile") as recorder:
            _trainer(epochs=1, **options).fit(_data(300))
    if recorder.buffer:
        raise CheckFailed(f"{len(recorder.buffer)} functions were compiled again")
    return "the second run compiled nothing"


def _constant_gradient(logits, label, dlogits, size):
    for k in range(len(logits)):
        dlogits[k] = size
    dlogits[label] = -size
    return logits[label]


GRADIENT = LossRule("constant_gradient", _constant_gradient, (Hyperparameter("size", 1.0),))


def stays_finite(rule: AnyOptimizer) -> str:
    """Gradients of zero, tiny and huge size leave finite weights."""
    sizes = (0.0, 1e-30, 1e-8, 1e4, 1e30)
    for size in sizes:
        try:
            _trainer(epochs=1, optimizer=rule, loss=GRADIENT, loss_kwargs={"size": size}).fit(
                _data(100)
            )
        except DivergedError:
            raise CheckFailed(
                f"gradients of size {size:g} lead to weights that are not finite"
            ) from None
    return f"gradients of size {', '.join(f'{size:g}' for size in sizes)}"
