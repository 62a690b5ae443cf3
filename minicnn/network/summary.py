"""The figures of a network, layer by layer, as plain data."""

import math
from dataclasses import dataclass

from minicnn.network.network import Network

_BYTES = 4  # of a float32


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


def summary_rows(network: Network) -> list[SummaryRow]:
    """One row a layer, and a last one with the sums."""
    rows = []
    for index, (name, layer) in enumerate(zip(network.layer_names, network.layers, strict=True)):
        shape = network.shapes[index + 1]
        parameters = sum(spec.size for spec in network.parameters if spec.layer == index)
        multiply_adds = layer.multiply_adds(network.shapes[index])
        rows.append(SummaryRow(name, str(layer), shape, parameters, multiply_adds, _BYTES * parameters,
                               _BYTES * math.prod(shape)))  # fmt: skip
    figures = ("parameters", "multiply_adds", "parameter_bytes", "activation_bytes")
    sums = {figure: sum(getattr(row, figure) for row in rows) for figure in figures}
    return [*rows, SummaryRow("total", network.name, network.output_shape, **sums)]
