"""Single weights by name: ``conv1.weight[0,0,0,3]`` is one number of the flat vector."""

import re

import numpy as np

from minicnn.errors import SettingError, UnknownNameError
from minicnn.network.network import Network


def parse(network: Network, text: str) -> int:
    """The place in the flat vector of the weight that ``text`` names, such as
    ``conv1.weight[0,0,0,3]``.

    Raises `UnknownNameError` for a tensor that is not there, and `SettingError` for indices that do
    not fit it.

    >>> from minicnn import Dense, Flatten, Network
    >>> parse(Network((2, 2), [Flatten(), Dense(3)]), "dense1.weight[1,2]")
    5
    """
    specs = {spec.name: spec for spec in network.parameters}
    tensor, _, inside = text.replace(" ", "").partition("[")
    if tensor not in specs:
        raise UnknownNameError(f"tensor of {network.name}", tensor, specs)
    spec = specs[tensor]
    example = f"{tensor}[{','.join('0' * len(spec.shape))}]"
    if not re.fullmatch(r"\d+(,\d+)*\]", inside, re.ASCII):
        raise SettingError(
            f"{text!r} names no single weight: write {example}; {tensor} has the shape {list(spec.shape)}"
        )
    indices = [int(number) for number in inside[:-1].split(",")]
    if len(indices) != len(spec.shape):
        shape = f"{tensor} has the shape {list(spec.shape)}"
        raise SettingError(f"{text!r}: {shape}, so write {len(spec.shape)} indices, as {example}")
    for axis, (index, length) in enumerate(zip(indices, spec.shape, strict=True), 1):
        if index >= length:
            raise SettingError(
                f"{text!r}: index {axis} of {tensor} must be from 0 to {length - 1}, not {index}"
            )
    return spec.offset + int(np.ravel_multi_index(indices, spec.shape))


def name(network: Network, index: int) -> str:
    """The weight at ``index`` of the flat vector, as `parse` reads it; raises `SettingError` for a
    gap between tensors."""
    for spec in network.parameters:
        if spec.offset <= index < spec.offset + spec.size:
            inside = np.unravel_index(index - spec.offset, spec.shape)
            return f"{spec.name}[{','.join(str(int(number)) for number in inside)}]"
    raise SettingError(f"{network.name} has no weight at place {index} of its flat vector")
