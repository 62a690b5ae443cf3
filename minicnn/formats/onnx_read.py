"""A file of ONNX as it is stored: nodes with their attributes, and tensors in every form.
Everything is checked.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.errors import ModelFileError, NetworkError
from minicnn.formats.onnx_out import onnx_package

OPSETS = range(7, 23)
_LARGEST_FILE = 2**31
_MOST_NUMBERS = 2**28  # in a tensor that is written in fewer bytes than it has numbers
_MOST_FOLDED = 4096
# What is computed of constants alone: these keep the number of numbers ...
_SAME_SIZE = {"Identity", "Cast", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
_OF_SHAPES = {"Concat", "Gather", "Slice"}  # ... and these are for shapes


class Operator:
    """A node. Attributes are taken one by one, so that an unused one is noticed."""

    def __init__(self, node: Any):
        self.proto = node
        self.type: str = node.op_type
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.name: str = node.name
        helper = onnx_package().helper
        self._attributes = {
            one.name: helper.get_attribute_value(one) for one in node.attribute if one.name
        }

    def __str__(self) -> str:
        return f"node {self.name or ''.join(self.outputs[:1])!r} ({self.type})"

    def take(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, text as str; ``default`` where it is not given."""
        value = self._attributes.pop(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def ints(self, name: str, default: Sequence[int], count: int) -> list[int]:
        """A list of ``count`` whole numbers."""
        value = self.take(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(one, int) for one in value):
            raise NetworkError(f"{name} must be whole numbers, not {value!r:.60}")
        if len(value) != count:
            raise NetworkError(f"{name} has {len(value)} numbers, and {count} would fit")
        return list(value)

    def has_input(self, index: int) -> bool:
        """Whether the optional input is given."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def finish(self) -> None:
        """Raise `NetworkError` for an attribute that was not read."""
        for name in self._attributes:
            raise NetworkError(f"the attribute {name} is not known here")


class OnnxFile:
    """The one graph of a file: what goes in and comes out, the nodes that lead there in their
    order, and the constants."""

    def __init__(self, path: Path):
        self.folder = path.parent.resolve()
        model = _parse(path)
        self.opset = _opset(model)
        self.metadata = {one.key: one.value for one in model.metadata_props}
        graph = model.graph
        self.name: str = graph.name
        self.constants: dict[str, np.ndarray] = {}
        for tensor in graph.initializer:
            self.constants[tensor.name] = self._array(tensor)
        for sparse in graph.sparse_initializer:
            self.constants[sparse.values.name] = self._dense(sparse)
        inputs = [one for one in graph.input if one.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise NetworkError(
                f"{len(inputs)} inputs and {len(graph.output)} outputs; one of each would fit"
            )
        self.input, self.output = inputs[0], graph.output[0].name
        needed, nodes = {self.output}, []
        for node in reversed(graph.node):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(Operator(node))
        self.nodes = nodes[::-1]
        self.readers = Counter([name for node in self.nodes for name in node.inputs])
        self.readers[self.output] += 1

    def _array(self, tensor: Any) -> np.ndarray:
        """The numbers of a tensor, read from the file beside where they are."""
        shape = _checked_shape(tensor.name, tensor.dims)
        if tensor.data_location == tensor.EXTERNAL:
            stored, tensor = tensor, type(tensor)()
            tensor.CopyFrom(stored)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = self._external(stored)
        if not tensor.raw_data and math.prod(shape) > tensor.ByteSize() * 8:
            raise NetworkError(f"the tensor {tensor.name!r} has fewer numbers than its shape says")
        try:
            array: np.ndarray = onnx_package().numpy_helper.to_array(tensor)
            return array.reshape(shape)
        except (ValueError, TypeError, KeyError) as error:
            raise NetworkError(f"the tensor {tensor.name!r} cannot be read: {error}") from None

    def _external(self, tensor: Any) -> bytes:
        said = {one.key: one.value for one in tensor.external_data}
        location = said.get("location", "")
        place = (self.folder / location).resolve()
        if not location or self.folder not in place.parents or not place.is_file():
            raise NetworkError(
                f"the tensor {tensor.name!r} is in {location!r}, which is no file in the folder of "
                "the model"
            )
        offset = int(said.get("offset", 0))
        length = int(said.get("length", place.stat().st_size - offset))
        if offset < 0 or length < 0 or offset + length > place.stat().st_size:
            raise NetworkError(f"the tensor {tensor.name!r} is beyond the end of {location!r}")
        with place.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _dense(self, sparse: Any) -> np.ndarray:
        name = sparse.values.name
        shape = _checked_shape(name, sparse.dims, _MOST_NUMBERS)
        values, indices = self._array(sparse.values), self._array(sparse.indices)
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        dense = np.zeros(math.prod(shape), values.dtype)
        dense[flat] = values
        return dense.reshape(shape)

    def fold(self, node: Operator) -> bool:
        """Compute ``node`` where it is a constant, or is one of constants; say whether it was."""
        if node.type == "Constant":
            found = [(one.name, one) for one in node.proto.attribute]
            if len(found) != 1:
                raise NetworkError("a constant has one value")
            name, attribute = found[0]
            if name == "value":
                array = self._array(attribute.t)
            elif name == "sparse_value":
                array = self._dense(attribute.sparse_tensor)
            else:
                array = np.array(node.take(name))
                array = array.astype(np.float32) if array.dtype.kind == "f" else array
        elif not all(name in self.constants or name == "" for name in node.inputs):
            return False
        elif node.type == "ConstantOfShape":
            shape = _checked_shape("shape", self.constants[node.inputs[0]].tolist(), _MOST_NUMBERS)
            given = node.take("value")
            value = np.float32(0) if given is None else self._array(given).reshape(())
            array = np.broadcast_to(value, shape)
        elif node.type in _SAME_SIZE | _OF_SHAPES:
            arrays = {name: self.constants[name] for name in node.inputs if name}
            if node.type in _OF_SHAPES and any(one.size > _MOST_FOLDED for one in arrays.values()):
                raise NetworkError(f"constants of more than {_MOST_FOLDED} numbers")
            array = self._evaluate(node, arrays)
        else:
            return False
        self.constants[node.outputs[0]] = array
        return True

    def _evaluate(self, node: Operator, arrays: dict[str, np.ndarray]) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        helper = onnx_package().helper
        infos = [
            [helper.make_tensor_value_info(name, 0, None) for name in names]
            for names in (arrays, node.outputs[:1])
        ]
        graph = helper.make_graph([node.proto], "constant", *infos)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        (array,) = ReferenceEvaluator(made).run(None, arrays)
        return np.asarray(array)


def _parse(path: Path) -> Any:
    package = onnx_package()
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ModelFileError(f"{path} is larger than 2 GiB, where ONNX files end")
        content = path.read_bytes()
        model = package.load_model_from_string(content)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except ModelFileError:
        raise
    except Exception as error:  # protobuf has errors of its own, by implementation
        reason = " ".join(str(error).split())
        raise ModelFileError(
            f"{path} is damaged, cut off, or not an ONNX file ({reason})"
        ) from None
    if not model.graph.node:
        raise ModelFileError(f"{path} is not an ONNX file: it has no nodes")
    return model


def _opset(model: Any) -> int:
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    version: int = versions[0] if versions else 1
    if version not in OPSETS:
        raise NetworkError(
            f"opset {version}; {OPSETS[0]} to {OPSETS[-1]} would fit, to which "
            "onnx.version_converter brings it"
        )
    return version


def _checked_shape(name: str, dims: Sequence[int], most: int = 2**31) -> tuple[int, ...]:
    shape = tuple(int(size) for size in dims)
    if any(size < 0 for size in shape) or math.prod(shape) > most:
        raise NetworkError(f"the tensor {name!r} has the shape {list(shape)}")
    return shape
