"""The images of a run: which of them train and which validate, their batches, and the augmentation
of each epoch."""

import zlib

import numpy as np

from minicnn.data import Dataset, Split, stratified_split
from minicnn.data.dataset import limited
from minicnn.data.normalization import channel_scale, measure, scaled
from minicnn.errors import DataError, SettingError
from minicnn.inference import Model
from minicnn.rules import AnyOptimizer
from minicnn.training.checkpoint import Checkpoint
from minicnn.training.settings import Settings, make_augment
from minicnn.training.setup import Setup

DEFAULT_BATCH_SIZE = 64


def fingerprint(split: Split) -> str:
    """A short check sum of images and labels, by which a resumed run knows its data."""
    total = zlib.crc32(split.labels.data, zlib.crc32(split.images.data))
    if split.weights is not None:
        total = zlib.crc32(split.weights.data, total)
    return f"{len(split)}-{total:08x}"


class Inputs:
    """The images of ``dataset`` as ``setup`` wants them; raises `DataError` and `SettingError` for
    what does not fit. ``begun`` is the checkpoint or the model that the run goes on from.

    ``images`` [N, H·W·C] with ``labels`` [N] and ``sample_weights`` [N] or None are all that the
    data set has for training; ``train`` int64 [n] says which of them train, ``held_out`` which of
    ``validation`` validate. ``scale`` is that of the channels, see `channel_scale`.
    """

    def __init__(self, setup: Setup, dataset: Dataset, begun: Checkpoint | Model | None):
        settings = setup.settings
        self.dataset, self._seed = dataset, settings.seed
        self.images = dataset.train.images.reshape(len(dataset.train), -1)
        self.labels = dataset.train.labels.copy()  # by which compiled code reads tables
        self.sample_weights = dataset.train.weights
        self.has_classes = dataset.task == "classification"
        self._split(settings)
        self.batch_size = _choose_batch_size(setup.optimizer_rule, settings, len(self.train))
        self.batches = -(-len(self.train) // self.batch_size)
        self.normalization = begun.normalization if begun else None
        if settings.normalize and self.normalization is None:
            if setup.init is not None:
                raise SettingError(
                    "normalize cannot be added to a trained model: this one was trained without"
                )
            self.normalization = measure(dataset.train.images, self.train, dataset.maximum)
        self.scale = channel_scale(dataset.maximum, self.normalization)
        self.augment = make_augment(settings.augment)
        self._is_augmented = bool(settings.augment)
        self.augment.check(dataset.train.images)
        self._views: tuple[int, np.ndarray | None] = 0, None
        self.fingerprint = fingerprint(dataset.train)

    def _split(self, settings: Settings) -> None:
        """Which images train and which validate: ``limit`` keeps some, then the validation set is
        taken out."""
        # Values are no classes: all images are of one kind.
        self.strata = self.labels if self.has_classes else np.zeros(len(self.labels), np.int64)
        kept = limited(self.strata, settings.limit, settings.seed)
        if self.dataset.validation is not None:
            self.train, self.held_out = kept, np.arange(len(self.dataset.validation))
            self.validation: Split | None = self.dataset.validation
        else:
            train, held_out = stratified_split(self.strata[kept], settings.val_split, settings.seed)
            self.train, self.held_out = kept[train], kept[held_out]
            self.validation = self.dataset.train if len(self.held_out) else None
        if len(self.train) == 0:
            raise DataError(f"{self.dataset.name}: no image is left to train on")
        left_out = np.setdiff1d(self.strata, self.strata[self.train])
        if left_out.size:  # every class keeps an image where there is room for it
            raise SettingError(
                f"limit {settings.limit} leaves no image of class "
                f"{self.dataset.classes[left_out[0]]!r} to train on"
            )

    def first(self, count: int = 5000) -> np.ndarray:
        """The first ``count`` training images [n, H, W, C], or all of fewer, as the network reads
        them."""
        return scaled(self.dataset.train.images[self.train[:count]], self.scale)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the training images in ``epoch``: a function of the seed and the epoch, so
        nothing is stored."""
        return np.random.default_rng([self._seed, 1, epoch]).permutation(self.train)

    def batch(self, order: np.ndarray, index: int) -> np.ndarray:
        """Batch ``index`` of an epoch's ``order``."""
        return order[index * self.batch_size : (index + 1) * self.batch_size]

    def views(self, epoch: int) -> np.ndarray | None:
        """The augmentation drawn for all images in ``epoch``; None without augmentation."""
        if self._is_augmented and self._views[0] != epoch:
            dataset = self.dataset
            middle = 0.0 if dataset.seen else None
            given = dataset.train.images, self.train, dataset.maximum, middle
            self._views = epoch, self.augment.draw(self._seed, epoch, *given)
        return self._views[1]


def _choose_batch_size(rule: AnyOptimizer, settings: Settings, count: int) -> int:
    if rule.full_batch:
        if settings.batch_size not in (None, count):
            raise SettingError(
                f"optimizer {rule.name} takes the full batch, all {count} training "
                "images: leave the batch size out"
            )
        return count
    if settings.batch_size is not None and settings.batch_size > count:
        raise SettingError(
            f"batch_size {settings.batch_size} is above the number of training images, {count}"
        )
    return settings.batch_size or min(DEFAULT_BATCH_SIZE, count)
