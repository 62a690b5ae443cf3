"""The scikit-learn estimator: `Trainer` with the interface of scikit-learn."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minicnn.data.dataset import (
    Dataset,
    Split,
    as_images,
    as_weights,
    channels_last,
    natural_maximum,
)
from minicnn.errors import DataError, MissingExtraError
from minicnn.inference import ANY_VALUES, Model
from minicnn.memory import aligned_copy
from minicnn.network.network import Network
from minicnn.network.presets import preset
from minicnn.training.trainer import Trainer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError:
    raise MissingExtraError("minicnn.sklearn", "scikit-learn 1.6 or later", "sklearn") from None

# For `check_estimator(..., expected_failed_checks=)`.
EXPECTED_FAILED_CHECKS = {
    "check_sample_weight_equivalence_on_dense_data": "an image that is repeated falls into other "
    "batches than one that weighs more, and stochastic gradient descent takes other steps"
}


class MiniCNNClassifier(ClassifierMixin, BaseEstimator):
    """A convolutional network as a scikit-learn classifier.

    ``network`` is the name of a preset, or a `Network`. Images are [N, H, W, C] or [N, H, W]; with
    ``channels`` "first" [N, C, H, W]; or rows of features [N, H·W·C], which ``image_shape`` (H, W)
    or (H, W, C) makes images of (None: images of 1 × features). Whole numbers of 8 or 16 bits are
    scaled by their dtype. All others are standardised by the mean and the deviation of each
    feature (each channel of images) in the first data seen, and ``standardize`` False takes floats
    from 0 to 1 as they are. Labels are anything that scikit-learn takes for classes.

    With ``early_stopping`` a share ``validation_fraction`` is held out, training ends after
    ``n_iter_no_change`` epochs without a better validation loss, and the best weights are kept.
    ``warm_start`` goes on from the weights of the last `fit`. ``class_weight`` is a mapping,
    "balanced" or None. ``options`` are further settings of `Trainer`, such as ``{"schedule":
    "cosine"}``; ``threads`` None takes as many as joblib leaves to each worker.

    After `fit`: ``classes_``, ``n_features_in_``, ``n_iter_`` (epochs), ``loss_curve_`` (training
    loss an epoch), ``validation_scores_`` (accuracy an epoch, with early stopping), and ``model_``,
    a `Model`.
    """

    def __init__(
        self,
        network: str | Network = "mlp",
        *,
        image_shape: tuple[int, ...] | None = None,
        channels: str = "last",
        standardize: bool = True,
        max_iter: int = 20,
        batch_size: int | None = None,
        optimizer: str = "adam",
        learning_rate: float | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        random_state: Any = None,
        threads: int | None = None,
        verbose: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        self.network = network
        self.image_shape = image_shape
        self.channels = channels
        self.standardize = standardize
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.threads = threads
        self.verbose = verbose
        self.options = options

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> "MiniCNNClassifier":
        """Train from the first weights, or with ``warm_start`` from those of the last fit.

        Raises `ValueError`, of which `DataError` and `SettingError` are kinds, for what does not
        fit.
        """
        if not self.warm_start:
            for name in [name for name in vars(self) if name.endswith("_")]:
                delattr(self, name)
        return self._train(X, y, sample_weight)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> "MiniCNNClassifier":
        """Train for one epoch on from the present weights, without early stopping; the first call
        needs all ``classes`` unless ``y`` has them. The optimizer's averages begin anew."""
        return self._train(X, y, sample_weight, classes, is_partial=True)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities, float32 [N, classes] in the order of ``classes_``."""
        check_is_fitted(self, "model_")
        images: Any = validate_data(self, X, reset=False, allow_nd=True)
        return self.model_.predict_proba(self._images(images))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable class of each image [N], as the labels had it."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_class = True
        return tags

    def _train(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        classes: ArrayLike | None = None,
        is_partial: bool = False,
    ) -> "MiniCNNClassifier":
        goes_on = hasattr(self, "model_")
        images, labels = validate_data(self, X, y, reset=not goes_on, allow_nd=True)
        check_classification_targets(labels)
        if not goes_on:
            self.classes_ = np.unique(labels if classes is None else np.asarray(classes))
            if len(self.classes_) < 2:
                raise DataError(
                    f"there is 1 class, {self.classes_.tolist()[0]!r}, and two are needed"
                )
        unknown = ~np.isin(labels, self.classes_)
        if unknown.any():
            raise DataError(
                f"y has the label {labels[unknown].tolist()[0]!r}, which is not among classes_"
            )
        split = Split(
            self._images(images, measure=not goes_on),
            np.searchsorted(self.classes_, labels).astype(np.int64),
            self._weights(images, labels, sample_weight),
        )
        stops = self.early_stopping and not is_partial
        held_out = self.validation_fraction if stops else 0.0
        most = max(1, int(len(split) * (1 - held_out)))
        settings = {
            "epochs": 1 if is_partial else self.max_iter,
            "batch_size": self.batch_size and min(self.batch_size, most),
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "seed": int(check_random_state(self.random_state).randint(2**31 - 1)),
            "threads": self.threads,
            "val_split": held_out,
            "patience": self.n_iter_no_change if stops else None,
        }
        trainer = Trainer(
            self.model_ if goes_on else self._network(split.images.shape[1:]),
            **settings | dict(self.options or {}),
        )
        history = trainer.fit(self._dataset(split), progress=self.verbose)
        self.model_: Model = trainer.model
        if not stops:  # the last weights: the best ones are chosen without the weights of samples
            assert trainer.progress is not None
            self.model_ = replace(self.model_, params=aligned_copy(trainer.progress.last))
        before: list[float] = self.loss_curve_ if is_partial and goes_on else []
        self.loss_curve_: list[float] = [*before, *(epoch.train_loss for epoch in history.epochs)]
        self.n_iter_ = len(self.loss_curve_)
        if stops:
            self.validation_scores_ = [epoch.validation_accuracy for epoch in history.epochs]
        return self

    def _images(self, X: np.ndarray, measure: bool = False) -> np.ndarray:
        """X as [N, H, W, C], standardised by what was measured, or is measured now."""
        has_features = X.ndim == 2 and self.image_shape is None
        if X.ndim == 2:
            X = X.reshape(len(X), *(self.image_shape or (1, X.shape[1])))
        images = as_images("X", channels_last(X, self.channels))
        if measure:
            self.mean_ = self.deviation_ = None
            self.maximum_ = natural_maximum("X", X.dtype) if X.dtype.kind in "bu" else 1.0
            if self.standardize and X.dtype not in (np.uint8, np.uint16):
                axes = (0,) if has_features else (0, 1, 2)
                self.mean_ = images.mean(axis=axes, dtype=np.float64)
                deviation = images.std(axis=axes, dtype=np.float64)
                self.deviation_ = np.where(deviation > 0, deviation, 1.0)
        if self.mean_ is None or self.deviation_ is None:
            return images
        return ((images - self.mean_) / self.deviation_).astype(np.float32)

    def _weights(
        self, X: np.ndarray, y: np.ndarray, sample_weight: ArrayLike | None
    ) -> np.ndarray | None:
        """How much each image counts, float32 [N]; None: all the same."""
        if sample_weight is None and self.class_weight is None:
            return None
        weights = _check_sample_weight(sample_weight, X)
        if self.class_weight is not None:
            weights = weights * compute_sample_weight(self.class_weight, y)
        return as_weights("sample_weight", weights, len(y))

    def _network(self, shape: tuple[int, ...]) -> Network:
        if isinstance(self.network, Network):
            return self.network
        return preset(self.network, shape, len(self.classes_))

    def _dataset(self, split: Split) -> Dataset:
        return Dataset(
            "X",
            split,
            None,
            tuple(map(str, self.classes_)),
            self.maximum_,
            labels=tuple(self.classes_.tolist()) if self.classes_.dtype.kind in "iU" else None,
            seen=None if self.mean_ is None else ANY_VALUES,
        )
