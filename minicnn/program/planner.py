"""From a graph to its plan: every buffer gets a place in the workspace, by the times at which it is
alive.

Time runs 0 … L−1 through the forward passes of the L nodes, L is the loss, and 2L − i the backward
pass of node i. A value lives from its writer to its last reader, and to the backward pass of each
node that reads it there; a gradient from the backward pass of the value's last reader, which writes
it, to that of its writer; every earlier reader adds to it. Buffers that are never alive together
may share their place.

Operations that all samples must have passed before any goes on end segments. A shard goes through
each segment part by part, so that a part stays in a core's own cache: what lives in one segment
alone has room for one part, and what lives longer for all, from the beginning of its first segment
to the end of its last. What batch normalization writes, and only its segment reads, does not stay
for the backward passes: before the first that reads it, it is written once more, for that takes less
time than to write it to memory and to read it from there.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minicnn.memory import round_up
from minicnn.network.layers import Shape
from minicnn.network.network import Network
from minicnn.program.graph import Graph, Node, fuse, lower
from minicnn.program.plan import PLACES, RECORD, fields_of


class Plan(NamedTuple):
    """A program laid out: the table, how many numbers the workspace of one thread holds, whose
    records they are, and how far the places of one part are from those of the next."""

    table: np.ndarray  # [operations] of plan.RECORD, of the first part
    work_size: int
    nodes: tuple[Node, ...]  # of each record
    strides: np.ndarray  # int64 [operations, PLACES]
    parts: int = 1

    def records(self) -> np.ndarray:
        """The table [parts · operations] of all parts, one after the other."""
        tables = np.tile(self.table, (self.parts, 1))
        for number, table in enumerate(tables):
            table["part"] = number
            for name, stride in zip(PLACES, self.strides.T, strict=True):
                table[name] += number * stride
        return tables.reshape(-1)

    def __reduce__(self) -> Any:
        raise TypeError("a plan holds addresses of compiled code, which mean nothing elsewhere")


_DY = PLACES.index("dy")
_ONES = ("stride_height", "stride_width", "dilation_height", "dilation_width", "groups")


def make_plan(
    network: Network,
    chunk: int,
    training: bool,
    lanes: int,
    keep: bool = False,
    frozen: bool = False,
    apart: bool = False,
    parts: int = 0,
) -> Plan:
    """Lay ``network`` out for chunks of at most ``chunk`` samples and vectors of ``lanes`` numbers;
    or with ``parts`` for a shard, with room for so many chunks.

    With one lane nothing is put together for vectors alone, so that every value lies in ``work`` as
    NHWC. With ``keep`` every value and every gradient stays there to the end. ``frozen`` trains the
    network as it is in inference: without dropout, and with the running statistics. With ``apart``
    nothing is written where a value lay: where threads share a sample, a line of the workspace that
    one has written would have to leave the cache of its core for the other to write there.
    """
    graph = fuse(
        lower(network, frozen or not training), lanes, training, not training and chunk == 1
    )
    nodes = graph.nodes
    table = np.zeros(len(nodes), RECORD)
    for record, node in zip(table, nodes, strict=True):
        _describe(record, node, graph, chunk)
    wants = _wanted_gradients(graph) if training else set()
    buffers: dict[Any, _Buffer] = defaultdict(_Buffer)
    values, gradients = _Joined(), _Joined()
    _join_values(graph, values, wants, keep)
    sizes = {value: round_up(chunk * int(np.prod(shape))) for value, shape in graph.shapes.items()}
    loss = len(nodes)

    def live(key: Any, size: int, first: int, last: int) -> None:
        buffers[key].size = max(buffers[key].size, size)
        buffers[key].alive.append((-1, 2 * loss) if keep else (first, 2 * loss if apart else last))

    again = _written_again(graph, values, wants) if parts else {}
    for value, (first, last) in _lives_of_values(graph, values, wants).items():
        size = max(sizes[v] for v in sizes if values.owner(v) == value)
        if value in again:
            _, reader = again[value]
            live(("value", value), size, first, reader)
            live(("value", value), size, 2 * loss - reader, last)
        else:
            live(("value", value), size, first, last)
    if training:
        _join_gradients(graph, gradients, wants, table, keep)
        for value in wants | {
            graph.output
        }:  # the loss writes dlogits, though no weight may need them
            times = [
                2 * loss - i for i, node in enumerate(nodes) if value in (*node.inputs, node.output)
            ]
            times += [loss] if value == graph.output else []
            live(("gradient", gradients.owner(value)), sizes[value], min(times), max(times))
    for i, (node, record) in enumerate(zip(nodes, table, strict=True)):
        row, fields = node.row, fields_of(record)
        back = 2 * loss - i if node.output in wants else i
        if size := row.saved(fields, lanes):
            live(("saved", node.output), size, i, 2 * loss if row.finishes else back)
        if size := row.scratch(fields, lanes):
            live(("scratch", i), size, i, i)
            live(("scratch", i), size, back, back)
    strides = np.zeros((len(nodes), len(PLACES)), np.int64)
    if parts > 1:
        of_the_shard = {("saved", node.output) for node in nodes if node.row.finishes}
        for key in _longer_than_a_segment(nodes, buffers) - of_the_shard:
            buffers[key].stride = buffers[key].size
            buffers[key].size *= parts
    work_size = _place(list(buffers.values()))

    def put(i: int, name: str, buffer: _Buffer) -> None:
        table[i][name], strides[i, PLACES.index(name)] = buffer.offset, buffer.stride

    for i, node in enumerate(nodes):
        for names, owner, kind, read in (
            (("x", "x2"), values, "value", node.inputs),
            (("y",), values, "value", (node.output,)),
            (("dx", "dx2"), gradients, "gradient", node.inputs),
            (("dy",), gradients, "gradient", (node.output,)),
        ):
            for name, value in zip(names, read, strict=False):
                if kind == "value" or value in wants or (training and value == graph.output):
                    put(i, name, buffers[kind, owner.owner(value)])
        saved_with = node.inputs[0] if node.row.saved_with_input else node.output
        for name, key in (("saved", saved_with), ("scratch", i)):
            if (name, key) in buffers:
                put(i, name, buffers[name, key])
    working = [i for i, record in enumerate(table) if not _does_nothing(nodes[i], record)] or [
        len(table) - 1
    ]
    # of the logits, also where what is left out wrote them
    table[working[-1]]["dy"], strides[working[-1], _DY] = table[-1]["dy"], strides[-1, _DY]
    table["params_size"], table["work_size"] = network.flat_size, work_size
    table["image_height"], table["image_width"], table["image_channels"] = _image(graph.shapes[0])
    order = sorted([(i, 0, i) for i in working] + [(k, 1, i) for i, k in again.values()])
    _, once_more, rows = map(list, zip(*order, strict=True))
    records = table[rows]
    records["again"] = once_more
    return Plan(records, work_size, tuple(nodes[i] for i in rows), strides[rows], max(parts, 1))


def _written_again(graph: Graph, values: "_Joined", wants: set[int]) -> dict[int, tuple[int, int]]:
    """The values that backward passes read, and that need not stay for them: the node of batch
    normalization that writes each, and the last that reads it."""
    found, nodes, logits = {}, graph.nodes, values.owner(graph.output)
    for i, node in enumerate(nodes[:-1]):
        value = node.output
        readers = [k for k, other in enumerate(nodes) if value in other.inputs]
        alone = all(values.owner(v) != values.owner(value) for v in graph.shapes if v != value)
        if (
            node.operation == "batch_norm"
            and alone
            and all(values.owner(nodes[k].output) != logits for k in readers)
            and not any(other.row.finishes for other in nodes[i : readers[-1] + 1])
            and any(value in _read_back(nodes[k], wants) for k in readers)
        ):
            found[value] = i, readers[-1]
    return found


def _longer_than_a_segment(nodes: Sequence[Node], buffers: Mapping[Any, "_Buffer"]) -> set[Any]:
    """The buffers that live in more than one segment; they live through the whole of each now."""
    of, segment = [], 0
    for node in nodes:
        of.append(segment)
        segment += node.row.finishes
    # the images, forward, the loss, backward
    times = [0, *of, of[-1], *(2 * segment + 1 - number for number in reversed(of))]
    end = {number: time - 1 for time, number in enumerate(times)}
    begin = {number: len(times) - 2 - time for time, number in enumerate(reversed(times))}
    result = set()
    for key, buffer in buffers.items():
        lives = [(times[first + 1], times[last + 1]) for first, last in buffer.alive]
        if any(first != last for first, last in lives):
            buffer.alive = [(begin[first], end[last]) for first, last in lives]
            result.add(key)
    return result


@dataclass
class _Buffer:
    size: int = 0
    alive: list[tuple[int, int]] = field(default_factory=list)  # first and last time of each life
    offset: int = -1
    stride: int = 0  # from one part to the next

    def meets(self, other: "_Buffer") -> bool:
        """Whether both are alive at some time."""
        return any(a <= d and c <= b for a, b in self.alive for c, d in other.alive)


class _Joined:
    """Values, or gradients, that lie in one buffer: each points to another, the last one to
    itself."""

    def __init__(self) -> None:
        self._with: dict[int, int] = {}

    def owner(self, value: int) -> int:
        while value in self._with:
            value = self._with[value]
        return value

    def join(self, value: int, other: int) -> None:
        self._with[value] = self.owner(other)


def _does_nothing(node: Node, record: np.void) -> bool:
    """Whether y and dx are what they are because they lie where x and dy lie."""
    return node.row.module == "identity" and record["dx"] in (-1, record["dy"])


def _describe(record: np.void, node: Node, graph: Graph, chunk: int) -> None:
    """Everything in a record but the places in the workspace."""
    for name in PLACES:
        record[name] = -1
    for name in _ONES:
        record[name] = 1
    record["chunk"], record["layer"] = chunk, node.layers[-1]
    for side, value in (("input", node.inputs[0]), ("output", node.output)):
        image = _image(graph.shapes[value])
        record[f"{side}_height"], record[f"{side}_width"], record[f"{side}_channels"] = image
        record[f"{side}_size"] = int(np.prod(image))
    if len(node.inputs) > 1:
        record["second_size"] = int(np.prod(graph.shapes[node.inputs[1]]))
    for name, number in {**node.fields, **node.row.fields}.items():
        record[name] = number


def _image(shape: Shape) -> tuple[int, ...]:
    """A vector of F numbers is an image of one pixel with F channels."""
    return shape if len(shape) == 3 else (1, 1, shape[0])


def _wanted_gradients(graph: Graph) -> set[int]:
    """The values whose gradient is needed: what is computed from weights."""
    wants: set[int] = set()
    for node in graph.nodes:
        if node.trained or wants.intersection(node.inputs):
            wants.add(node.output)
    return wants


def _read_back(node: Node, wants: set[int]) -> set[int]:
    """The values that the backward pass of ``node`` reads."""
    named = dict(zip(("x", "x2"), node.inputs, strict=False)) | {"y": node.output}
    reads = node.row.reads if node.output in wants else ()
    return {named[name] for name in reads if name in named}


def _join_values(graph: Graph, values: _Joined, wants: set[int], keep: bool) -> None:
    """Let y lie where x lies, where the operation may, nobody reads x after it, and no backward
    pass reads x."""
    kept = {graph.output}.union(*(_read_back(node, wants) for node in graph.nodes))
    for i, node in enumerate(graph.nodes):
        x, row = node.inputs[0], node.row
        together = [value for value in graph.shapes if values.owner(value) == values.owner(x)]
        later = {value for other in graph.nodes[i + 1 :] for value in other.inputs}
        free = not keep and kept.isdisjoint(together) and later.isdisjoint(together)
        if row.view or (row.in_place and free):
            values.join(node.output, x)


def _lives_of_values(graph: Graph, values: _Joined, wants: set[int]) -> dict[int, tuple[int, int]]:
    """First and last time of each buffer of values."""
    loss, times = len(graph.nodes), defaultdict(list)
    times[values.owner(0)].append(-1)
    times[values.owner(graph.output)].append(loss)
    for i, node in enumerate(graph.nodes):
        for value in (*node.inputs, node.output):
            times[values.owner(value)].append(i)
            if value in _read_back(node, wants):
                times[values.owner(value)].append(2 * loss - i)
    return {value: (min(of), max(of)) for value, of in times.items()}


def _join_gradients(
    graph: Graph, gradients: _Joined, wants: set[int], table: np.ndarray, keep: bool
) -> None:
    """Let dx lie where dy lies, where the operation may and x has one reader; mark who adds to a
    gradient."""
    readers, written = graph.readers(), set()
    for node, record in zip(graph.nodes[::-1], table[::-1], strict=True):
        for name, value in zip(("accumulate", "accumulate2"), node.inputs, strict=False):
            if value in wants and node.output in wants:
                record[name] = value in written
                written.add(value)
        x = node.inputs[0]
        row, free = node.row, node.row.module == "identity" or not keep
        if row.in_place and free and readers[x] == 1 and x in wants:
            gradients.join(x, node.output)


def _place(buffers: list[_Buffer]) -> int:
    """Give each buffer, the largest and then the earliest first, the lowest place that is free over
    its lives; return the size of all."""
    placed: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda buffer: (-buffer.size, buffer.alive[0])):
        buffer.offset = 0
        for other in sorted(
            (other for other in placed if other.meets(buffer)), key=lambda other: other.offset
        ):
            if buffer.offset + buffer.size <= other.offset:
                break
            buffer.offset = max(buffer.offset, other.offset + other.size)
        placed.append(buffer)
    return max((buffer.offset + buffer.size for buffer in placed), default=0)
