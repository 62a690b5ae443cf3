"""The table of all operations.

A layer of a network is lowered to the operation that its class names (`minicnn.program.graph`). The
operation's kernels are the functions ``forward`` and ``backward`` (and, where it has them,
``transpose``, ``combine``, ``combine_backward``, ``finish``) of the module of its name in
``kernels/<device>``, or are compiled from a rule. To add one: a class in ``network``, a module for
each device, and a row here; an activation is a rule in ``activations``.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from minicnn import activations as rules
from minicnn.memory import ALIGNMENT, round_up
from minicnn.rules import ActivationRule, AnyLayer

Sizes = Callable[
    [Mapping[str, int], int], int
]  # (fields of the record, numbers in a vector) -> numbers


def _nothing(fields: Mapping[str, int], lanes: int) -> int:
    return 0


@dataclass(frozen=True)
class Operation:
    """What the planner needs to know of an operation; the rest is in its kernels."""

    module: str  # in kernels/<device>; that of a rule is made of the rule
    reads: frozenset[str] = frozenset()  # what its backward pass reads of x, x2 and y
    in_place: bool = False  # y may lie where x lies, and dx where dy lies
    view: bool = False  # y is x: the same numbers in the same place
    only_training: bool = (
        False  # left out in inference, and where the statistics are frozen: y is x
    )
    saved_with_input: bool = (
        False  # what it saved lies where the operation before it, which wrote x, keeps its own
    )
    # All samples must have passed it before any goes on, and what it saved is read after the step
    # as well, for the state.
    finishes: bool = False
    saved: Sizes = _nothing  # kept from the forward to the backward pass, a chunk
    scratch: Sizes = _nothing  # needed during each pass, a chunk
    prepared: Sizes = _nothing  # made of weights that never change, by the function ``prepare``
    fields: Mapping[str, float] = field(default_factory=dict, hash=False)  # of every record
    rule: AnyLayer | None = None  # what its kernels are made of
    kinks: tuple[float, ...] = ()  # the x at which the derivative of an elementwise operation jumps


def _reads(*names: str) -> frozenset[str]:
    return frozenset(names)


DOTS = (
    5  # most taps, and most filters, whose sums a convolution in planes keeps in registers together
)


def _planes(fields: Mapping[str, int], lanes: int) -> int:
    """The convolution's planes [K, P, W] of each sample, and the maxima."""
    filters, chunk = fields["output_channels"], fields["chunk"]
    planes = filters * 2 * fields["output_height"] * fields["input_width"]
    return round_up(chunk * planes) + round_up(chunk * fields["output_size"])


def _plane_sums(fields: Mapping[str, int], lanes: int) -> int:
    """One sample's maxima, the gradient of its planes, and sums for each lane of a vector."""
    filters = fields["output_channels"]
    planes = filters * 2 * fields["output_height"] * fields["input_width"]
    sums = fields["kernel_height"] * (fields["kernel_width"] + DOTS) * (filters + DOTS) * lanes
    return round_up(fields["output_size"]) + round_up(planes) + round_up(sums)


def _tiles(fields: Mapping[str, int], lanes: int) -> int:
    """36 points of a vector, of the filters, and of the tiles of a block that are read and
    written (`minicnn.kernels.cpu.winograd_conv2d`)."""
    C, K = _rounded(fields, lanes)
    filters = _filters(fields, lanes)
    return filters + 36 * (2 * fields["a0"] * max(C, K) + 2 * ALIGNMENT)


def _filters(fields: Mapping[str, int], lanes: int) -> int:
    """36 points of the filters, and of a vector."""
    C, K = _rounded(fields, lanes)
    return 36 * (C * K + ALIGNMENT + lanes)


def _rounded(fields: Mapping[str, int], lanes: int) -> tuple[int, int]:
    C, K = (-(-fields[f"{side}_channels"] // lanes) * lanes for side in ("input", "output"))
    return C, K


def _statistics(fields: Mapping[str, int], lanes: int) -> int:
    """6 C + 1 numbers of float64 and 7 C of the buffers' own
    (`minicnn.kernels.cpu.batch_statistics`)."""
    return round_up(2 * (6 * fields["input_channels"] + 1) + 7 * fields["input_channels"])


def _one_input(fields: Mapping[str, int], lanes: int) -> int:
    """A sample's dx."""
    return fields["input_size"]


def _two_by_channel(fields: Mapping[str, int], lanes: int) -> int:
    """Scale and shift."""
    return 2 * fields["input_channels"]


def _by_group(fields: Mapping[str, int], lanes: int) -> int:
    """Mean and inverse deviation of each group of each sample."""
    return 2 * fields["chunk"] * fields["groups"]


@functools.cache
def row_of(rule: AnyLayer) -> Operation:
    """The row of a rule."""
    if isinstance(rule, ActivationRule):
        reads = _reads(rule.reads)
        return Operation("rule", reads, in_place=True, rule=rule, kinks=rule.kinks)
    return Operation("rule", _reads("x", "y"), scratch=_one_input, rule=rule)


OPERATIONS: dict[str, Operation] = {
    "conv2d": Operation("conv2d", _reads("x")),
    "grouped_conv2d": Operation("grouped_conv2d", _reads("x")),
    "depthwise_conv2d": Operation("depthwise_conv2d", _reads("x")),
    "dense": Operation("dense", _reads("x")),
    "max_pool2d": Operation("max_pool2d", _reads("x", "y")),
    "global_max_pool2d": Operation("max_pool2d", _reads("x", "y")),
    "avg_pool2d": Operation("avg_pool2d"),
    "global_avg_pool2d": Operation("avg_pool2d"),
    "flatten": Operation("identity", in_place=True, view=True),
    "add": Operation("add", in_place=True),
    "add_relu": Operation("add", _reads("y"), in_place=True, fields={"relu": 1}),
    "concat": Operation("concat"),
    "multiply": Operation("multiply", _reads("x", "x2")),
    # Batch normalization is two operations, between which all shards are combined; with frozen
    # statistics, one.
    "batch_statistics": Operation(
        "batch_statistics",
        _reads("x"),
        in_place=True,
        view=True,
        finishes=True,
        saved=_statistics,
    ),
    "batch_norm": Operation("batch_norm", _reads("x"), in_place=True, saved_with_input=True),
    "scale_shift": Operation("scale_shift", _reads("x"), in_place=True, scratch=_two_by_channel),
    "group_norm": Operation("group_norm", _reads("x"), saved=_by_group),
    "layer_norm": Operation("group_norm", _reads("x"), saved=_by_group, fields={"a0": 1}),
    **{name: row_of(rule) for name, rule in rules.RULES.items()},
    "prelu": Operation("prelu", _reads("x"), in_place=True, kinks=(0.0,)),
    # in place its loop, compiled for arrays that do not overlap, would round otherwise
    "softmax": Operation("softmax", _reads("y")),
    "dropout": Operation("dropout", in_place=True, only_training=True),
    "dropout2d": Operation("dropout", in_place=True, only_training=True, fields={"a0": 1}),
    "drop_path": Operation("dropout", in_place=True, only_training=True, fields={"a0": 2}),
    "winograd_conv2d": Operation("winograd_conv2d", _reads("x"), scratch=_tiles, prepared=_filters),
    # Fused operations, which stand for several layers.
    "conv_pool_grey": Operation(
        "conv_pool_grey", _reads("x", "y"), saved=_planes, scratch=_plane_sums
    ),
}
