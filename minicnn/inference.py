"""A trained network for inference alone: forward passes, no gradients, no training plugin."""

import functools
import importlib
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minicnn.data.dataset import Split, as_array, as_weights, check_values
from minicnn.data.labels import Classes
from minicnn.data.normalization import Normalization, as_normalization, channel_scale
from minicnn.data.reading import note
from minicnn.data.tta import Averaged, suited
from minicnn.errors import DataError, MinicnnError, SettingError, short
from minicnn.evaluation.loss import Loss
from minicnn.evaluation.metrics import Evaluation, evaluate
from minicnn.evaluation.profile import Profile, profile
from minicnn.kinds import POSITIVE
from minicnn.memory import aligned_copy, aligned_zeros, check_array
from minicnn.network.checks import integer
from minicnn.network.network import Network, check_network
from minicnn.program.fold import fold

# The range ``seen`` of a model whose images are standardised elsewhere.
ANY_VALUES = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))


class NjitArguments(NamedTuple):
    """The first three arguments of `minicnn.forward`, for the user's own compiled code."""

    plan: np.ndarray
    params: np.ndarray
    work: np.ndarray

    def __reduce__(self) -> Any:
        raise TypeError(
            "a plan holds addresses of compiled code, which mean nothing in another process: pickle "
            "the model, and call njit_arguments() there"
        )


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights, the names of its classes and the scale of its images.

    ``params`` is the flat float32 vector of all weights, copied and read-only: what inference
    computes with is made of it once; ``maximum`` is the image value that is
    scaled to 1, and ``image_dtype`` ("uint8", "uint16" or "float32") the kind of images that it
    holds for. ``training`` says how the model was made: data, loss, settings and the figures
    reached. ``device`` is where it computes, "cpu" or "cuda". ``labels`` are what labels call the
    classes, where that is not their numbers 0, 1, ... ``task`` is "classification", "multilabel"
    (each output says yes or no) or "regression" (each output is a value), and ``classes`` name the
    outputs. ``seen`` is the range of the standardised images that it was trained on, if they were.
    ``normalization`` is the mean and the deviation of each channel of the training images, from 0
    to 1, where the network reads (image / maximum − mean) / deviation.
    """

    network: Network
    params: np.ndarray
    classes: tuple[str, ...]
    maximum: float = 255.0
    image_dtype: str = "uint8"
    probabilities: str = "softmax"
    threads: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    labels: tuple[int | str, ...] | None = None
    task: str = "classification"
    seen: tuple[float, float] | None = None
    normalization: Normalization | None = None
    # Dtype and shape of the last bytes that `check_images` found to fit, and their scale.
    _fit: ClassVar[Any] = (None, 0.0)

    def __post_init__(self) -> None:
        if np.ndim(self.classes) != 1 and not isinstance(self.classes, str):
            raise MinicnnError(f"classes must be names, one per output, not {self.classes!r}")
        vars(self).update(classes=tuple(map(str, self.classes)))
        check_network(self.network)
        if self.labels is not None:
            vars(self).update(labels=tuple(as_array("labels", self.labels).tolist()))
        if self.labels is not None and len(self.labels) != len(self.classes):
            raise MinicnnError(
                f"there are {len(self.classes)} classes but {len(self.labels)} labels"
            )
        if len(self.classes) != self.network.outputs:
            raise MinicnnError(
                f"the network has {self.network.outputs} outputs but there are {len(self.classes)} classes"
            )
        check_array("params", self.params, (self.network.flat_size,), writable=False)
        if not np.isfinite(self.params).all():
            raise MinicnnError("params hold what is no finite number")
        self.__setstate__({"params": self.params})
        POSITIVE.check("maximum", self.maximum)
        normalization = as_normalization(self.normalization, self.network.input_shape[2])
        vars(self).update(normalization=normalization)
        for name, known in (
            ("image_dtype", ("uint8", "uint16", "float32")),
            ("probabilities", ("softmax", "sigmoid")),
            ("task", ("classification", "multilabel", "regression")),
        ):
            if getattr(self, name) not in known:
                raise MinicnnError(
                    f"{name} must be {' or '.join(known)}, not {getattr(self, name)!r}"
                )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: everything but the cached compiled state, which belongs to this
        process."""
        made = ("_inference", "_folded", "_fit")
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the pickled state with its own copy of the weights."""
        vars(self).update(state, params=aligned_copy(state["params"]))
        self.params.flags.writeable = False

    def _repr_html_(self) -> str:
        html: str = pkgutil.resolve_name("minicnn.report.notebook:model_html")(self)
        return html

    @functools.cached_property
    def _inference(self) -> Any:
        from minicnn.backends import backend

        return backend(self.device).Inference(*self._folded, self.threads, constant=True)

    def _views(self, tta: str | None) -> Any:
        if tta is None:
            return self._inference
        return Averaged(self._inference, suited(tta, self.training))

    @functools.cached_property
    def _folded(self) -> tuple[Network, np.ndarray]:
        """The network and the parameters that inference computes with, batch normalization folded
        into its neighbours."""
        return fold(self.network, aligned_copy(self.params))

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights by name (``conv1.weight``, ...), as read-only views of ``params``."""
        return self.network.unflatten(self.params)

    @property
    def scale(self) -> float | np.ndarray:
        """The factor from image values as they were trained on to the network's input, image ·
        scale + offset: 1 / maximum, or that of each channel [C] where they are normalized."""
        return self._scale_and_offset[0]

    @property
    def offset(self) -> float | np.ndarray:
        """What is added after the `scale`: 0, or that of each channel [C]."""
        return self._scale_and_offset[1]

    @property
    def _scale_and_offset(self) -> Any:
        scale = channel_scale(self.maximum, self.normalization)
        return (scale, 0.0) if isinstance(scale, float) else scale.copy()

    def logits(
        self, images: ArrayLike, maximum: float | None = None, tta: str | None = None
    ) -> np.ndarray:
        """The linear sums of the last layer, float32 [N, outputs].

        ``images`` is [N, H, W, C], or [N, H, W] for one channel, in whole numbers on the scale of
        the training images, or floats: on the training scale if that was floats, else from 0 to 1.
        Raises `DataError` for another shape, NaN, or values beyond the scale. ``maximum`` is the
        image value that is scaled to 1 where the images are on another scale. ``tta`` averages over
        views of each image, see `minicnn.data.tta`: "flip", "shift", "both", or "auto".
        """
        checked, scale = self.check_images(images, maximum)
        return self._views(tta).logits(checked, scale)

    def predict_proba(
        self, images: ArrayLike, maximum: float | None = None, tta: str | None = None
    ) -> np.ndarray:
        """Probabilities, float32 [N, classes]: the softmax of the logits, p_k = exp(z_k) / Σ_j
        exp(z_j).

        A model trained with binary cross-entropy has the sigmoid of each logit, 1 / (1 +
        exp(−z_k)), instead. Raises `DataError` for a model of values, which has none.
        """
        if self.task == "regression":
            raise DataError("the model predicts values, which have no probabilities")
        logits = self.logits(images, maximum, tta)
        if self.probabilities == "sigmoid":
            return np.exp(-np.logaddexp(0, -logits))
        with np.errstate(
            over="ignore"
        ):  # a difference beyond float32 is minus infinity, and its power 0
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, images: ArrayLike, tta: str | None = None) -> np.ndarray:
        """The most likely class of each image [N]: its number among ``classes``, or what the
        training labels called it.

        Of several labels an image: 0 or 1 for each, int64 [N, outputs]; of values: these, float32
        [N, outputs]. Either is [N] if there is one output.
        """
        logits = self.logits(images, tta=tta)
        if self.task != "classification":
            values = logits if self.task == "regression" else (logits > 0).astype(np.int64)
            return values[:, 0] if values.shape[1] == 1 else values
        chosen: np.ndarray = logits.argmax(axis=1)
        return chosen if self.labels is None else np.array(self.labels)[chosen]

    def evaluate(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        loss: Loss | None = None,
        maximum: float | None = None,
        sample_weight: ArrayLike | None = None,
        tta: str | None = None,
    ) -> Evaluation:
        """Figures over a labelled set; ``loss`` None is the loss that the model was trained with,
        if it is installed.

        ``maximum`` is the image value that is scaled to 1, where the images are on another scale
        than `logits` wants. ``sample_weight`` [N] says how much each image counts (None: 1).
        ``tta`` is that of `logits`.

        Raises `DataError` for no image, images that do not fit, and labels that are none of the
        classes; they have the forms that `Trainer.fit` takes.
        """
        checked, truth, scale = self.check_labelled(images, labels, maximum)
        if loss is None and "loss" in self.training:
            loss = self.trained_loss()
        if not isinstance(loss, Loss | None):
            raise SettingError(f"loss must be a Loss(name, classes), not {short(loss)}")
        weights = sample_weight
        if weights is not None:
            weights = as_weights("evaluate", as_array("weights", weights), len(checked))
        split = Split(checked, truth, weights)
        return evaluate(self._views(tta), split, scale, self.classes, loss, task=self.task)

    def profile(
        self, images: ArrayLike, maximum: float | None = None, seconds: float = 1.0
    ) -> Profile:
        """Where the time of predicting ``images`` goes, layer by layer, on one thread of the CPU;
        they are predicted again and again for some ``seconds``.

        Raises `DataError` for images that do not fit, see `logits`, and `SettingError` for a model
        on another device.
        """
        from minicnn.backends import backend

        if self.device != "cpu":
            raise SettingError("a profile is that of a model with device=cpu")
        checked, scale = self.check_images(images, maximum)
        if len(checked) == 0:
            raise DataError("there is no image to predict")
        inference = backend("cpu").Inference(*self._folded, 1, len(checked), constant=True)
        done = functools.partial(inference.logits, checked, scale)
        return profile(self._folded[0], inference, lambda: len(done()), {}, seconds)

    def trained_loss(self) -> Loss:
        """The loss that the model was trained with; raises `UnknownNameError` or `PluginError` if
        its plugin is gone."""
        made = self.training["loss"]
        return Loss(
            made["name"], len(self.classes), made["class_weights"], **made["hyperparameters"]
        )

    def check_images(
        self, images: ArrayLike, maximum: float | None = None
    ) -> tuple[np.ndarray, float | np.ndarray]:
        """(images as uint8 or float32 [N, H, W, C], their `channel_scale`); see `logits` for what is admitted
        without ``maximum``."""
        if maximum is not None:
            POSITIVE.check("maximum", maximum)
            maximum = float(maximum)
        elif type(images) is np.ndarray and images.flags.c_contiguous:
            given = images.dtype, images.shape
            if given == self._fit[0]:  # of bytes there is no more to check
                return images, self._fit[1]
        array = as_array("images", images)
        wanted = self.network.input_shape
        if array.ndim == 3 and wanted[2] == 1 and array.shape[1:] == wanted[:2]:
            array = array[..., np.newaxis]
        if array.ndim != 4 or array.shape[1:] != wanted:
            raise DataError(
                f"the model wants images [N, {wanted[0]}, {wanted[1]}, {wanted[2]}] (height, width, channels), "
                f"not {list(array.shape)}"
            )
        kind, is_uint8 = array.dtype.kind, array.dtype == np.uint8
        if kind not in "buif":
            raise DataError(f"images must be numbers, not {array.dtype}")
        if self.seen is not None:
            if kind != "f":
                raise DataError(
                    f"the model was trained on standardised floats, from {self.seen[0]:g} to {self.seen[1]:g}, not "
                    f"{array.dtype}: bring the images to the same mean and deviation"
                )
            if array.size:
                check_values("the images", array, seen=self.seen)
                if array.min() >= 0 and self.seen != ANY_VALUES:
                    note(
                        "the images have no value below 0: are they standardised like those of training?"
                    )
            return np.ascontiguousarray(array, np.float32), channel_scale(
                self.maximum, self.normalization
            )
        if maximum is None:
            maximum = self.maximum
            if kind == "b" or (kind == "f" and self.image_dtype != "float32"):
                maximum = 1.0
            elif is_uint8 and self.image_dtype != "uint8" and maximum in (1.0, 65535.0):
                maximum = 255.0
        if array.size and (not is_uint8 or maximum < 255):  # else no value can be wrong
            low, high = float(array.min()), float(array.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise DataError("the images contain NaN or infinity")
            if low < 0 or high > maximum:
                raise DataError(
                    f"image values must be from 0 to {maximum:g} for {array.dtype}, not {low:.8g} to {high:.8g}"
                )
        scale = channel_scale(maximum, self.normalization)
        if not is_uint8:
            array = array.astype(np.float32)
        elif array is images and maximum == self.maximum >= 255:
            vars(self).update(_fit=((array.dtype, array.shape), scale))
        return np.ascontiguousarray(array), scale

    def check_labelled(
        self, images: ArrayLike, labels: ArrayLike, maximum: float | None = None
    ) -> tuple[np.ndarray, np.ndarray, float | np.ndarray]:
        """(images, labels int64 [N], scale) of a labelled set as `evaluate` takes it."""
        checked, scale = self.check_images(images, maximum)
        if len(checked) == 0:
            raise DataError("there is no image to evaluate")
        known = Classes(self.classes, self.labels, self.task)
        truth = known.targets("evaluate", as_array("labels", labels))
        if len(truth) != len(checked):
            raise DataError(f"there are {len(checked)} images but {len(truth)} labels")
        return checked, truth, scale

    def njit_arguments(self, batch_size: int = 1, threads: int | None = None) -> NjitArguments:
        """Plan, parameters and workspace for calling `minicnn.forward` in compiled code, at best
        with ``batch_size`` images.

        One workspace serves one thread at a time. With ``threads`` there are as many, the rows of
        ``work``, for a loop that is spread over threads: ``forward(plan, params, work[thread], x,
        logits)``. Raises `SettingError` for numbers below 1.
        """
        from minicnn.backends.layout import lay_out, prepared

        batch_size = integer("njit_arguments", "batch_size", batch_size)
        workspaces = () if threads is None else (integer("njit_arguments", "threads", threads),)
        network, params = self._folded
        plan, params = prepared(lay_out(network, batch_size, False, params.dtype), params)
        work = aligned_zeros((*workspaces, plan.work_size), params.dtype)
        return NjitArguments(plan.table, params, work)

    def to_onnx(self, **options: Any) -> Any:
        """The model as an `onnx.ModelProto`; options and errors are those of
        `minicnn.formats.onnx_out.to_onnx`."""
        made = importlib.import_module("minicnn.formats.onnx_out")  # what is above this module
        return made.to_onnx(self, **options)

    def save(self, path: str | Path) -> None:
        """Write the model as safetensors: named tensors, and all that `load` needs as metadata."""
        importlib.import_module("minicnn.model_file").save(self, path)
