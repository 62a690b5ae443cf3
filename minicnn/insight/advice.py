"""What the figures of a run say about it, in words: what goes wrong, and what to try.

Losses and gradient norms come with every epoch; what concerns single tensors and layers needs the
record of the run. The limits are those that no usual run on the embedded data comes near; each
warning is given once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from minicnn.training.events import EpochDone, Event, Recorded, RunStarted

# of the gradient of the last weights: the smallest usual fraction, in VGG and LeNet, was 0.1
VANISHING_RATIO = 0.01
EXPLODING_RATIO = 10.0  # times the least mean gradient norm of an earlier epoch
DEAD_FRACTION = 0.6  # fraction of a layer's channels; up to 0.42 was seen in runs that did well
LOSS_INCREASE = 1.15  # times the training loss of the epoch before
LARGE_UPDATE, SMALL_UPDATE = 0.1, 1e-4  # of the weights, in a step; usual are 0.0003 to 0.02
STALLED_RATIO = 0.9  # times the training loss of the epoch before: it hardly falls
GOOD_ACCURACY = 0.9  # training accuracy from which on small or uneven progress is no harm
OVERFIT, EPOCHS = 1.2, 3  # times the least validation loss, for so many epochs


@dataclass(frozen=True)
class Advice:
    """A warning after an epoch: its ``kind`` in a few words, and ``text``, which says what was seen
    and what to try."""

    epoch: int
    kind: str
    text: str


def advised(events: Iterable[Event]) -> Iterator[Event | Advice]:
    """The events of a run, and after those of an epoch the warnings that it deserves.

    >>> from minicnn import Dense, Flatten, Network, Trainer  # doctest: +SKIP
    >>> for event in advised(Trainer(network, record=0).run(dataset)): ...  # doctest: +SKIP
    """
    seen, given = _Seen(), set()
    for event in events:
        yield event
        if isinstance(event, RunStarted):
            seen.learning_rate = event.settings.get("learning_rate")
        elif isinstance(event, Recorded):
            seen.line = event
        elif isinstance(event, EpochDone):
            for kind, text in _warnings(event, seen):
                if kind not in given:
                    given.add(kind)
                    yield Advice(event.epoch, kind, f"{kind}: {text}")
            seen.epochs.append(event)


@dataclass
class _Seen:
    """What is known when an epoch is done."""

    learning_rate: float | None = None  # without schedule and warm-up
    line: Recorded | None = None  # the last one
    epochs: list[EpochDone] = field(default_factory=list)  # those before


def _warnings(epoch: EpochDone, seen: _Seen) -> Iterator[tuple[str, str]]:
    """(kind, text) of everything that is wrong."""
    grown = min((before.gradient_norm for before in seen.epochs), default=epoch.gradient_norm)
    if epoch.gradient_norm > EXPLODING_RATIO * grown:
        yield (
            "exploding gradients",
            (
                f"their norm grew from {grown:.3g} to {epoch.gradient_norm:.3g}; try --clip-grad "
                f"{2 * grown:.2g} or a smaller learning rate"
            ),
        )
    if seen.line is not None:
        yield from _of_tensors(seen.line)
        yield from _of_units(seen.line)
    yield from _of_learning_rate(epoch, seen)
    yield from _of_overfitting(epoch, seen.epochs)


def _weights(figures: dict[str, float | None]) -> dict[str, float]:
    """The figures of weights alone: biases are few, and 0 at the start."""
    return {
        name: figure
        for name, figure in figures.items()
        if name.endswith(".weight") and figure is not None
    }


def _of_tensors(line: Recorded) -> Iterator[tuple[str, str]]:
    norms = _weights(line.gradient_norm)
    if len(norms) < 2 or not all(norms.values()):
        return
    *before, last = norms
    least = min(before, key=norms.__getitem__)
    if norms[least] < VANISHING_RATIO * norms[last]:
        yield (
            "vanishing gradients",
            (
                f"that of {least} is {norms[last] / norms[least]:,.0f} times smaller than that of {last}; try ReLU in "
                "place of Sigmoid or Tanh, or fewer layers"
            ),
        )


def _of_units(line: Recorded) -> Iterator[tuple[str, str]]:
    layer = max(line.dead, key=line.dead.__getitem__, default="")
    if layer and line.dead[layer] > DEAD_FRACTION:
        yield (
            "dead units",
            (
                f"{100 * line.dead[layer]:.0f} % of the channels of {layer} are 0 on every image looked at, so "
                "that they learn nothing; try a smaller learning rate, or LeakyReLU"
            ),
        )


def _of_learning_rate(epoch: EpochDone, seen: _Seen) -> Iterator[tuple[str, str]]:
    rate, before = epoch.learning_rate, seen.epochs[-1].train_loss if seen.epochs else None
    updates = _weights(seen.line.update_ratio) if seen.line is not None else {}
    tensor = max(updates, key=updates.__getitem__, default="")
    if (
        before is not None
        and epoch.train_loss > LOSS_INCREASE * before
        and epoch.train_accuracy < GOOD_ACCURACY
    ):
        yield (
            "learning rate too large",
            (
                f"the training loss rose from {before:.3g} to {epoch.train_loss:.3g}; "
                f"try --lr {rate / 3:.1g}"
            ),
        )
    elif updates and updates[tensor] > LARGE_UPDATE:
        yield (
            "learning rate too large",
            (
                f"a step changes {tensor} by {100 * updates[tensor]:.0f} %, where 0.1 % is usual; "
                f"try --lr {rate * 0.01 / updates[tensor]:.1g}"
            ),
        )
    usual = (
        seen.learning_rate is None or rate > seen.learning_rate / 2
    )  # not that of a warm-up or the end of a schedule
    if (
        before is not None
        and usual
        and epoch.train_loss > STALLED_RATIO * before
        and epoch.train_accuracy < GOOD_ACCURACY
        and updates
        and updates[tensor] < SMALL_UPDATE
    ):
        yield (
            "learning rate too small",
            (
                f"the training loss hardly falls, and a step changes the weights by {100 * updates[tensor]:.1g} % at most; "
                f"try --lr {min(100.0, 1e-3 / max(updates[tensor], 1e-5)) * rate:.1g}"
            ),
        )


def _of_overfitting(epoch: EpochDone, before: list[EpochDone]) -> Iterator[tuple[str, str]]:
    known = [
        (done.validation_loss, done)
        for done in [*before, epoch]
        if done.validation_loss is not None
    ]
    if len(known) <= EPOCHS:
        return
    least, best = min(known, key=lambda pair: pair[0])
    if all(
        loss > OVERFIT * least and done.train_loss < best.train_loss
        for loss, done in known[-EPOCHS:]
    ):
        yield (
            "overfitting",
            (
                f"the validation loss is {known[-1][0]:.3g} and was {least:.3g} in epoch {best.epoch}, while the training "
                "loss falls; try more images, Dropout, --opt adamw --weight-decay 0.01, or --patience 3"
            ),
        )
