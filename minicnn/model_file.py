"""A model as a file: safetensors with all that `load` needs as metadata."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minicnn.errors import ModelFileError, SettingError, short
from minicnn.inference import Model
from minicnn.network.network import Network
from minicnn.storage import MALFORMED, as_path, check_types, read_tensors, write_tensors

_NEEDED: dict[str, Any] = {
    "network": dict,
    "classes": list,
    "maximum": (int, float),
    "image_dtype": str,
    "probabilities": str,
    "training": dict,
}
_FIELDS = (  # of `Model`, as they are in the metadata
    "classes",
    "maximum",
    "image_dtype",
    "probabilities",
    "labels",
    "task",
    "seen",
    "normalization",
)
_TRAINING = {  # what may be there
    "data": str,
    "settings": dict,
    "loss": dict,
    "figures": dict,
    "fingerprint": str,
}


def save(model: Model, path: str | Path) -> None:
    """Write ``model`` to ``path``; the same as ``model.save(path)``."""
    if not isinstance(model, Model):
        raise SettingError(f"model must be a Model, not {short(model)}")
    fields = {name: getattr(model, name) for name in _FIELDS}
    metadata = {"network": model.network.to_dict(), **fields, "training": dict(model.training)}
    write_tensors(as_path("path", path), "model", model.weights, metadata)


def load(path: str | Path, threads: int | None = None, device: str = "cpu") -> Model:
    """Load a model that `Model.save` or `train` wrote; a run folder means its `model.safetensors`.

    Raises `ModelFileError`, which names the file, if it is missing, damaged, truncated or foreign,
    and `DeviceError` for a ``device`` that cannot be used.
    """
    from minicnn.backends import check_device

    check_device(device)
    path = as_path("path", path)
    if path.is_dir() and (path / "model.safetensors").exists():
        path = path / "model.safetensors"
    tensors, metadata = read_tensors(path, "model")
    try:
        check_types(metadata, **_NEEDED)
        made = {name: kind for name, kind in _TRAINING.items() if name in metadata["training"]}
        check_types(metadata["training"], **made)
        if "loss" in made:
            _check_loss(metadata["training"]["loss"])
        if not all(isinstance(name, str) for name in metadata["classes"]):
            raise ValueError("its classes are not names")
        fields = {name: metadata[name] for name in _FIELDS if name in metadata}
        fields |= {"maximum": float(fields["maximum"]), "seen": _range(fields.get("seen"))}
        network = Network.from_dict(metadata["network"])
        given = network, network.flatten(tensors)
        training = metadata["training"]
        return Model(*given, **fields, threads=threads, training=training, device=device)
    except MALFORMED as error:
        raise ModelFileError(f"{path} does not hold a usable model: {error}") from None


def _check_loss(loss: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless `Model.trained_loss` can be made of it."""
    check_types(loss, name=str, hyperparameters=dict, class_weights=(list, type(None)))
    for value in (*loss["hyperparameters"].values(), *(loss["class_weights"] or ())):
        if not isinstance(value, float | int) or not math.isfinite(float(value)):
            raise ValueError(f"its loss has the value {short(value)}")


def _range(seen: Any) -> tuple[float, float] | None:
    if seen is None:
        return None
    low, high = map(float, seen)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"its images were seen from {low} to {high}")
    return low, high
