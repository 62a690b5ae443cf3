"""A plan of inference cut for several threads that compute one image together.

A piece of an operation is a record like any other: that of the same operation over some rows of its
output, some filters of a convolution, or some outputs of a dense layer. So no kernel knows of
pieces, and every number is computed as in the whole. Pieces are put together in tasks, each of which
one thread takes, and tasks in stages: those of a stage may be taken at the same time, when all tasks
before them are over. An operation joins the stage of the one before where each task reads only what
it has made itself, or what the stage does not write.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minicnn.memory import ALIGNMENT, round_up
from minicnn.program.graph import Node
from minicnn.program.plan import fields_of
from minicnn.program.planner import Plan
from minicnn.rules import ActivationRule

# Operations that read windows of rows, with the rows of the output that belong together. A dense
# layer of several rows is a convolution of 1×1.
_WINDOWS = {
    "dense": 1,
    "conv2d": 1,
    "grouped_conv2d": 1,
    "depthwise_conv2d": 1,
    "winograd_conv2d": 4,
    "max_pool2d": 1,
    "avg_pool2d": 1,
    "scale_shift": 1,
}
# Multiply-adds, or numbers written, that a thread makes in a microsecond.
_SPEED = {
    "conv2d": 5e4,
    "winograd_conv2d": 1.5e5,
    "dense": 2.5e4,
    "grouped_conv2d": 2.5e4,
    "depthwise_conv2d": 2.5e4,
    "relu": 4e4,
}
_SPEED_OF_RULES, _SPEED_OF_OTHERS = 5e3, 4e4
_LARGE = 1 << 17  # weights that do not stay in a core's own cache
_WORTH = 3.5  # microseconds by one thread from which on a stage has several tasks

_Bounds = tuple[int, ...]  # where the pieces of a value begin, and the end of the last, in numbers
_Span = tuple[int, int]  # places in the workspace, of which the end is none


class Pieces(NamedTuple):
    """A plan in tasks."""

    table: np.ndarray  # [pieces] records, in the order of the tasks
    tasks: np.ndarray  # int64 [tasks, (first piece, end piece, end of the tasks of the stage)]
    work_size: int


class _Part(NamedTuple):
    """An operation of a stage of several tasks."""

    bounds: _Bounds
    by_filter: bool


def cut(plan: Plan, parts: int, lanes: int) -> Pieces:
    """``plan``, of inference with chunks of one sample, for ``parts`` threads."""
    operations = [
        (node, fields_of(record)) for node, record in zip(plan.nodes, plan.table, strict=True)
    ]
    stages: list[list[list[np.ndarray]]] = []  # the records of each task of each
    work_size, at = plan.work_size, 0
    while at < len(operations):
        shared = _shared(operations[at:], parts)
        count = len(shared[0].bounds) - 1 if shared else 1
        if shared or not stages or len(stages[-1]) > 1:
            stages.append([[] for _ in range(count)])
        if not shared:
            stages[-1][0].append(plan.table[at].copy())
        # Scratch that others may write to at the same time lies behind the workspace.
        scratches = [node.row.scratch(fields, lanes) for node, fields in operations[at:]]
        room = round_up(max(scratches[: len(shared)], default=0))
        work_size = max(work_size, plan.work_size + count * room)
        for i, (bounds, by_filter) in enumerate(shared, at):
            node, fields = operations[i]
            for part, piece_bounds in enumerate(pairwise(bounds)):
                piece = plan.table[i].copy()
                piece["scratch"] = plan.work_size + part * room
                for name, number in _piece(node, fields, *piece_bounds, by_filter).items():
                    piece[name] = number
                stages[-1][part].append(piece)
        at += max(1, len(shared))
    records: list[np.ndarray] = []
    tasks: list[tuple[int, int, int]] = []
    for stage in stages:
        end = len(tasks) + len(stage)
        for task in stage:
            tasks.append((len(records), len(records) + len(task), end))
            records += task
    table = np.array(records, plan.table.dtype)
    table["work_size"] = work_size
    return Pieces(table, np.array(tasks, np.int64), work_size)


def _shared(operations: Sequence[tuple[Node, Mapping[str, int]]], parts: int) -> list[_Part]:
    """The first operations, as many as make one stage of several tasks; none where these would not
    pay."""
    shared: list[_Part] = []
    known: dict[int, _Bounds] = {}  # of what the stage writes, by their places
    written: list[_Span] = []
    read: list[_Span] = []
    time = 0.0
    for node, fields in operations:
        *inputs, output = (
            (fields[name], fields[name] + fields[size])
            for name, size in (("x", "input_size"), ("x2", "second_size"), ("y", "output_size"))
            if fields[name] >= 0
        )
        inside = [span for span in inputs if _meets(span, written)]
        by_filter = not inside and _by_filter(node, fields)
        bounds: _Bounds = ()
        if not inside:
            bounds = _beginning(node, fields, parts, by_filter)
        elif len(made := {known.get(begin, ()) for begin, _ in inside}) == 1:
            bounds = _joining(made.pop(), node, fields)
        in_place = any(output[0] == begin for begin, _ in inside)
        most = len(shared[0].bounds) if shared else len(bounds)
        if not 3 <= len(bounds) <= most or (not in_place and _meets(output, written + read)):
            break  # or another task may still need what lies there
        shared.append(_Part(bounds, by_filter))
        if bounds[-1] == fields["output_size"]:
            known[fields["y"]] = bounds
        written.append(output)
        read += inputs
        time += _time(node, fields)
    return shared if time >= _WORTH else []


def _meets(span: _Span, others: list[_Span]) -> bool:
    return any(span[0] < end and begin < span[1] for begin, end in others)


def _time(node: Node, fields: Mapping[str, int]) -> float:
    """About how many microseconds an operation takes one thread."""
    work = fields["output_size"]
    if "weight" in node.fields and node.operation in _SPEED:
        taps = max(1, fields["kernel_height"] * fields["kernel_width"])
        work *= taps * fields["input_channels"] // fields["groups"]
    others = _SPEED_OF_RULES if node.row.rule else _SPEED_OF_OTHERS
    name = "conv2d" if fields["output_height"] > 1 and node.operation == "dense" else node.operation
    return work / _SPEED.get(name, others)


def _by_number(node: Node) -> bool:
    """Whether each number of y is made of that of x, and of x2, in the same place."""
    return node.row.module == "add" or isinstance(node.row.rule, ActivationRule)


def _by_row(node: Node, fields: Mapping[str, int]) -> bool:
    """Whether a row of y is made of some rows of x."""
    return node.operation in _WINDOWS and not (fields["a1"] and node.operation == "avg_pool2d")


def _by_filter(node: Node, fields: Mapping[str, int]) -> bool:
    """Whether the pieces are some outputs of a dense layer of one row, or some filters of a
    convolution with so many weights that each thread should read a part of them alone."""
    if node.operation == "dense":
        return fields["input_size"] == fields["input_channels"]
    taps = fields["kernel_height"] * fields["kernel_width"]
    weights = taps * fields["input_channels"] * fields["output_channels"]
    return node.operation == "conv2d" and weights > _LARGE


def _beginning(node: Node, fields: Mapping[str, int], parts: int, by_filter: bool) -> _Bounds:
    """The pieces of an operation that begins a stage: one where it cannot be cut."""
    size, rows = fields["output_size"], fields["output_height"]
    unit = size // rows
    if by_filter:
        size = fields["output_channels"]
        unit, rows = ALIGNMENT, size // ALIGNMENT
    elif _by_row(node, fields):
        unit, rows = unit * _WINDOWS[node.operation], -(-rows // _WINDOWS[node.operation])
    elif not _by_number(node):
        return 0, size
    parts = max(1, min(parts, rows))
    return *(rows * part // parts * unit for part in range(parts)), size


def _joining(bounds: _Bounds, node: Node, fields: Mapping[str, int]) -> _Bounds:
    """The pieces of an operation that reads only what each task has made itself, in ``bounds``;
    none where it cannot."""
    if _by_number(node):
        return bounds
    if not bounds or not _by_row(node, fields):
        return ()
    row, unit = fields["input_size"] // fields["input_height"], _WINDOWS[node.operation]
    stride, outputs = fields["stride_height"], fields["output_height"]
    result = [0]
    for bound in bounds[1:-1]:
        result.append(bound // row // stride // unit * unit)
    result.append(outputs)
    for (first, last), (begin, end) in zip(pairwise(result), pairwise(bounds), strict=True):
        reads = first * stride - fields["padding_top"]
        above = (last - 1) * stride - fields["padding_top"] + _reach(fields)
        if last <= first or begin % row or (first and reads * row < begin):
            return ()
        if last < outputs and above * row > end:
            return ()
    return tuple(first * (fields["output_size"] // outputs) for first in result)


def _reach(fields: Mapping[str, int]) -> int:
    """The rows from the first to the last that a window reads."""
    return max(0, fields["kernel_height"] - 1) * fields["dilation_height"] + 1


def _piece(
    node: Node, fields: Mapping[str, int], first: int, end: int, by_filter: bool
) -> dict[str, int]:
    """The fields of the record of the numbers, or filters, from ``first`` to ``end`` of y that are
    others than the whole's."""
    y = {"y": fields["y"] + first}
    if by_filter:
        bias = fields["bias"] + first if fields["bias"] >= 0 else -1
        return y | {
            "weight": fields["weight"] + first,
            "bias": bias,
            "output_channels": end - first,
        }
    if _by_number(node):
        inputs = {name: fields[name] + first for name in ("x", "x2") if fields[name] >= 0}
        return y | inputs | {"input_size": end - first, "output_size": end - first}
    row, line = fields["output_size"] // fields["output_height"], fields["input_size"]
    line //= fields["input_height"]
    rows, start = (end - first) // row, first // row * fields["stride_height"]
    top = max(0, start - fields["padding_top"])
    padding = max(0, fields["padding_top"] - start)
    height = fields["input_height"] - top
    if "conv2d" not in node.operation:  # the others count these rows
        height = min(height, (rows - 1) * fields["stride_height"] + _reach(fields) - padding)
    return y | {
        "x": fields["x"] + top * line,
        "input_height": height,
        "padding_top": padding,
        "output_height": rows,
        "output_size": end - first,
    }
