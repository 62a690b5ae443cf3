"""The figures of a network, layer by layer, as plain data."""

import math
from dataclasses import dataclass

from minicnn.network.network import Network

_BYTES = 4  # of a float32


@dataclass(frozen=True)
class SummaryRow:
    """One layer of a network, or all of them together."""

    name: str  # conv1, ...; "total" for all together
    reads: tuple[
        str, ...
    ]  # names of what it reads, "input" for the image; empty where it reads the row before alone
    layer: str  # Conv2d(filters=6, kernel_size=5×5), ...; the network's name for all together
    output_shape: tuple[int, ...]
    parameters: int  # that are trained
    state: int  # numbers that are kept with them and not trained: running means and variances
    multiply_adds: int  # of the forward pass on one image
    parameter_bytes: int
    activation_bytes: int  # of the layer's output for one image


def summary_rows(network: Network) -> list[SummaryRow]:
    """One row per layer, and a last one with the sums."""
    rows = []
    names = ("input", *network.layer_names)
    for index, layer in enumerate(network.layers):
        reads, shape = network.reads[index], network.shapes[index + 1]
        specs = [spec for spec in network.parameters if spec.layer == index]
        state = sum(spec.size for spec in specs if spec.kind == "state")
        parameters = sum(spec.size for spec in specs) - state
        rows.append(
            SummaryRow(
                name=names[index + 1],
                reads=() if reads == (index,) else tuple(names[value] for value in reads),
                layer=str(layer),
                output_shape=shape,
                parameters=parameters,
                state=state,
                multiply_adds=layer.multiply_adds(*network.inputs_of(index)),
                parameter_bytes=_BYTES * parameters,
                activation_bytes=_BYTES * math.prod(shape),
            )
        )
    figures = ("parameters", "state", "multiply_adds", "parameter_bytes", "activation_bytes")
    sums = {figure: sum(getattr(row, figure) for row in rows) for figure in figures}
    return [*rows, SummaryRow("total", (), network.name, network.output_shape, **sums)]
