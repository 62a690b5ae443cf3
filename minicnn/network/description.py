"""A network as a TOML file, which looks like this:

.. code-block:: toml

    name = "wide"               # optional; else the file's name

    [[layers]]
    type = "Conv2d"
    filters = 32
    kernel_size = [3, 5]        # or a number for both
    padding = "same"

    [[layers]]
    type = "ReLU"

    [[layers]]
    type = "Residual"           # a block; Branches has branches = [[...], [...]] and join = {type = "Add"}
    layers = [{type = "Conv2d", filters = 32, kernel_size = 3, padding = "same"}]

    [[layers]]
    type = "ReLU"
    name = "middle"             # and a layer may say what it reads: inputs = ["conv1", "middle"]

    [[layers]]
    type = "Flatten"

    [[layers]]
    type = "Dense"
    units = "classes"           # as many as the data have
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from minicnn.errors import MinicnnError, NetworkError, SettingError, check_known
from minicnn.network.blocks import layers_from_tables
from minicnn.network.network import Network
from minicnn.toml import read_toml


def network_from_toml(
    path: str | PathLike[str], input_shape: Sequence[int], outputs: int
) -> Network:
    """The network that the file describes, for images of ``input_shape`` and ``outputs`` classes.

    Every error names the file, and where it is a layer's, the layer's number: `SettingError` for a
    file that cannot be read or a wrong value, `UnknownNameError` for an unknown layer or key,
    `NetworkError` for layers that do not fit together or whose number of outputs is not
    ``outputs``.
    """
    description = read_toml(Path(path))
    try:
        description = _checked(description)
        layers = layers_from_tables(_with_classes(description["layers"], outputs))
        network = Network(input_shape, layers, description.get("name", Path(path).stem))
        if network.outputs != outputs:
            raise NetworkError(
                f"{network.layer_names[-1]} gives {network.outputs} outputs, but the data have {outputs} classes; "
                'write units = "classes" in the last Dense'
            )
    except MinicnnError as error:
        error.args = (f"{path}: {error}",)
        raise
    return network


def _checked(description: dict[str, Any]) -> dict[str, Any]:
    check_known("key", description, ("name", "layers"))
    if not isinstance(description.get("layers"), list):
        raise SettingError("describes no layers; a layer is a [[layers]] table")
    return description


def _with_classes(tables: Any, outputs: int) -> Any:
    """``tables`` and all that they hold, with the number of ``outputs`` for units = "classes"."""
    if isinstance(tables, list):
        return [_with_classes(table, outputs) for table in tables]
    if not isinstance(tables, dict):
        return tables
    if str(tables.get("type")).lower() == "dense" and tables.get("units") == "classes":
        return tables | {"units": outputs}
    return {key: _with_classes(value, outputs) for key, value in tables.items()}
