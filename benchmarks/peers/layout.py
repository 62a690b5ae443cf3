"""minicnn's weights in the layout of frameworks whose images are NCHW: filters OIHW, dense weights [out, in]."""

from typing import Any

import numpy as np

from minicnn import Conv2d, Dense, Flatten, Network
from minicnn.network.layers import Layer


def is_chain(network: Network) -> bool:
    """Whether every layer reads the one before it, and no other."""
    return network.reads == tuple((number,) for number in range(len(network.layers)))


def channels_first(network: Network, params: np.ndarray) -> list[tuple[Layer, dict[str, np.ndarray]]]:
    """Every layer with its tensors by name.

    In a chain, rows of the dense layer after Flatten go from the order (H, W, C) to (C, H, W). In any other network they
    stay: who flattens must bring the channels last before.
    """
    tensors: dict[str, Any] = network.unflatten(params)
    translated = []
    image: tuple[int, ...] | None = None  # the shape that was flattened, until the dense layer that reads it
    for index, (name, layer) in enumerate(zip(network.layer_names, network.layers, strict=True)):
        own = {key.rpartition(".")[2]: tensor.copy() for key, tensor in tensors.items() if key.rpartition(".")[0] == name}
        if isinstance(layer, Flatten):
            image = network.shapes[index] if is_chain(network) else None
        elif isinstance(layer, Conv2d):
            own["weight"] = np.ascontiguousarray(own["weight"].transpose(3, 2, 0, 1))
        elif isinstance(layer, Dense):
            weight = own["weight"]
            if image is not None and len(image) == 3:
                weight = weight.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
            image = None
            own["weight"] = np.ascontiguousarray(weight.T)
        elif "weight" in own and own["weight"].ndim == 3:  # of the sample's shape: LayerNorm
            own = {key: np.ascontiguousarray(tensor.transpose(2, 0, 1)) for key, tensor in own.items()}
        translated.append((layer, own))
    return translated


def to_nchw(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] as float32 [N, C, H, W] from 0 to 1."""
    return np.ascontiguousarray(scaled(images).transpose(0, 3, 1, 2))


def scaled(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 from 0 to 1, multiplied as minicnn does."""
    return images.astype(np.float32) * np.float32(1 / 255)
