"""The table of operations: the one list that knows them all.

A layer of a network is lowered to the operation of its class (`minicnn.program.graph`). The operation's kernels are the
functions
``forward`` and ``backward`` (and, where it has them, ``transpose``, ``combine``, ``combine_backward``, ``finish``) of the
module of its name in ``kernels/<device>``. To add one: a class in ``network``, a module for each device, and a row here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from minicnn import activations as rules
from minicnn.errors import NetworkError
from minicnn.memory import round_up
from minicnn.network import activations, normalization
from minicnn.network import layers as of
from minicnn.rules import ActivationRule, AnyLayer

Sizes = Callable[[Mapping[str, int], int], int]  # (fields of the record, numbers in a vector) -> numbers


def _nothing(fields: Mapping[str, int], lanes: int) -> int:
    return 0


@dataclass(frozen=True)
class Operation:
    """What the planner must know of an operation; the rest is in its kernels."""

    module: str  # in kernels/<device>; that of a rule is made of the rule
    layer: type[of.Layer] | None = None  # whose operation it is
    reads: frozenset[str] = frozenset()  # what its backward pass reads of x, x2 and y
    in_place: bool = False  # y may lie where x lies, and dx where dy lies
    view: bool = False  # y is x: the same numbers in the same place
    only_training: bool = False  # left out in inference, and where the statistics are frozen: y is x
    shares_saved: bool = False  # what it saved lies where the operation before it, which wrote x, keeps its own
    saved: Sizes = _nothing  # kept from the forward to the backward pass, a chunk
    scratch: Sizes = _nothing  # needed during each pass, a chunk
    fields: Mapping[str, float] = field(default_factory=dict)  # of every record
    rule: AnyLayer | None = None  # what its kernels are made of


def _reads(*names: str) -> frozenset[str]:
    return frozenset(names)


DOTS = 5  # most taps, and most filters, whose sums a convolution in planes keeps in registers together


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


def _statistics(fields: Mapping[str, int], lanes: int) -> int:
    """6 C + 1 numbers of float64 and 7 C of the buffers' own (`minicnn.kernels.cpu.batch_statistics`)."""
    return round_up(2 * (6 * fields["input_channels"] + 1) + 7 * fields["input_channels"])


def _two_by_channel(fields: Mapping[str, int], lanes: int) -> int:
    """Scale and shift."""
    return 2 * fields["input_channels"]


def _by_group(fields: Mapping[str, int], lanes: int) -> int:
    """Mean and inverse deviation of each group of each sample."""
    return 2 * fields["chunk"] * fields["groups"]


def _of_rule(rule: AnyLayer, layer: type[of.Layer] | None = None) -> Operation:
    """The operation of an elementwise rule, or of one on a sample's arrays."""
    elementwise = isinstance(rule, ActivationRule)
    reads = _reads(rule.reads) if isinstance(rule, ActivationRule) else _reads("x", "y")
    return Operation("rule", layer, reads, in_place=elementwise, rule=rule)


_ACTIVATIONS = {
    "relu": activations.ReLU,
    "leaky_relu": activations.LeakyReLU,
    "relu6": activations.ReLU6,
    "elu": activations.ELU,
    "sigmoid": activations.Sigmoid,
    "hard_sigmoid": activations.HardSigmoid,
    "tanh": activations.Tanh,
    "silu": activations.SiLU,
    "hard_swish": activations.HardSwish,
    "mish": activations.Mish,
    "softplus": activations.Softplus,
    "gelu": activations.GELU,
}

OPERATIONS: dict[str, Operation] = {
    "conv2d": Operation("conv2d", of.Conv2d, _reads("x")),
    "grouped_conv2d": Operation("grouped_conv2d", None, _reads("x")),
    "depthwise_conv2d": Operation("depthwise_conv2d", None, _reads("x")),
    "dense": Operation("dense", of.Dense, _reads("x")),
    "max_pool2d": Operation("max_pool2d", of.MaxPool2d, _reads("x", "y")),
    "global_max_pool2d": Operation("max_pool2d", of.GlobalMaxPool2d, _reads("x", "y")),
    "avg_pool2d": Operation("avg_pool2d", of.AvgPool2d),
    "global_avg_pool2d": Operation("avg_pool2d", of.GlobalAvgPool2d),
    "flatten": Operation("identity", of.Flatten, in_place=True, view=True),
    "add": Operation("add", of.Add, in_place=True),
    "concat": Operation("concat", of.Concat),
    "multiply": Operation("multiply", of.Multiply, _reads("x", "x2")),
    # Batch normalization is two operations, between which all shards are combined; with frozen statistics, one.
    "batch_statistics": Operation("batch_statistics", None, _reads("x"), in_place=True, view=True, saved=_statistics),
    "batch_norm": Operation("batch_norm", normalization.BatchNorm2d, _reads("x"), in_place=True, shares_saved=True),
    "scale_shift": Operation("scale_shift", None, _reads("x"), in_place=True, scratch=_two_by_channel),
    "group_norm": Operation("group_norm", normalization.GroupNorm, _reads("x"), saved=_by_group),
    "layer_norm": Operation("group_norm", normalization.LayerNorm, _reads("x"), saved=_by_group, fields={"a0": 1}),
    "prelu": Operation("prelu", activations.PReLU, _reads("x"), in_place=True),
    "softmax": Operation("softmax", activations.Softmax, _reads("y"), in_place=True),
    "dropout": Operation("dropout", of.Dropout, in_place=True, only_training=True),
    "dropout2d": Operation("dropout", of.Dropout2d, in_place=True, only_training=True, fields={"a0": 1}),
    "drop_path": Operation("dropout", of.DropPath, in_place=True, only_training=True, fields={"a0": 2}),
    **{name: _of_rule(rule, _ACTIVATIONS.get(name)) for name, rule in rules.RULES.items()},
    # Fused operations, which stand for several layers.
    "conv_pool_grey": Operation("conv_pool_grey", None, _reads("x", "y"), saved=_planes, scratch=_plane_sums),
}


_BY_LAYER = {row.layer: name for name, row in OPERATIONS.items() if row.layer is not None}


def operation_of(layer: of.Layer) -> str:
    """The name of the operation that computes ``layer``; raises `NetworkError` for a class that has none."""
    name = _BY_LAYER.get(type(layer))
    if name is None:
        raise NetworkError(f"{layer}: no operation computes a layer of the class {type(layer).__name__}")
    return "gelu_tanh" if isinstance(layer, activations.GELU) and layer.approximate == "tanh" else name


def kinks_of(operation: str) -> tuple[float, ...]:
    """The inputs at which the derivative of an elementwise operation jumps; there are none for any other operation."""
    rule = OPERATIONS[operation].rule
    if isinstance(rule, ActivationRule):
        return rule.kinks
    return (0.0,) if operation == "prelu" else ()
