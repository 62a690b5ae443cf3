"""PyTorch's state_dict in and out; PyTorch itself is not needed.

A tensor of PyTorch has its axes in another order: a convolution's weights are [K, C/G, R, S], a
dense layer's [out, in], and a row that was an image has its numbers in the order C, H, W. Here they
are [R, S, C/G, K], [in, out] and H, W, C.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import ArrayLike

from minicnn.errors import ModelFileError, NetworkError, SettingError, short
from minicnn.inference import Model
from minicnn.network import layers as of
from minicnn.network.activations import PReLU
from minicnn.network.layer import Shape
from minicnn.network.network import Network, ParameterSpec, check_network
from minicnn.network.normalization import LayerNorm
from minicnn.storage import as_path, write_atomically

_NOT_WEIGHTS = (
    "num_batches_tracked"  # a batch normalization's count, which nothing is computed with
)


def from_state_dict(
    tensors: Mapping[str, ArrayLike] | str | Path,
    network: Network,
    classes: Sequence[str] | None = None,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
) -> Model:
    """The model of ``network`` with the weights of a PyTorch module of the same shape.

    ``tensors`` is its ``state_dict()``, or a safetensors file of one. They are found by name where
    the names are those of the network (``features.0.weight`` is features_0.weight), else in order;
    a file has no order but that of numbers, as in 0.weight, 3.weight. Images from 0 to 1 become
    (image − ``mean``) / ``std``, a number per channel.

    Raises `NetworkError`, which names the tensor, for what does not fit, and `ModelFileError` for a
    file that cannot be read.
    """
    check_network(network)
    given = _read(as_path("tensors", tensors)) if isinstance(tensors, str | Path) else tensors
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise SettingError(f"tensors must be a state_dict or its file, not {short(given)}")
    named = {name: _numpy(name, tensor) for name, tensor in given.items() if not _counts(name)}
    params = np.zeros(network.flat_size, np.float32)
    for spec, name in _matched(network, list(named), isinstance(tensors, str | Path)):
        tensor, places = named[name], _torch_order(network, spec)
        if isinstance(network.layers[spec.layer], PReLU) and tensor.size == 1:
            tensor = np.broadcast_to(tensor.reshape(1), places.shape)
        if tensor.shape != places.shape:
            raise NetworkError(
                f"{name!r} has the shape {tensor.shape}, and for {spec.name} of {network.name!r} "
                f"{places.shape} would fit"
            )
        if not np.isfinite(tensor).all():
            raise NetworkError(f"{name!r} holds what is no finite number")
        params[spec.offset + places] = tensor
    normalization = None
    try:
        if np.any(np.not_equal(mean, 0)) or np.any(np.not_equal(std, 1)):
            ones = np.ones(network.input_shape[2])
            normalization = tuple((ones * np.asarray(one, float)).tolist() for one in (mean, std))
    except (TypeError, ValueError):
        raise SettingError("mean and std must be numbers, one or one per channel") from None
    names = tuple(classes or map(str, range(network.outputs)))
    return Model(network, params, names, normalization=normalization)


def to_state_dict(model: Model, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The weights of ``model`` in PyTorch's order of axes, for ``load_state_dict`` after
    ``torch.from_numpy`` of each.

    ``names`` are the keys of the module's own ``state_dict()``, which are matched as in
    `from_state_dict`; None are the network's names.

    >>> network = Network((8, 8, 3), [of.Conv2d(4, 3), of.Flatten(), of.Dense(10)])
    >>> model = Model(network, network.initialize(np.random.default_rng(0)), tuple("0123456789"))
    >>> {name: tensor.shape for name, tensor in to_state_dict(model, ["0.weight", "0.bias", "2.weight", "2.bias"]).items()}
    {'0.weight': (4, 3, 3, 3), '0.bias': (4,), '2.weight': (10, 144), '2.bias': (10,)}
    """
    specs = _in_order(model.network)
    keys = (
        [spec.name for spec in specs]
        if names is None
        else [n for n in map(str, names) if not _counts(n)]
    )
    return {
        name: model.params[spec.offset + _torch_order(model.network, spec)]
        for spec, name in _matched(model.network, keys, False)
    }


def save_state_dict(model: Model, path: str | Path, names: Iterable[str] | None = None) -> None:
    """Write what `to_state_dict` gives as a safetensors file, which ``safetensors.torch.load_file``
    reads."""
    tensors = {name: np.ascontiguousarray(one) for name, one in to_state_dict(model, names).items()}
    write_atomically(as_path("path", path), safetensors.numpy.save(tensors, {"format": "pt"}))


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] == _NOT_WEIGHTS


def _numpy(name: str, tensor: Any) -> np.ndarray:
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().float().numpy()
    array = np.asarray(tensor)
    if array.dtype.kind not in "buif":
        raise NetworkError(f"{name!r} holds {array.dtype} and no real numbers")
    with np.errstate(over="ignore"):  # infinity is refused
        return array.astype(np.float32)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if "minicnn" in (file.metadata() or {}):
                raise ModelFileError(
                    f"{path} is a minicnn file, whose axes are not PyTorch's; minicnn.load reads it"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} cannot be read as safetensors of float16, float32 or float64: {error}; "
            "safetensors.torch.save_file(module.state_dict(), path) writes them"
        ) from None


def _in_order(network: Network) -> list[ParameterSpec]:
    """As PyTorch has them: layer by layer, the state of each after its parameters."""
    return sorted(network.parameters, key=lambda spec: spec.layer)


def _matched(network: Network, names: list[str], of_file: bool) -> list[tuple[ParameterSpec, str]]:
    """Each tensor of the network with the name of PyTorch's."""
    specs, by_name = _in_order(network), {}
    for name in names:
        module, _, kind = name.rpartition(".")
        by_name[f"{module.replace('.', '_')}.{kind}"] = name
    if by_name.keys() >= {spec.name for spec in specs} and len(names) == len(specs):
        return [(spec, by_name[spec.name]) for spec in specs]
    if of_file:
        if not all(name.partition(".")[0].isdecimal() for name in names):
            wanted = ", ".join(spec.name for spec in specs)
            raise NetworkError(
                f"a file has no order, and its names ({', '.join(names)}) are not those of the "
                f"network {network.name!r} ({wanted})"
            )
        kinds = "weight", "bias", "running_mean", "running_var"
        names = sorted(
            names,
            key=lambda name: (
                [int(part) for part in re.findall(r"\d+", name)],
                kinds.index(name.rpartition(".")[2]) if name.rpartition(".")[2] in kinds else 9,
            ),
        )
    for spec, name in zip(specs, names, strict=False):
        if spec.name.rpartition(".")[2] != name.rpartition(".")[2]:
            raise NetworkError(
                f"in order {name!r} comes where {spec.name} of {network.name!r} is wanted"
            )
    if len(specs) != len(names):
        raise NetworkError(
            f"the network {network.name!r} has {len(specs)} tensors, and {len(names)} are given"
        )
    return list(zip(specs, names, strict=True))


def _torch_order(network: Network, spec: ParameterSpec) -> np.ndarray:
    """Where in the tensor each number of PyTorch's lies: whole numbers in its shape."""
    places = np.arange(spec.size).reshape(spec.shape)
    layer, image = network.layers[spec.layer], _image_read(network, spec.layer)
    if isinstance(layer, of.Conv2d) and places.ndim == 4:
        return places.transpose(3, 2, 0, 1)
    if image is not None and places.shape[0] == math.prod(image):
        places = np.moveaxis(places.reshape(*image, -1), 2, 0).reshape(places.shape)
    if isinstance(layer, LayerNorm) and places.ndim == 3:
        return places.transpose(2, 0, 1)
    return places.T


def _image_read(network: Network, index: int) -> Shape | None:
    """The image (H, W, C) that the row is which a layer reads, if it is one."""
    value = network.reads[index][0]
    while value and len(network.shapes[value]) == 1:
        layer, before = network.layers[value - 1], network.reads[value - 1][0]
        if isinstance(layer, of.Flatten) and len(network.shapes[before]) == 3:
            return network.shapes[before]
        if network.shapes[before] != network.shapes[value] or isinstance(layer, of.Dense):
            return None
        value = before
    return None
