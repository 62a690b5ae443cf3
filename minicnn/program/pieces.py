"""A plan of inference cut for several threads that compute one image together.

A piece of an operation is a record like any other: that of the same operation over some rows of its
output, some filters of a convolution, or some outputs of a dense layer. So no kernel knows of
pieces, and every number is computed as in the whole. Pieces are put together in tasks, each of which
one thread takes, and tasks in stages: those of a stage may be taken at the same time, when all tasks
before them are over. An operation joins the stage of the one before where each task reads only what
it has made itself.
"""

from collections.abc import Mapping
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
}
# Multiply-adds, or numbers written, that a thread makes in a microsecond (AVX-512; AVX2 makes half).
_SPEED = {
    "conv2d": 1e5,
    "winograd_conv2d": 3e5,
    "dense": 5e4,
    "depthwise_conv2d": 4e4,
    "relu": 4e4,
}
_SPEED_OF_RULES, _SPEED_OF_OTHERS = 5e3, 4e4
_LARGE = 1 << 17  # weights that do not stay in a core's own cache
_WORTH = 1.6  # microseconds from which on an operation begins a stage of several tasks

_Bounds = tuple[int, ...]  # where the pieces of a value begin, and the end of the last, in numbers


class Pieces(NamedTuple):
    """A plan in tasks."""

    table: np.ndarray  # [pieces] records, in the order of the tasks
    tasks: np.ndarray  # int64 [tasks, (first piece, end piece, end of the tasks of the stage)]
    work_size: int


class _Stage(NamedTuple):
    tasks: list[list[np.ndarray]]
    bounds: dict[int, _Bounds]  # of the values that it writes, by their places
    touched: list[tuple[int, int]]  # what it reads and writes: places and their ends


def cut(plan: Plan, parts: int, lanes: int) -> Pieces:
    """``plan``, of inference with chunks of one sample, for ``parts`` threads."""
    stages = [_Stage([[]], {}, [])]
    work_size = plan.work_size
    for node, record in zip(plan.nodes, plan.table, strict=True):
        fields = fields_of(record)
        touched = _touched(fields)
        bounds, by_filter = _joining(stages[-1], node, fields, touched), False
        if bounds is None:
            by_filter = _by_filter(node, fields)
            bounds = _beginning(node, fields, parts, by_filter)
            count = len(bounds) - 1
            if count > 1 or len(stages[-1].tasks) > 1:
                stages.append(_Stage([[] for _ in range(count)], {}, []))
        # Scratch that others may write to at the same time lies behind the workspace.
        room = round_up(node.row.scratch(fields, lanes)) if len(bounds) > 2 else 0
        for part, piece_bounds in enumerate(pairwise(bounds)):
            piece = record.copy()
            if len(bounds) > 2:
                changed = _piece(node, fields, *piece_bounds, by_filter)
                if room:
                    changed["scratch"] = plan.work_size + part * room
                for name, number in changed.items():
                    piece[name] = number
            stages[-1].tasks[part].append(piece)
        work_size = max(work_size, plan.work_size + (len(bounds) - 1) * room)
        if bounds[-1] == fields["output_size"]:
            stages[-1].bounds[fields["y"]] = bounds
        stages[-1].touched.extend(touched)
    records: list[np.ndarray] = []
    tasks: list[tuple[int, int, int]] = []
    for stage in stages:
        end = len(tasks) + len(stage.tasks)
        for task in stage.tasks:
            tasks.append((len(records), len(records) + len(task), end))
            records += task
    table = np.array(records, plan.table.dtype)
    table["work_size"] = work_size
    return Pieces(table, np.array(tasks, np.int64), work_size)


def _touched(fields: Mapping[str, int]) -> list[tuple[int, int]]:
    sizes = {"x": fields["input_size"], "x2": fields["second_size"], "y": fields["output_size"]}
    return [
        (fields[name], fields[name] + size) for name, size in sizes.items() if fields[name] >= 0
    ]


def _by_number(node: Node) -> bool:
    """Whether each number of y is made of that of x, and of x2, in the same place."""
    return node.row.module == "add" or isinstance(node.row.rule, ActivationRule)


def _by_filter(node: Node, fields: Mapping[str, int]) -> bool:
    """Whether the pieces are some outputs of a dense layer of one row, or some filters of a
    convolution with so many weights that each thread should read a part of them alone."""
    if node.operation == "dense":
        return fields["input_size"] == fields["input_channels"]
    taps = fields["kernel_height"] * fields["kernel_width"]
    weights = taps * fields["input_channels"] * fields["output_channels"]
    return node.operation == "conv2d" and weights > _LARGE


def _beginning(node: Node, fields: Mapping[str, int], parts: int, by_filter: bool) -> _Bounds:
    """The pieces of an operation that begins a stage: one where more would not pay."""
    size, rows = fields["output_size"], fields["output_height"]
    work = size
    if "weight" in node.fields and node.operation in _WINDOWS:
        taps = max(1, fields["kernel_height"] * fields["kernel_width"])
        work *= taps * fields["input_channels"] // fields["groups"]
    others = _SPEED_OF_RULES if node.row.rule else _SPEED_OF_OTHERS
    name = "conv2d" if rows > 1 and node.operation == "dense" else node.operation
    if work < _WORTH * _SPEED.get(name, others):
        return 0, size
    unit = size // rows
    if by_filter:
        size = fields["output_channels"]
        unit, rows = ALIGNMENT, size // ALIGNMENT
    elif node.operation in _WINDOWS and not (fields["a1"] and node.operation == "avg_pool2d"):
        unit, rows = unit * _WINDOWS[node.operation], -(-rows // _WINDOWS[node.operation])
    elif not _by_number(node):
        return 0, size
    parts = max(1, min(parts, rows))
    return *(rows * part // parts * unit for part in range(parts)), size


def _joining(
    stage: _Stage, node: Node, fields: Mapping[str, int], touched: list[tuple[int, int]]
) -> _Bounds | None:
    """The pieces of an operation whose tasks read only what they have made in this stage."""
    bounds = stage.bounds.get(fields["x"])
    if bounds is None or len(bounds) < 3:
        return None
    in_place = fields["y"] == fields["x"]
    begin, end = touched[-1]
    if not in_place and any(begin < other[1] and other[0] < end for other in stage.touched):
        return None  # another task may still need what lies there
    if _by_number(node):
        return bounds if stage.bounds.get(fields["x2"], bounds) == bounds else None
    if node.operation not in _WINDOWS or (fields["a1"] and node.operation == "avg_pool2d"):
        return None
    row, unit = fields["input_size"] // fields["input_height"], _WINDOWS[node.operation]
    stride, outputs = fields["stride_height"], fields["output_height"]
    result = [0]
    for bound in bounds[1:-1]:
        result.append(bound // row // stride // unit * unit)
    result.append(outputs)
    for (first, last), (begin, end) in zip(pairwise(result), pairwise(bounds), strict=True):
        reads = first * stride - fields["padding_top"]
        reach = max(0, fields["kernel_height"] - 1) * fields["dilation_height"] + 1
        above = (last - 1) * stride - fields["padding_top"] + reach
        if last <= first or begin % row or (first and reads * row < begin):
            return None
        if last < outputs and above * row > end:
            return None
    return tuple(first * (fields["output_size"] // outputs) for first in result)


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
    if "pool2d" in node.operation or node.operation == "dense":  # they count these rows
        reach = (fields["kernel_height"] - 1) * fields["dilation_height"] + 1
        height = min(height, (rows - 1) * fields["stride_height"] + reach - padding)
    return y | {
        "x": fields["x"] + top * line,
        "input_height": height,
        "padding_top": padding,
        "output_height": rows,
        "output_size": end - first,
    }
