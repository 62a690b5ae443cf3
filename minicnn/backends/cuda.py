"""A CUDA GPU: owns the buffers in its memory, compiles or loads the kernels, and launches them.

Vectors are flat float32 arrays on the GPU. A step is a handful of launches that wait for nothing;
their results are read once for `Training.at_once` steps.
"""

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda

from minicnn.backends import Batch, Data, StepOptions, StepResult, check_scalars
from minicnn.backends.cpu import thread_count
from minicnn.backends.cuda_passes import Passes, loss_rows
from minicnn.backends.gpu import (
    Images,
    LaidOut,
    Vector,
    blocks_for,
    check_float32,
    empty,
    free_memory,
    largest_chunk,
    run_kernel,
    vector,
    views_there,
)
from minicnn.kernels.cuda import step, tensor
from minicnn.kernels.cuda.call import launchable
from minicnn.kernels.cuda.rules import compile_loss, compile_update
from minicnn.kernels.cuda.tile import SIMULATED, THREADS
from minicnn.network.network import Network
from minicnn.rules import AnyOptimizer, LossRule, OptimizerRule

__all__ = [
    "Inference",
    "Passes",
    "Training",
    "Update",
    "axpy",
    "copy",
    "describe",
    "dot",
    "fetch",
    "loss_rows",
    "matmul",
    "norm",
    "scale",
    "thread_count",
    "vector",
]

_AT_ONCE, _MOST_ORDERS = 50, 1 << 16  # steps whose results are read together, and images of them


def describe() -> dict[str, Any]:
    """Name, compute capability, memory and multiprocessors of the GPU, for a report."""
    if SIMULATED:
        return {"gpu": "Numba's simulator"}
    gpu, (free, total) = cuda.get_current_device(), cuda.current_context().get_memory_info()
    name = gpu.name.decode() if isinstance(gpu.name, bytes) else str(gpu.name)
    return {
        "gpu": name,
        "compute_capability": ".".join(map(str, gpu.compute_capability)),
        "memory": int(total),
        "free_memory": int(free),
        "multiprocessors": gpu.MULTIPROCESSOR_COUNT,
    }


def fetch(vector: Vector, array: np.ndarray) -> None:
    """Copy a vector back into the array that it was made of."""
    if array.size:
        vector.copy_to_host(array)


def copy(x: Vector, y: Vector) -> None:
    """y ← x of vectors or matrices."""
    y.copy_to_device(x)


def axpy(factor: float, x: Vector, y: Vector) -> None:
    """y ← factor · x + y of vectors or matrices."""
    run_kernel(step.axpy, blocks_for(y.size), factor, x.reshape(x.size), y.reshape(y.size))


def scale(factor: float, x: Vector) -> None:
    """x ← factor · x of vectors or matrices."""
    run_kernel(tensor.scale, blocks_for(x.size), factor, x.reshape(x.size))


def norm(x: Vector) -> float:
    """√Σ x² of a vector or matrix."""
    squares = empty(blocks_for(x.size), 2)
    run_kernel(step.square_sums, len(squares), x.reshape(x.size), squares)
    size, total = squares.copy_to_host().astype(np.float64).T
    return math.sqrt((size * size * total).sum())


def dot(x: Vector, y: Vector) -> float:
    """Σ x·y of vectors or matrices."""
    sums = empty(blocks_for(x.size))
    run_kernel(tensor.products, len(sums), x.reshape(x.size), y.reshape(y.size), sums)
    return float(sums.copy_to_host().astype(np.float64).sum())


def matmul(a: Vector, b: Vector, out: Vector, transpose_a: bool, transpose_b: bool) -> None:
    """out ← A · B of matrices, A being ``a`` or its transpose, B likewise."""
    rows, columns = (-(-size // tensor.SIDE) for size in out.shape)
    run_kernel(tensor.matmul, rows * columns, a, b, out, transpose_a, transpose_b)


class Inference:
    """Forward passes alone, in a workspace that keeps nothing. ``params`` is on the host or a
    vector."""

    def __init__(
        self,
        network: Network,
        params: np.ndarray,
        threads: int | None = None,
        batch_size: int = 1024,
        constant: bool = False,
    ):
        self.network, self.params = network, vector(params)
        self._laid_out = LaidOut(network, largest_chunk(network, batch_size, False), False)
        self._orders = vector(np.arange(self._laid_out.chunk))
        self._lock = threading.Lock()  # there is one workspace

    def logits(
        self, images: np.ndarray, scale: float | np.ndarray, order: np.ndarray | None = None
    ) -> np.ndarray:
        """logits [N, outputs] of ``images`` [N, H, W, C] (or of ``images[order]``), scaled
        (`minicnn.backends.scale_rows`)."""
        order = np.arange(len(images)) if order is None else order
        out, laid_out = np.empty((len(order), self.network.outputs), np.float32), self._laid_out
        source = Images(
            images.reshape(len(images), math.prod(images.shape[1:])), laid_out.chunk, False
        )
        with self._lock:
            for start in range(0, len(order), laid_out.chunk):
                rows = order[start : start + laid_out.chunk]
                source.gather(laid_out, rows, self._orders, 0, len(rows), scale)
                laid_out.forward(self.params, len(rows), 0, start)
                out[start : start + len(rows)] = laid_out.logits(len(rows))
        return out


class Update:
    """An elementwise rule, compiled; raises `PluginError` if it does not compile."""

    def __init__(self, rule: OptimizerRule, dtype: np.dtype):
        self._name, self._kernel = rule.name, compile_update(rule)
        self._given: dict[bytes, tuple[Vector, Vector]] = {}
        self._nothing, self._results = vector(np.zeros((1, 2), np.float32)), empty(1, 4)
        self._kernel.compile()

    def __call__(
        self, params: Vector, grads: Vector, slots: Vector, scalars: np.ndarray, spans: np.ndarray
    ) -> None:
        """Change the vectors ``params`` [P] and ``slots`` [slots, P] by ``grads`` [P] in ``spans``
        (see `Training`)."""
        check_scalars(self._name, self._kernel.scalars, scalars)
        if len(spans) == 0:
            return
        table = np.zeros((1, step.SCALARS + scalars.size), np.float32)
        table[0, step.DIVISOR], table[0, step.SCALARS :] = 1, scalars.reshape(-1)
        key = spans.tobytes()
        if key not in self._given:
            self._given[key] = vector(table), vector(spans)
        table_there, spans_there = self._given[key]
        table_there.copy_to_device(table)
        run_kernel(
            self._kernel,
            blocks_for(int((spans[:, 1] - spans[:, 0]).max())),
            params,
            grads,
            slots,
            table_there,
            0,
            self._nothing,
            self._nothing,
            self._results,
            spans_there,
        )


class Training:
    """Everything the training steps need on the GPU: weights, gradients, workspace, data set, the
    compiled rules."""

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
        check_float32(params)
        ranks, frozen = options.ranks, options.frozen
        self._update = compile_update(optimizer) if isinstance(optimizer, OptimizerRule) else None
        # Rules that are not elementwise ask for the loss of their step.
        self.at_once = max(1, min(_AT_ONCE, _MOST_ORDERS // batch_size)) if self._update else 1
        self._ranks, whole_batch = ranks, batch_size
        if ranks is not None:  # each has one shard, and they meet in every step
            self.at_once, batch_size = 1, -(-batch_size // ranks.size)
            padded = -(-len(params) // ranks.size) * ranks.size
            self._totals = np.zeros((ranks.size, 3))
            self._padded = vector(np.zeros(padded, np.float32))
            if ranks.takes_gpu_memory:
                self._parts = empty(ranks.size, padded // ranks.size)
            else:
                self._on_host = cuda.pinned_array((1, padded), np.float32)
                self._on_host[:] = 0
        self.params = vector(params)
        self.grads = vector(np.zeros_like(params)) if ranks is None else self._padded[: len(params)]
        self.batch_size, self._name = whole_batch, optimizer.name
        self._laid_out = LaidOut(
            network, largest_chunk(network, batch_size, True, frozen), True, frozen
        )
        self._loss = compile_loss(loss)
        self._mixed = empty(self._laid_out.chunk, network.outputs)
        self._views: tuple[np.ndarray | None, Vector] = (None, views_there(None))
        self._squares = vector(np.zeros((blocks_for(len(params)), 2), np.float32))
        self._partials = empty(batch_size // THREADS + batch_size // self._laid_out.chunk + 2, 2)
        every_span = np.array([[0, network.trainable_size, 0]])
        spans = every_span if options.spans is None else options.spans
        scalars = (spans[:, 2].max() + 1) * self._update.scalars if self._update else 0
        self._spans = vector(spans)
        self._table = np.zeros((self.at_once, step.SCALARS + scalars), np.float32)
        self._table[:, [step.CLIP_NORM, step.CLIP_VALUE]] = options[:2]
        self._orders = np.zeros(self.at_once * whole_batch, np.int64)
        self._results = np.zeros((self.at_once, 4), np.float32)
        self._table_there, self._orders_there = vector(self._table), vector(self._orders)
        self._results_there = vector(self._results)
        self._data: Data | None = None

    def step(self, data: Data, batch: Batch, slots: np.ndarray) -> StepResult:
        """Forward, loss, backward, update on ``data.images[batch.order]``.

        The update is left out for an optimizer that is not elementwise: it does its own with
        ``grads``.
        """
        return self.steps(data, [batch], slots)[0]

    def compile(self, data: Data, slots: np.ndarray) -> None:
        """Copy the data to the GPU, and compile all that a step launches."""
        self._place(data)
        self._laid_out.compile()
        for kernel in (step.add_parts, step.finish):
            launchable(kernel, step.SIGNATURES[kernel])
        for rule in (self._loss, self._update):
            if rule is not None:
                rule.compile()

    def _place(self, data: Data) -> None:
        """Copy to the GPU what is the same in all steps: the whole data set, if it fits."""
        if self._data is not None and all(
            one is other for one, other in zip(data, self._data, strict=True)
        ):
            return
        self._images = Images(data.images, self._laid_out.chunk, data.images.nbytes < free_memory())
        weights = np.ones(1, np.float32) if data.sample_weights is None else data.sample_weights
        self._labels, self._sample_weights = vector(data.labels), vector(weights)
        self._for_loss = [
            vector(array) for array in (data.targets, data.class_weights, data.hyperparameters)
        ]
        self._data = data

    def steps(self, data: Data, batches: Sequence[Batch], slots: np.ndarray) -> list[StepResult]:
        """A step on each of ``batches``, at most ``at_once``. After one that is not finite the
        weights stay as they are."""
        self._place(data)
        size, chunk = self.batch_size, self._laid_out.chunk
        for row, batch in enumerate(batches):
            n = len(batch.order)
            if self._update is not None:
                check_scalars(self._name, self._update.scalars, batch.scalars)
                self._table[row, step.SCALARS :] = batch.scalars.reshape(-1)
            self._orders[row * size : row * size + n] = batch.order
            self._table[row, step.DIVISOR] = batch.divisor
            self._table[row, step.GROUPS] = n // chunk * -(-chunk // THREADS) + -(
                -(n % chunk) // THREADS
            )
            if self._ranks is not None:
                self._table[row, step.GROUPS] = 1  # all are added where ranks meet
        self._orders_there[: len(batches) * size].copy_to_device(
            self._orders[: len(batches) * size]
        )
        self._table_there.copy_to_device(self._table)
        for row, batch in enumerate(batches):
            self._launch(row, batch, data.scale, slots)
        self._results_there.copy_to_host(self._results)
        return [
            StepResult(
                float(row[step.LOSS]), int(np.nan_to_num(row[step.CORRECT])), float(row[step.NORM])
            )
            for row in self._results[: len(batches)]
        ]

    def _launch(self, row: int, batch: Batch, scale: float | np.ndarray, slots: np.ndarray) -> None:
        laid_out, group, ranks, n = self._laid_out, 0, self._ranks, 0
        begin, end, key = 0, len(batch.order), batch.key
        if batch.views is not self._views[0]:
            self._views = batch.views, views_there(batch.views)
        if ranks is not None:  # samples are numbered from 0 in each, and their dropout differs
            shards = min(ranks.size, end)
            begin, end = (min(ranks.rank + k, shards) * end // shards for k in (0, 1))
            key = (key + ranks.rank * 0x9E3779B97F4A7C15) % 2**64
        for first in range(0, end - begin, laid_out.chunk):
            images = batch.order[begin + first : min(end, begin + first + laid_out.chunk)]
            n, start = len(images), row * self.batch_size + begin + first
            self._images.gather(laid_out, images, self._orders_there, start, n, scale, self._views)
            laid_out.forward(self.params, n, key, first)
            run_kernel(
                self._loss,
                -(-n // THREADS),
                laid_out.work,
                laid_out.logits_at,
                laid_out.dlogits_at,
                laid_out.outputs,
                self._labels,
                self._sample_weights,
                self._orders_there,
                start,
                n,
                *self._for_loss,
                self._table_there,
                row,
                self._partials,
                group,
                self._views[1],
                self._mixed,
            )
            laid_out.backward(self.params, n, key, first)
            group += -(-n // THREADS)
        if n > 0:
            laid_out.add_parts(self.grads, self._squares)
        if ranks is not None:
            self._meet(group)
        given = (self._table_there, row, self._squares, self._partials, self._results_there)
        blocks = blocks_for(self.params.size)
        if self._update is None:
            run_kernel(step.finish, blocks, self.grads, *given)
        else:
            run_kernel(self._update, blocks, self.params, self.grads, slots, *given, self._spans)
        if n > 0:
            laid_out.finish(self.params, n, row, self._results_there)

    def _meet(self, groups: int) -> None:
        """Add up gradients and losses of all ranks, from GPU to GPU where MPI can, or else through
        pinned memory of the host."""
        ranks, totals = self._ranks, self._totals
        partials = self._partials.copy_to_host()
        totals[ranks.rank, :2] = partials[:groups].sum(axis=0, dtype=np.float64)
        totals[ranks.rank, 2] = ranks.asks_to_stop()
        ranks.gather_rows(totals, range(ranks.size + 1))
        ranks.stopping = bool(totals[:, 2].any())
        partials[0] = totals[:, :2].sum(axis=0)
        self._partials.copy_to_device(partials)
        if groups == 0:  # no image of this batch
            scale(0.0, self._padded)
        if ranks.takes_gpu_memory:
            cuda.synchronize()
            ranks.add_up_there(self._padded, self._parts, self._add)
        else:
            self._padded.copy_to_host(self._on_host[0])
            ranks.add_up(self._on_host, range(ranks.size + 1))
            self._padded.copy_to_device(self._on_host[0])
        run_kernel(step.square_sums, len(self._squares), self.grads, self._squares)

    def _add(self) -> None:
        """Add up the ranks' pieces of this rank, in their order."""
        parts, piece = self._parts, self._parts.shape[1]
        total = self._padded[self._ranks.rank * piece :][:piece]
        copy(parts[0], total)
        for part in range(1, len(parts)):
            axpy(1.0, parts[part], total)
        cuda.synchronize()
