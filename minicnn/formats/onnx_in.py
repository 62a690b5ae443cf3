"""A network and its weights from ONNX."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minicnn.errors import MinicnnError, ModelFileError, NetworkError
from minicnn.formats.onnx_network import Reader
from minicnn.formats.onnx_operators import OPERATORS, WORDS
from minicnn.formats.onnx_out import onnx_package
from minicnn.formats.onnx_read import OnnxFile
from minicnn.inference import Model
from minicnn.network.network import Network
from minicnn.storage import MALFORMED, as_path


def from_onnx(
    path: str | Path,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    classes: Sequence[str] | None = None,
) -> Model:
    """The model that an ONNX file holds: opsets 7 to 22, one input and one output.

    A file written by minicnn says what its images are. For others, images from 0 to 1 (or 0 to 255
    as uint8) become (image − ``mean``) / ``std``, numbers or one per channel, before they go in:
    ``std=1/255`` for a network that takes 0 to 255. ``classes`` are names in place of 0, 1, ... A
    softmax or sigmoid at the end is left to `Model.predict_proba`.

    Raises `ModelFileError` for a file that is none or damaged, `NetworkError`, which names the node
    and its operator, for what cannot be taken, and `MissingExtraError` without the package onnx.
    """
    path = as_path("path", path)
    try:
        file = OnnxFile(path)
        said = _metadata(file.metadata.get("minicnn"))
        reader = Reader(file, bool(said.get("preprocess")))
        dtype = file.input.type.tensor_type.elem_type
        if not said and dtype == onnx_package().TensorProto.UINT8 and np.all(np.equal(std, 1.0)):
            std = 1 / 255
        if np.any(np.not_equal(mean, 0)) or np.any(np.not_equal(std, 1)):
            reader.normalize(mean, std)
        for node in file.nodes:
            _take(reader, node)
        network = reader.network()
        params = _params(network, reader)
        return Model(
            network,
            params,
            tuple(classes or said.get("classes") or map(str, range(network.outputs))),
            maximum=said.get("maximum", 255.0),
            image_dtype=said.get("image_dtype", "uint8"),
            probabilities=said.get("probabilities", reader.probabilities),
            labels=tuple(said["labels"]) if said.get("labels") else None,
            task=said.get(
                "task", "multilabel" if reader.probabilities == "sigmoid" else "classification"
            ),
            seen=tuple(said["seen"]) if said.get("seen") else None,
            normalization=tuple(said["normalization"]) if said.get("normalization") else None,
        )
    except ModelFileError:
        raise
    except (*MALFORMED, IndexError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise NetworkError(f"{path}: {text}") from None


def _take(reader: Reader, node: Any) -> None:
    """Make layers of one node, or a constant; every error names it."""
    try:
        unknown = [name for name in node.inputs if name and not reader.knows(name)]
        if unknown:
            raise NetworkError(f"reads {unknown[0]!r}, which no node before it writes")
        if node.proto.domain not in ("", "ai.onnx"):
            raise NetworkError(f"is of the domain {node.proto.domain!r}; ONNX's own would fit")
        if reader.file.fold(node):
            return
        if node.type not in OPERATORS:
            raise NetworkError(
                f"no layer computes it{WORDS.get(node.type, '')}; known are {', '.join(OPERATORS)}"
            )
        reader.values[node.outputs[0]] = OPERATORS[node.type](reader, node)
        node.finish()
        for name in node.outputs[1:]:
            if name and reader.file.readers[name]:
                raise NetworkError(f"its output {name!r} is read, and only the first is known here")
    except (*MALFORMED, IndexError, MemoryError) as error:
        own = isinstance(error, MinicnnError)
        raise NetworkError(
            f"{node}: {error if own else f'is malformed ({error!r:.100})'}"
        ) from None


def _params(network: Network, reader: Reader) -> np.ndarray:
    tensors = {
        f"{name}.{kind}": array
        for name, arrays in zip(network.layer_names, reader.tensors, strict=True)
        for kind, array in arrays.items()
    }
    with np.errstate(over="ignore"):  # of float64: it is refused here
        params: np.ndarray = network.flatten(tensors)
    for name, tensor in network.unflatten(params).items():
        if not np.isfinite(tensor).all():
            raise NetworkError(f"{name} holds what is no finite number")
    return params


def _metadata(text: str | None) -> dict[str, Any]:
    said = json.loads(text or "{}")
    if not isinstance(said, dict):
        raise NetworkError("its metadata are not a JSON object")
    return said
