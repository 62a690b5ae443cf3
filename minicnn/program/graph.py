"""A network as a graph of operations over numbered values, each of which is written once.

Value 0 is the image. `lower` turns layers into nodes; `fuse` merges neighbours that one operation
can compute.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from minicnn.errors import check_known
from minicnn.network.layers import Shape
from minicnn.network.network import Network
from minicnn.network.rule_layer import RuleLayer
from minicnn.program.operations import OPERATIONS, Operation, row_of
from minicnn.rules import AnyLayer

# Where tiles were measured to be faster than the direct sum by at least a tenth (AVX2 and AVX-512,
# 8 samples in training and one in inference): fewest channels and filters, fewest outputs of a
# channel, and the least part of the tiles that is inside of the map. Numbers of 4 and of 8 bytes
# follow the same rule.
WINOGRAD_CHANNELS = 16
WINOGRAD_OUTPUTS = {True: 16, False: 49}
WINOGRAD_INSIDE = 0.75
# For one image it would take longer to read filters that are more than this, 36 numbers for each 9,
# than to multiply them with fewer outputs of a channel than that.
WINOGRAD_READ, WINOGRAD_OUTPUTS_OF_ONE = 1 << 15, 128
WINOGRAD_TILES = 24  # of a block: what they need stays in a core's own cache
# What can end with the ReLU after it, beside sums and batch normalization, which can in training too.
_RECTIFYING = {"conv2d", "depthwise_conv2d", "winograd_conv2d", "dense", "scale_shift"}


class Node(NamedTuple):
    """One operation: what it reads and writes, the layers that it stands for, and the fields of its
    record."""

    operation: str  # a key of `OPERATIONS`, or layer.NAME of a rule
    inputs: tuple[int, ...]  # numbers of the values that it reads
    output: int  # the value that it writes
    layers: tuple[
        int, ...
    ]  # numbers of the layers that it stands for: (3,), or (3, 4, 5) where they were fused
    fields: Mapping[
        str, float
    ]  # attributes (kernel_height, ...) and places of parameters (weight, ...)
    rule: AnyLayer | None = None  # of a plugin, which is its operation
    numbers: tuple[
        float, ...
    ] = ()  # of a `LayerRule`: hyperparameters, and each parameter's place and shape
    ranks: tuple[int, ...] = ()  # how many dimensions its x, its y and each of its parameters have
    frozen: bool = False  # its parameters are not trained

    @property
    def row(self) -> Operation:
        """Its row in the table of operations."""
        return row_of(self.rule) if self.rule else OPERATIONS[self.operation]

    @property
    def trained(self) -> bool:
        """Whether it has parameters of its own that are trained."""
        return not self.frozen and ("weight" in self.fields or "bias" in self.fields)


class Graph(NamedTuple):
    """Nodes in an order in which each value is written before it is read; ``output`` is the value
    of the logits."""

    nodes: tuple[Node, ...]
    shapes: Mapping[int, Shape]  # of one sample of each value
    output: int

    def readers(self) -> Counter[int]:
        """How often each value is read; the logits once more, by the loss."""
        return Counter([value for node in self.nodes for value in node.inputs] + [self.output])


def lower(network: Network, frozen: bool) -> Graph:
    """The graph of ``network``; with ``frozen``, as in inference, there is no dropout and
    normalization uses the running statistics, as the network's frozen layers always do. Raises
    `UnknownNameError` for a layer whose class names no operation of the table."""
    places: dict[int, dict[str, float]] = {}
    for spec in network.parameters:
        places.setdefault(spec.layer, {})[spec.name.rpartition(".")[2]] = spec.offset
    shapes: dict[int, Shape] = dict(enumerate(network.shapes))
    value_of = [0]  # the value of the graph that holds each value of the network
    nodes: list[Node] = []
    for index, layer in enumerate(network.layers):
        inputs = tuple(value_of[value] for value in network.reads[index])
        given = [network.shapes[value] for value in network.reads[index]]
        if isinstance(layer, RuleLayer):
            nodes.append(_of_rule(layer, inputs, index, given[0], places.get(index, {})))
            value_of.append(index + 1)
            continue
        name = layer.operation
        check_known(f"operation of {type(layer).__name__}", [name], OPERATIONS)
        if OPERATIONS[name].only_training and frozen:
            value_of.append(inputs[0])
            continue
        fields = {**layer.attributes(*given), **places.get(index, {})}
        x = inputs[0]
        if name == "conv2d" and fields["groups"] > 1:
            depthwise = fields["groups"] == given[0][2] == network.shapes[index + 1][2]
            name = "depthwise_conv2d" if depthwise else "grouped_conv2d"
        elif name == "batch_norm" and (frozen or index in network.frozen):
            name = "scale_shift"
        elif name == "batch_norm":
            between = len(shapes)
            shapes[between] = shapes[x]
            nodes.append(Node("batch_statistics", (x,), between, (index,), fields))
            inputs = (between,)
            x = between
        for other in inputs[
            1:-1
        ]:  # an operation reads two values at most: three are two, and then the third
            between = len(shapes)
            shapes[between] = layer.output_shape(shapes[x], shapes[other])
            nodes.append(Node(name, (x, other), between, (index,), fields))
            x = between
        value_of.append(index + 1)
        nodes.append(Node(name, (x, *inputs[1:][-1:]), index + 1, (index,), fields))
    fixed = (node._replace(frozen=node.layers[0] in network.frozen) for node in nodes)
    return Graph(tuple(fixed), shapes, value_of[-1])


def _of_rule(
    layer: RuleLayer, inputs: tuple[int, ...], index: int, shape: Shape, places: Mapping[str, float]
) -> Node:
    shapes = layer.parameter_shapes(shape)
    numbers = (
        *layer.hyperparameters,
        *(number for name in shapes for number in (places[name], *shapes[name])),
    )
    ranks = len(shape), len(layer.output_shape(shape)), *map(len, shapes.values())
    fields = layer.attributes(shape) | ({"weight": min(places.values())} if places else {})
    return Node(
        f"layer.{layer.rule.name}", inputs, index + 1, (index,), fields, layer.rule, numbers, ranks
    )


def cuts(nodes: Sequence[Node], first: int = 0) -> list[int]:
    """Where a program can be cut: the nodes from ``first`` on after which only their own output is
    read, of all that depends on node ``first``."""
    places, written = [], {0} if first == 0 else set()
    for i in range(first, len(nodes)):
        later = {value for node in nodes[i + 1 :] for value in node.inputs}
        if not written & later:
            places.append(i)
        written.add(nodes[i].output)
    return places


def fuse(graph: Graph, lanes: int, training: bool = True, one: bool = False) -> Graph:
    """The graph with neighbours merged where one operation computes both, for vectors of ``lanes``
    numbers, and for ``one`` image at a time. Only a value that no other node reads is merged away.
    """
    nodes: list[Node] = []
    readers = graph.readers()
    for node in graph.nodes:
        while (before := _before(nodes, node)) is not None and readers[before.output] == 1:
            fused = _relu_into_pool(before, node) or _planes(graph, before, node, lanes)
            if fused is None:
                break
            nodes.remove(before)
            node = fused
        nodes.append(_faster(graph, node, training, one) if lanes > 1 else node)
    if lanes > 1:
        for node in [node for node in nodes if node.operation == "relu"]:
            before = _before(nodes, node)
            if before is not None and readers[before.output] == 1:
                _end_with_relu(nodes, before, node, training)
    return Graph(tuple(nodes), graph.shapes, graph.output)


def _faster(graph: Graph, node: Node, training: bool, one: bool) -> Node:
    """A convolution of 1×1 with stride 1 as the dense layer that it is for each pixel; one of 3×3
    by tiles of 4×4 outputs, where that is faster, and never with the environment variable
    MINICNN_WINOGRAD=0."""
    if node.operation != "conv2d":
        return node
    fields, channels = node.fields, graph.shapes[node.inputs[0]][2]
    height, width, filters = graph.shapes[node.output]
    if _are(fields, kernel=1, stride=1, dilation=1) and graph.shapes[node.inputs[0]][:2] == (
        height,
        width,
    ):
        return node._replace(operation="dense")
    if os.environ.get("MINICNN_WINOGRAD") == "0":
        return node
    few = WINOGRAD_OUTPUTS[training]
    if one and channels * filters > WINOGRAD_READ:
        few = WINOGRAD_OUTPUTS_OF_ONE
    inside = height * width / (16 * -(-height // 4) * -(-width // 4))
    if (
        not _are(fields, kernel=3, stride=1, dilation=1)
        or min(channels, filters) < WINOGRAD_CHANNELS
        or height * width < few
        or inside < WINOGRAD_INSIDE
    ):
        return node
    return node._replace(operation="winograd_conv2d", fields={**fields, "a0": WINOGRAD_TILES})


def _are(fields: Mapping[str, float], **wanted: int) -> bool:
    """Whether the fields are ``wanted``, for height and width."""
    sides = "height", "width"
    return all(fields[f"{name}_{side}"] == of for name, of in wanted.items() for side in sides)


def _before(nodes: list[Node], node: Node) -> Node | None:
    return next((other for other in nodes if other.output == node.inputs[0]), None)


def _relu_into_pool(before: Node, node: Node) -> Node | None:
    """ReLU keeps the order, so max(ReLU(x)) = ReLU(max(x)), and there are fewer maxima."""
    if (before.operation, node.operation) != ("relu", "max_pool2d"):
        return None
    layers = (*before.layers, *node.layers)
    return node._replace(inputs=before.inputs, layers=layers, fields={**node.fields, "relu": 1})


def _end_with_relu(nodes: list[Node], before: Node, relu: Node, training: bool) -> None:
    """Let ``before`` end with the ``relu`` after it, if it can: a pass less over its output.

    Backward, a sum knows from y where that was 0, and batch normalization from x; of that the first
    half makes dx, and must know too. A convolution knows nothing of y.
    """
    operation, rectified = before.operation, {**before.fields, "relu": 1}
    if operation == "batch_norm":
        first = next(node for node in nodes if node.output == before.inputs[0])
        nodes[nodes.index(first)] = first._replace(fields=rectified)
    elif operation == "add":
        operation = "add_relu"
    elif training or operation not in _RECTIFYING:
        return
    nodes.remove(relu)
    nodes[nodes.index(before)] = before._replace(
        operation=operation,
        output=relu.output,
        layers=(*before.layers, *relu.layers),
        fields=rectified,
    )


def _planes(graph: Graph, before: Node, node: Node, lanes: int) -> Node | None:
    """A convolution of a grey image with fewer filters than ``lanes``, and 2×2 pooling: vectors run
    along the width."""
    if (before.operation, node.operation) != ("conv2d", "max_pool2d") or before.inputs != (0,):
        return None
    (height, width, channels), (rows, columns, filters) = (
        graph.shapes[0],
        graph.shapes[before.output],
    )
    conv, pool = before.fields, node.fields
    plain, halves = _are(conv, stride=1, dilation=1), _are(pool, kernel=2, stride=2, dilation=1)
    valid = (rows, columns) == (
        height - conv["kernel_height"] + 1,
        width - conv["kernel_width"] + 1,
    )
    even = graph.shapes[node.output] == (rows / 2, columns / 2, filters)
    if not (channels == 1 and filters < lanes and halves and plain and valid and even):
        return None
    fields = {**conv, "relu": pool.get("relu", 0)}
    layers = (*before.layers, *node.layers)
    return before._replace(
        operation="conv_pool_grey", output=node.output, layers=layers, fields=fields
    )
