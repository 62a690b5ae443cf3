"""The CPU: owns the buffers, compiles or loads the kernels, and launches them."""

import ctypes
import functools
import math
from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_name

from minicnn.backends import (
    RunInputs,
    StepInputs,
    StepOptions,
    StepResult,
    check_scalars,
    scale_rows,
)
from minicnn.backends.cpu_passes import Passes as Passes
from minicnn.backends.cpu_passes import batch_loss as batch_loss
from minicnn.backends.layout import plan_for_batch, prepared
from minicnn.backends.one_image import OneImage, Reading
from minicnn.errors import SettingError
from minicnn.kernels.augment import COLUMNS
from minicnn.kernels.cpu import (
    batch_statistics,
    config,
    gather,
    infer,
    passes,
    step,
    tensor,
)
from minicnn.kernels.cpu.rules import compile_loss, compile_update
from minicnn.kernels.cpu.tile import multiply_address
from minicnn.memory import aligned_zeros
from minicnn.network.network import Network
from minicnn.program.planner import Plan
from minicnn.rules import AnyOptimizer, LossRule, OptimizerRule

# Below this many multiply-adds a call, waking a second thread costs more than it saves.
_WORTH_A_THREAD = 1_000_000
# Numbers that are reduced together: on Ethernet twice as many as are sent in a message's latency.
_BUCKET = 1 << 14
_NO_VIEWS = np.empty((0, COLUMNS), np.float32)
_Meet = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def resolve_threads(threads: int | None = None) -> int:
    """The number of threads to use; None means all cores. Raises `SettingError` below 1 or above
    the number of cores."""
    most: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if threads is None:
        return most
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise SettingError(
            f"threads must be a whole number from 1 to {most}, the number of cores, not {threads!r}"
        )
    return threads


def describe() -> dict[str, Any]:
    """The processor and the threads, for a report."""
    return {"processor": get_host_cpu_name(), "threads": resolve_threads()}


class CompiledUpdate:
    """An elementwise rule, compiled for ``dtype``; raises `PluginError` if it does not compile."""

    def __init__(self, rule: OptimizerRule, dtype: np.dtype):
        self._name, self._compiled = rule.name, compile_update(rule, dtype)
        # A call for no tensor compiles, or loads, the loop around it.
        none, slots = np.empty(0, dtype), np.empty((len(rule.slots), 0), dtype)
        self(
            none,
            none,
            slots,
            np.empty((1, self._compiled.scalars), dtype),
            np.empty((0, 3), np.int64),
        )

    def __call__(
        self,
        params: np.ndarray,
        grads: np.ndarray,
        slots: np.ndarray,
        scalars: np.ndarray,
        spans: np.ndarray,
    ) -> None:
        """Change ``params`` [P] and ``slots`` [slots, P] by ``grads`` [P] in ``spans`` (see
        `step.train_step`)."""
        check_scalars(self._name, self._compiled.scalars, scalars)
        step.update(self._compiled.address, params, grads, slots, scalars, spans)


def to_device(array: np.ndarray) -> np.ndarray:
    """``array`` in the memory of the device: on the CPU, the array itself."""
    return array


def to_host(vector: np.ndarray, array: np.ndarray) -> None:
    """Copy a vector back into the array it was made from. On the CPU they are the same array."""


def copy(x: np.ndarray, y: np.ndarray) -> None:
    """y ← x of vectors or matrices."""
    y[:] = x


def axpy(factor: float, x: np.ndarray, y: np.ndarray) -> None:
    """y ← factor · x + y of vectors or matrices."""
    tensor.axpy(factor, x.reshape(-1), y.reshape(-1))


def scale(factor: float, x: np.ndarray) -> None:
    """x ← factor · x of vectors or matrices."""
    x *= x.dtype.type(factor)


def norm(x: np.ndarray) -> float:
    """√Σ x² of a vector or matrix, summed in float64."""
    return tensor.norm(x.reshape(-1))


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """Σ x·y of vectors or matrices, summed in float64."""
    return tensor.dot(x.reshape(-1), y.reshape(-1))


def matmul(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, transpose_a: bool, transpose_b: bool
) -> None:
    """out ← A · B of matrices, A being ``a`` or its transpose, B likewise."""
    tensor.matmul(multiply_address(out.dtype), a, b, out, transpose_a, transpose_b)


class Inference:
    """Forward passes only; no activations are kept. Any number of Python threads may call at once.
    ``constant`` promises that ``params`` never change."""

    def __init__(
        self,
        network: Network,
        params: np.ndarray,
        threads: int | None = None,
        batch_size: int = 1024,
        constant: bool = False,
    ):
        self.network, self.params = network, params
        self.threads = resolve_threads(threads)
        self.plan = plan_for_batch(network, -(-batch_size // self.threads), False, params.dtype)
        if constant:
            self.plan, self.params = prepared(self.plan, params)
        self._workspaces: list[np.ndarray] = []  # those that nobody computes in
        self._row, self._outputs = math.prod(network.input_shape), network.outputs
        self._reading: Reading | None = None  # the last one
        self._worth_a_thread = _WORTH_A_THREAD / max(1, network.multiply_adds)  # images

    def logits(
        self, images: np.ndarray, scale: float | np.ndarray, order: np.ndarray | None = None
    ) -> np.ndarray:
        """logits [N, outputs] of ``images`` [N, H, W, C] (or of ``images[order]``), scaled
        (`scale_rows`)."""
        params, count = self.params, len(images if order is None else order)
        out = np.empty((count, self._outputs), params.dtype)
        reading = self._reading
        if reading is None or reading.dtype is not images.dtype or reading.given is not scale:
            at = gather.gather_address(out.dtype, images.dtype, False)
            reading = Reading(images.dtype, scale, at, scale_rows(scale, out.dtype))
            self._reading = reading
        if count == 1:
            image = (images if order is None else images[order]).reshape(1, self._row)
            self._one(reading, gather.opaque(image), out)
            return out
        if order is None:
            order = np.arange(count)
        try:
            work = self._workspaces.pop()
        except IndexError:
            work = aligned_zeros((self.threads, self.plan.work_size), params.dtype)
        threads = 1 if count < self._worth_a_thread else self.threads
        address = infer.infer_address(out.dtype)
        rows = gather.opaque(images.reshape(len(images), self._row))
        data = reading.address, rows, order, reading.scale, _NO_VIEWS, out
        infer.infer(threads, address, self.plan.table, params, work[:threads], *data)
        self._workspaces.append(work)
        return out

    @functools.cached_property
    def _one(self) -> OneImage:
        return OneImage(self.network, self.params, self.plan, self.threads)


def show(
    images: np.ndarray, order: np.ndarray, scale: float | np.ndarray, views: np.ndarray
) -> np.ndarray:
    """The augmented views of ``images[order]``, float32 [n, H, W, C], as a network sees them;
    ``views`` are those of all images."""
    out = np.empty((len(order), *images.shape[1:]), np.float32)
    plan = np.zeros(1, passes.PLAN_RECORD)
    sizes = zip(("image_height", "image_width", "image_channels"), images.shape[1:], strict=True)
    for name, size in (*sizes, ("input_size", out[0].size)):
        plan[name] = size
    rows = images.reshape(len(images), -1)
    address, scale = (
        gather.gather_address(out.dtype, rows.dtype, True),
        scale_rows(scale, out.dtype),
    )
    gather.show(address, plan, out.reshape(-1), rows, order, scale, views)
    return out


class TrainStep:
    """Everything one fused training step needs: gradients per shard, workspaces per thread, the
    compiled rules."""

    steps_per_call = 1  # a step is a call of its own

    def __init__(
        self,
        network: Network,
        params: np.ndarray,
        batch_size: int,
        optimizer: AnyOptimizer,
        loss: LossRule,
        threads: int | None = None,
        options: StepOptions = StepOptions(),
    ):
        dtype, ranks, threads = params.dtype, options.ranks, resolve_threads(threads)
        self.params, self._ranks = params, ranks
        self.threads = threads if 3 * batch_size * network.multiply_adds > _WORTH_A_THREAD else 1
        every = min(threads * (ranks.size if ranks else 1), batch_size)
        self._starts = ranks.starts(every) if ranks else [0, every]
        self._first = self._starts[ranks.rank] if ranks else 0
        shards = self._starts[ranks.rank + 1] - self._first if ranks else every
        self.plan = plan_for_batch(network, -(-batch_size // every), True, dtype, options.frozen)
        self._trained = network.trainable_size
        segmented = bool(
            self.plan.table["combine"].any()
        )  # then a shard keeps its workspace through the step
        self._work = aligned_zeros(
            (shards if segmented else min(self.threads, shards), self.plan.work_size), dtype
        )
        pieces = ranks.size if ranks else 1  # of a gradient, as long as each other
        self._grads = aligned_zeros((shards, -(-len(params) // pieces) * pieces), dtype)
        self._transposed = aligned_zeros((len(self._work), len(params)), dtype)
        self._mixed = aligned_zeros((shards, network.outputs), dtype)
        # Two cache lines per shard: while two threads counted on one, each step took 20% longer.
        self._totals = aligned_zeros((every, 16), np.float64)
        self._squares = np.zeros(step.reduction_blocks(self._trained))
        self._loss = compile_loss(loss, dtype)
        self._name = optimizer.name
        self._update = (
            compile_update(optimizer, dtype) if isinstance(optimizer, OptimizerRule) else None
        )
        self._spans = options.spans_among(self._trained)
        self._clip = float(options.clip_norm), float(options.clip_value)
        self._no_weights = np.empty(0, dtype)
        self._meet = _Meet(self._gather) if ranks else _Meet()
        self._error: BaseException | None = None
        self._met_plan, sizes = self.plan.table.copy(), [0]
        if segmented and ranks and ranks.batch_statistics == "global":
            self._met_plan["saved"] = 0
            sizes = [
                batch_statistics.saved_size.py_func(int(channels), dtype.itemsize)
                for channels in self._met_plan["input_channels"][self._met_plan["combine"] != 0]
            ]
        self._met = aligned_zeros(every * max(sizes), dtype)
        self._borders = np.empty(0, np.int64)
        if ranks and ranks.reduction == "overlapped" and self.threads * ranks.size == every:
            self._borders = self._buckets(network)

    def _buckets(self, network: Network) -> np.ndarray:
        """For each operation, where its bucket begins: the gradients from there on are complete
        once the backward pass has gone through it. −1 where too few are complete. The last bucket
        is summed at the end of the step."""
        ends = np.zeros(len(network.layers), np.int64)
        for spec in network.parameters:
            if spec.kind != "state":
                ends[spec.layer] = spec.offset + spec.size
        combines = self.plan.table["combine"] != 0
        borders, last = np.full(len(combines), -1), self._trained
        for i in range(len(combines) - 1, 0, -1):
            begin = int(max(ends[list(node.layers)].max() for node in self.plan.nodes[:i]))
            between = combines[i - 1] or not combines.any()  # segments
            if between and last - begin >= _BUCKET and begin > 0:
                borders[i] = last = begin
        return borders

    def _gather(self, which: int, every: int, size: int) -> None:
        """Called by a step where all ranks meet. An error is raised at the end of the step, since
        no exception can pass through compiled code."""
        try:
            if self._error is not None:
                return
            if which == step.MEET_STATISTICS:
                starts = [min(start, every) for start in self._starts]
                self._ranks.gather_rows(self._met[: every * size].reshape(every, size), starts)
            elif which == step.MEET_BUCKET:
                self._ranks.begin_sum(self._grads, int(self._borders[every]))
            else:
                self._totals[self._first, 2] = self._ranks.asks_to_stop()
                self._ranks.gather_rows(self._totals, self._starts)
                self._ranks.stopping = bool(self._totals[:, 2].any())
                self._ranks.add_up(self._grads, self._starts)
        except BaseException as error:
            self._error = error

    @property
    def plan(self) -> Plan:
        """The plan that a step executes."""
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        """Execute another plan."""
        self._plan, self._records = plan, plan.records()

    @property
    def grads(self) -> np.ndarray:
        """The gradient [flat_size] of the last step, clipped."""
        return self._grads[0, : len(self.params)]

    def gather(self, data: RunInputs, batch: StepInputs) -> None:
        """Gather the images of ``batch`` into a workspace, chunk by chunk, and do nothing else, so
        that this can be timed."""
        views = _NO_VIEWS if batch.views is None else batch.views
        given = self.params.dtype, data.images.dtype, batch.views is not None
        address, scale = gather.gather_address(*given), scale_rows(data.scale, given[0])
        table, chunk = self.plan.table, int(self.plan.table[0]["chunk"])
        for at in range(0, len(batch.order), chunk):
            order = batch.order[at : at + chunk]
            gather.show(address, table, self._work[0], data.images, order, scale, views)

    def compile(self, data: RunInputs, slots: np.ndarray, views: np.ndarray | None = None) -> None:
        """Compile the step, of augmented ``views`` of the images or of the images as they are, or
        load it from the cache, by running it on one image and copies of what it changes."""
        rows = self._spans[:, 2].max() + 1
        scalars = np.ones((rows, self._update.scalars if self._update else 0), self.params.dtype)
        batch = StepInputs(np.zeros(1, np.int64), 1.0, 0, scalars, views)
        self.step(data._replace(scale=0.0), batch, slots.copy(), self.params.copy())

    def step(
        self,
        data: RunInputs,
        batch: StepInputs,
        slots: np.ndarray,
        params: np.ndarray | None = None,
    ) -> StepResult:
        """Forward, loss, backward, update on ``data.images[batch.order]``.

        An optimizer that is not elementwise makes its own update from ``grads``. With ``params``,
        the step works on them instead of its own parameters and does not meet other processes.
        """
        meets = params is None and self._ranks is not None
        params = self.params if params is None else params
        number = params.dtype.type
        if self._update:
            check_scalars(self._name, self._update.scalars, batch.scalars)
        overlaps = meets and len(batch.order) >= len(self._totals)  # each shard has a sample
        total, correct, norm = step.train_step(
            self.threads,
            step.part_address(params.dtype),
            *self._clip,
            self._records,
            len(self.plan.table),
            self._trained,
            params,
            self._transposed,
            self._work,
            self._grads,
            gather.gather_address(params.dtype, data.images.dtype, batch.views is not None),
            gather.opaque(data.images),
            data.labels,
            self._no_weights if data.sample_weights is None else data.sample_weights,
            batch.order,
            scale_rows(data.scale, params.dtype),
            data.targets,
            data.class_weights,
            self._loss.address,
            data.hyperparameters,
            number(batch.divisor),
            np.uint64(batch.key),
            _NO_VIEWS if batch.views is None else batch.views,
            self._mixed,
            self._totals,
            self._squares,
            self._update.address if self._update else 0,
            slots,
            batch.scalars,
            self._spans,
            ctypes.cast(self._meet, ctypes.c_void_p).value if meets else 0,
            self._first,
            self._met,
            self._met_plan,
            self._borders if overlaps else self._borders[:0],
        )
        if self._error is not None:
            raise self._error
        return StepResult(total / batch.divisor, int(correct), norm)
