"""minicnn's weights in the layout of frameworks whose images are NCHW: filters OIHW, dense weights
[out, in]."""

from typing import Any

import numpy as np

from minicnn import Conv2d, Dense, Flatten, Model, Network
from minicnn.network.layers import Layer


def flattens_channels_first(network: Network) -> bool:
    """Whether the rows of dense layers can stand for the order of what was flattened.

    In a chain whose Flatten has a dense layer as the next one with parameters.
    """
    if network.reads != tuple((number,) for number in range(len(network.layers))):
        return False
    trained = {spec.layer for spec in network.parameters}
    for index, layer in enumerate(network.layers):
        after = [number for number in sorted(trained) if number > index]
        if isinstance(layer, Flatten) and not (
            after and isinstance(network.layers[after[0]], Dense)
        ):
            return False
    return True


def channels_first(
    network: Network, params: np.ndarray
) -> list[tuple[Layer, dict[str, np.ndarray]]]:
    """Every layer with its tensors by name.

    Rows of the dense layer after Flatten go from the order (H, W, C) to (C, H, W). Where
    `flattens_channels_first` says no they stay: who flattens must bring the channels last before.
    """
    tensors: dict[str, Any] = network.unflatten(params)
    translated = []
    image: tuple[int, ...] | None = (
        None  # the shape that was flattened, until the dense layer that reads it
    )
    for index, (name, layer) in enumerate(zip(network.layer_names, network.layers, strict=True)):
        own = {
            key.rpartition(".")[2]: tensor.copy()
            for key, tensor in tensors.items()
            if key.rpartition(".")[0] == name
        }
        if isinstance(layer, Flatten):
            image = network.shapes[index] if flattens_channels_first(network) else None
        elif isinstance(layer, Conv2d):
            own["weight"] = np.ascontiguousarray(own["weight"].transpose(3, 2, 0, 1))
        elif isinstance(layer, Dense):
            weight = own["weight"]
            if image is not None and len(image) == 3:
                weight = weight.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
            image = None
            own["weight"] = np.ascontiguousarray(weight.T)
        elif "weight" in own and own["weight"].ndim == 3:  # of the sample's shape: LayerNorm
            own = {
                key: np.ascontiguousarray(tensor.transpose(2, 0, 1)) for key, tensor in own.items()
            }
        translated.append((layer, own))
    return translated


def to_onnx(network: Network, params: np.ndarray) -> bytes:
    """The network with these weights as minicnn exports it: NCHW images and logits."""
    classes = tuple(map(str, range(network.outputs)))
    return Model(network, params, classes).to_onnx().SerializeToString()


def to_nchw(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] as float32 [N, C, H, W] from 0 to 1."""
    return np.ascontiguousarray(scaled(images).transpose(0, 3, 1, 2))


def scaled(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 from 0 to 1, multiplied as minicnn does."""
    return images.astype(np.float32) * np.float32(1 / 255)
