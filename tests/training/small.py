"""A small run that has all that a run can have: dropout, a last batch that is smaller, validation,
two shards."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from minicnn import Conv2d, Dense, Dropout, Flatten, MaxPool2d, Network, ReLU, Settings, Trainer
from minicnn.data.dataset import Dataset, build_dataset
from minicnn.storage import read_tensors
from minicnn.training.checkpoint import load_checkpoint

CLASSES = 3
BATCHES = (
    4  # an epoch of `dataset` in batches of 12: 45 training images, so that the last batch has 9
)


def network(dropout: float = 0.3) -> Network:
    layers = [Conv2d(3, 3), ReLU(), MaxPool2d(2), Flatten(), Dropout(dropout), Dense(CLASSES)]
    return Network(
        (6, 6, 1),
        layers if dropout else [layer for layer in layers if not isinstance(layer, Dropout)],
    )


def arrays(images: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Images of three classes, bright in another third each, under noise."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 150, (images, 6, 6, 1), dtype=np.uint8)
    y = np.arange(images) % CLASSES
    for k in range(CLASSES):
        x[y == k, 2 * k : 2 * k + 2] += np.uint8(60)
    return x, y


def dataset(images: int = 50, test: bool = True) -> Dataset:
    return build_dataset("small", arrays(images), arrays(20, seed=8) if test else None)


def contradictory_dataset() -> Dataset:
    """The validation labels are wrong: what a run learns makes the validation loss worse."""
    x, y = arrays(60, seed=3)
    held_out = build_dataset("wrong", (x, (y + 1) % CLASSES))
    return replace(dataset(45), validation=held_out.train)


def settings(**options) -> Settings:
    return Settings(**{"epochs": 4, "batch_size": 12, "threads": 2, **options})


def train(
    output: Path | None = None, data: Dataset | None = None, reporters=(), **options
) -> tuple[Trainer, list]:
    """(trainer, events) of a run of the small network."""
    trainer, events = Trainer(network(), settings(**options)), []
    reporters = [events.append, *(reporter(trainer) for reporter in reporters)]
    trainer.fit(data or dataset(), reporters=reporters, output=output)
    return trainer, events


def resume(
    folder: Path, reporters=(), data: Dataset | None = None, **options
) -> tuple[Trainer, list]:
    """Go on from the checkpoint in ``folder``, with the stored settings but for ``options``."""
    checkpoint = load_checkpoint(folder / "last.safetensors")
    trainer, events = (
        Trainer(checkpoint.network, replace(Settings(**checkpoint.settings), **options)),
        [],
    )
    reporters = [events.append, *(reporter(trainer) for reporter in reporters)]
    trainer.fit(data or dataset(), reporters=reporters, output=folder, resume=checkpoint)
    return trainer, events


def of_kind(events: list, kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def tensors(folder: Path, file: str = "last") -> dict[str, tuple]:
    """Every tensor of a run's file down to its bits."""
    found, _ = read_tensors(
        folder / f"{file}.safetensors", "checkpoint" if file == "last" else "model"
    )
    return {
        name: (tensor.dtype.str, tensor.shape, tensor.tobytes()) for name, tensor in found.items()
    }


def assert_same_run(folder: Path, other: Path) -> None:
    """Both runs reached the same state and the same model, bit by bit."""
    for file in ("last", "model"):
        found, expected = tensors(folder, file), tensors(other, file)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
