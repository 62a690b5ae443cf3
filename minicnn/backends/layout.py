"""Plans for the CPU: how many samples a chunk has, and the addresses of the compiled kernels."""

import functools
from collections.abc import Sequence

import numpy as np

from minicnn.kernels.cpu import passes
from minicnn.kernels.cpu.beside import STEPS, compile_beside
from minicnn.kernels.cpu.tile import VECTOR_BYTES, multiply_address
from minicnn.memory import aligned_zeros, round_up
from minicnn.network.network import Network
from minicnn.program.plan import ADDRESSES
from minicnn.program.planner import Plan, make_plan

# A chunk's activations should stay in a core's own cache; fewer than 8 samples waste the register
# tile.
_CHUNK_BYTES = 1024 * 1024
_SMALLEST_CHUNK, _LARGEST_CHUNK = 8, 16
# Samples of a part of a shard: so many at least, and so many that the largest value has twice as many
# numbers as there are weights. In smaller parts, what each makes of the weights (Winograd's filters and
# their gradient) would cost too much.
_SMALLEST_PART, _VALUES_BY_WEIGHTS = 16, 2
# A value of the whole batch up to this size is still in the cache that the cores, and on rented
# machines those of others, share when the next operation reads it.
_WHOLE_BYTES = 2 << 20


@functools.cache
def _kept(numbers: tuple[float, ...]) -> np.ndarray:
    """``numbers`` at an address that a plan may hold as long as the process lives."""
    return np.array(numbers, np.float64)


def lay_out(
    network: Network,
    chunk: int,
    training: bool,
    dtype: np.dtype,
    *,
    plain: bool = False,
    keep: bool = False,
    frozen: bool = False,
    beside: Sequence[str] = (),
) -> Plan:
    """The plan of ``network`` for this machine: chunks of ``chunk`` samples, kernels compiled for
    ``dtype``.

    ``plain`` leaves out the layouts meant for vector code, so that every value lies in ``work`` as
    NHWC; ``keep`` and ``frozen`` are those of `minicnn.program.planner.make_plan`. ``beside`` names
    `minicnn.kernels.cpu.beside.STEPS` that will be needed too.
    """
    lanes = 1 if plain else VECTOR_BYTES // np.dtype(dtype).itemsize
    return linked(make_plan(network, chunk, training, lanes, keep, frozen), dtype, beside)


def linked(plan: Plan, dtype: np.dtype, beside: Sequence[str] = ()) -> Plan:
    """``plan`` with the addresses of kernels compiled for ``dtype``."""
    table = plan.table.view(passes.PLAN_RECORD)
    # An operation without a gradient, such as those before the first weights that are trained, has
    # no backward pass, nor has one that is there once more.
    wanted = [
        _wanted(record)
        if record["dy"] >= 0
        and not record["again"]
        and (node.trained or max(record["dx"], record["dx2"]) >= 0)
        else {"forward": "forward"}
        for record, node in zip(table, plan.nodes, strict=True)
    ]
    tasks = [("", name) for name in beside]
    for names, node in zip(wanted, plan.nodes, strict=True):
        tasks += [(node.operation, name) for name in names.values() if not node.rule]
    compile_beside(tasks, np.dtype(dtype).name)
    for record, node, names in zip(table, plan.nodes, wanted, strict=True):
        record["multiply"], record["itemsize"] = multiply_address(dtype), np.dtype(dtype).itemsize
        if node.numbers:
            record["a0"] = _kept(node.numbers).ctypes.data
        for field, name in names.items():
            record[field] = passes.kernel_address(node.row, name, np.dtype(dtype).name, node.ranks)
    return plan._replace(table=table)


def prepared(plan: Plan, params: np.ndarray) -> tuple[Plan, np.ndarray]:
    """A ``plan`` of inference and its parameters, extended by the weights in the order that kernels
    want, which would otherwise be made in each chunk. The parameters must not change any more."""
    table, lanes = plan.table.copy(), VECTOR_BYTES // params.itemsize
    size = round_up(len(params))
    for record, node in zip(table, plan.nodes, strict=True):
        fields = {name: int(record[name]) for name in ("input_channels", "output_channels")}
        if count := node.row.prepared(fields, lanes):
            record["prepared"], size = size, size + round_up(count)
            dtype = params.dtype.name
            record["transpose"] = passes.kernel_address(node.row, "prepare", dtype)
    if size == round_up(len(params)):
        return plan, params
    table["params_size"] = size
    longer = aligned_zeros(size, params.dtype)
    longer[: len(params)] = params
    passes.prepare(table, longer)
    return plan._replace(table=table), longer


def _wanted(record: np.void) -> dict[str, str]:
    """The functions that training calls, by the fields of the record that hold their addresses."""
    names = {name: name for name in ADDRESSES[1:]}
    if record["dx"] < 0:  # an image needs no gradient
        names["backward"] = "backward_weights"
        del names["transpose"]
    return names


def plan_for_batch(
    network: Network,
    batch: int,
    training: bool,
    dtype: np.dtype,
    frozen: bool = False,
) -> Plan:
    """Choose the chunk so that what one thread works on stays in its cache. Where an operation needs
    the whole ``batch``, that is one chunk, or if its largest value leaves the cache of all cores,
    several."""
    # A run is validated by inference.
    beside = [name for name in STEPS if training or not name.startswith("step")]
    one = lay_out(network, 1, training, dtype, frozen=frozen, beside=beside)
    if training and any(one.table["combine"]):
        lanes, largest = VECTOR_BYTES // np.dtype(dtype).itemsize, max(one.table["output_size"])
        part = max(_SMALLEST_PART, _VALUES_BY_WEIGHTS * network.parameter_count // int(largest))
        is_small = batch * int(largest) * np.dtype(dtype).itemsize <= _WHOLE_BYTES
        parts = 1 if is_small else -(-batch // part)
        return linked(make_plan(network, -(-batch // parts), True, lanes, parts=parts), dtype)
    chunk = min(
        _LARGEST_CHUNK,
        max(_SMALLEST_CHUNK, _CHUNK_BYTES // (one.work_size * np.dtype(dtype).itemsize)),
    )
    return lay_out(network, max(1, min(chunk, batch)), training, dtype, frozen=frozen)
