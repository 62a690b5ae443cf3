"""The figures of a network, layer by layer, as plain data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

if TYPE_CHECKING:
    from minicnn.network.network import Network


@dataclass(frozen=True)
class SummaryRow:
    """One layer of a network, or all of them together."""

    name: str  # conv1, ...; "total" for all together
    layer: str  # Conv2d(filters=6, kernel_size=5×5), ...; the network's name for all together
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int  # of the forward pass on one image
    parameter_bytes: int
    activation_bytes: int  # of the layer's output for one image


def summary_rows(network: "Network", dtype: DTypeLike = np.float32) -> list[SummaryRow]:
    """One row a layer, for parameters and activations of ``dtype``."""
    itemsize = np.dtype(dtype).itemsize
    rows = []
    for index, (name, layer) in enumerate(zip(network.layer_names, network.layers, strict=True)):
        shape = network.shapes[index + 1]
        parameters = sum(spec.size for spec in network.parameters if spec.layer == index)
        rows.append(
            SummaryRow(
                name=name,
                layer=str(layer),
                output_shape=shape,
                parameters=parameters,
                multiply_adds=layer.multiply_adds(network.shapes[index]),
                parameter_bytes=parameters * itemsize,
                activation_bytes=math.prod(shape) * itemsize,
            )
        )
    return rows


def summary_total(network: "Network", rows: Iterable[SummaryRow]) -> SummaryRow:
    """The sums over ``rows``, with the shape of the network's output."""
    rows = list(rows)
    return SummaryRow(
        name="total",
        layer=network.name,
        output_shape=network.output_shape,
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(row.multiply_adds for row in rows),
        parameter_bytes=sum(row.parameter_bytes for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
    )
