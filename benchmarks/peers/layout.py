"""minicnn's weights in the layout of frameworks whose images are NCHW: filters OIHW, dense weights [out, in]."""

from typing import Any

import numpy as np

from minicnn import Conv2d, Dense, Flatten, Network
from minicnn.network.layers import Layer


def channels_first(network: Network, params: np.ndarray) -> list[tuple[Layer, dict[str, np.ndarray]]]:
    """Every layer with its weights; rows of the dense layer after Flatten go from the order (H, W, C) to (C, H, W)."""
    tensors: dict[str, Any] = network.unflatten(params)
    translated = []
    image: tuple[int, ...] | None = None  # the shape that was flattened, until the dense layer that reads it
    for index, (name, layer) in enumerate(zip(network.layer_names, network.layers, strict=True)):
        own = {}
        if isinstance(layer, Flatten):
            image = network.shapes[index]
        elif isinstance(layer, Conv2d):
            own["weight"] = np.ascontiguousarray(tensors[f"{name}.weight"].transpose(3, 2, 0, 1))
        elif isinstance(layer, Dense):
            weight = tensors[f"{name}.weight"]
            if image is not None and len(image) == 3:
                weight = weight.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
            image = None
            own["weight"] = np.ascontiguousarray(weight.T)
        if f"{name}.bias" in tensors:
            own["bias"] = tensors[f"{name}.bias"].copy()
        translated.append((layer, own))
    return translated


def to_nchw(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] as float32 [N, C, H, W] from 0 to 1."""
    return np.ascontiguousarray(scaled(images).transpose(0, 3, 1, 2))


def scaled(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 from 0 to 1, multiplied as minicnn does."""
    return images.astype(np.float32) * np.float32(1 / 255)
