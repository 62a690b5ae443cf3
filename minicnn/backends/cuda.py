"""A CUDA GPU: owns the buffers in its memory, compiles or loads the kernels, and launches them.

Vectors are flat float32 arrays on the GPU. The launches of a step do not wait for each other on the
host; results are read once every `TrainStep.steps_per_call` steps.
"""

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda

from minicnn.backends import RunInputs, StepInputs, StepOptions, StepResult, check_scalars
from minicnn.backends.cpu import resolve_threads
from minicnn.backends.cuda_passes import Passes, batch_loss
from minicnn.backends.gpu import (
    DeviceNetwork,
    Images,
    Vector,
    blocks_for,
    check_float32,
    empty,
    free_memory,
    largest_chunk,
    run_kernel,
    to_device,
    views_on_gpu,
)
from minicnn.kernels.cuda import step, tensor
from minicnn.kernels.cuda.call import launchable
from minicnn.kernels.cuda.rules import compile_loss, compile_update
from minicnn.kernels.cuda.tile import SIMULATED, THREADS
from minicnn.network.network import Network
from minicnn.rules import AnyOptimizer, LossRule, OptimizerRule

__all__ = [
    "CompiledUpdate",
    "Inference",
    "Passes",
    "TrainStep",
    "axpy",
    "batch_loss",
    "copy",
    "describe",
    "dot",
    "matmul",
    "norm",
    "resolve_threads",
    "scale",
    "to_device",
    "to_host",
]

_STEPS_PER_CALL, _MOST_IMAGES = 50, 1 << 16  # whose results are read together


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


def to_host(vector: Vector, array: np.ndarray) -> None:
    """Copy a vector back into the array it was made from."""
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
    """Forward passes only; no activations are kept. ``params`` is an array on the host or a vector
    on the GPU."""

    def __init__(
        self,
        network: Network,
        params: np.ndarray,
        threads: int | None = None,
        batch_size: int = 1024,
        constant: bool = False,
    ):
        self.network, self.params = network, to_device(params)
        self._device_network = DeviceNetwork(
            network, largest_chunk(network, batch_size, False), False
        )
        self._orders = to_device(np.arange(self._device_network.chunk))
        self._lock = threading.Lock()  # there is one workspace

    def logits(
        self, images: np.ndarray, scale: float | np.ndarray, order: np.ndarray | None = None
    ) -> np.ndarray:
        """logits [N, outputs] of ``images`` [N, H, W, C] (or of ``images[order]``), scaled
        (`minicnn.backends.scale_rows`)."""
        order = np.arange(len(images)) if order is None else order
        out, device_network = (
            np.empty((len(order), self.network.outputs), np.float32),
            self._device_network,
        )
        source = Images(
            images.reshape(len(images), math.prod(images.shape[1:])), device_network.chunk, False
        )
        with self._lock:
            for start in range(0, len(order), device_network.chunk):
                rows = order[start : start + device_network.chunk]
                source.gather(device_network, rows, self._orders, 0, len(rows), scale)
                device_network.forward(self.params, len(rows), 0, start)
                out[start : start + len(rows)] = device_network.logits(len(rows))
        return out


class CompiledUpdate:
    """An elementwise rule, compiled; raises `PluginError` if it does not compile."""

    def __init__(self, rule: OptimizerRule, dtype: np.dtype):
        self._name, self._kernel = rule.name, compile_update(rule)
        self._given: dict[bytes, tuple[Vector, Vector]] = {}
        self._nothing, self._results = to_device(np.zeros((1, 2), np.float32)), empty(1, 4)
        self._kernel.compile()

    def __call__(
        self, params: Vector, grads: Vector, slots: Vector, scalars: np.ndarray, spans: np.ndarray
    ) -> None:
        """Change the vectors ``params`` [P] and ``slots`` [slots, P] by ``grads`` [P] in ``spans``
        (see `TrainStep`)."""
        check_scalars(self._name, self._kernel.scalars, scalars)
        if len(spans) == 0:
            return
        table = np.zeros((1, step.SCALARS + scalars.size), np.float32)
        table[0, step.DIVISOR], table[0, step.SCALARS :] = 1, scalars.reshape(-1)
        key = spans.tobytes()
        if key not in self._given:
            self._given[key] = to_device(table), to_device(spans)
        table_on_gpu, spans_on_gpu = self._given[key]
        table_on_gpu.copy_to_device(table)
        run_kernel(
            self._kernel,
            blocks_for(int((spans[:, 1] - spans[:, 0]).max())),
            params,
            grads,
            slots,
            table_on_gpu,
            0,
            self._nothing,
            self._nothing,
            self._results,
            spans_on_gpu,
        )


class TrainStep:
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
        self.steps_per_call = (
            max(1, min(_STEPS_PER_CALL, _MOST_IMAGES // batch_size)) if self._update else 1
        )
        self._ranks, whole_batch = ranks, batch_size
        if ranks is not None:  # each has one shard, and they meet in every step
            self.steps_per_call, batch_size = 1, -(-batch_size // ranks.size)
            padded = -(-len(params) // ranks.size) * ranks.size
            self._totals = np.zeros((ranks.size, 3))
            self._padded = to_device(np.zeros(padded, np.float32))
            if ranks.takes_gpu_memory:
                self._parts = empty(ranks.size, padded // ranks.size)
            else:
                self._on_host = cuda.pinned_array((1, padded), np.float32)
                self._on_host[:] = 0
        self.params = to_device(params)
        self.grads = (
            to_device(np.zeros_like(params)) if ranks is None else self._padded[: len(params)]
        )
        self.batch_size, self._name = whole_batch, optimizer.name
        chunk = largest_chunk(network, batch_size, True, frozen)
        self._device_network = DeviceNetwork(network, chunk, True, frozen)
        self._loss, self._mixed = compile_loss(loss), empty(chunk, network.outputs)
        self._views: tuple[np.ndarray | None, Vector] = (None, views_on_gpu(None))
        self._squares = to_device(np.zeros((blocks_for(len(params)), 2), np.float32))
        self._partials = empty(batch_size // THREADS + batch_size // chunk + 2, 2)
        spans = options.spans_among(network.trainable_size)
        scalars = (spans[:, 2].max() + 1) * self._update.scalars if self._update else 0
        self._spans = to_device(spans)
        self._table = np.zeros((self.steps_per_call, step.SCALARS + scalars), np.float32)
        self._table[:, step.CLIP_NORM] = options.clip_norm
        self._table[:, step.CLIP_VALUE] = options.clip_value
        self._orders = np.zeros(self.steps_per_call * whole_batch, np.int64)
        self._results = np.zeros((self.steps_per_call, 4), np.float32)
        self._table_on_gpu, self._orders_on_gpu = to_device(self._table), to_device(self._orders)
        self._results_on_gpu = to_device(self._results)
        self._data: RunInputs | None = None

    def step(self, data: RunInputs, batch: StepInputs, slots: np.ndarray) -> StepResult:
        """Forward, loss, backward, update on ``data.images[batch.order]``.

        An optimizer that is not elementwise makes its own update from ``grads``.
        """
        return self.steps(data, [batch], slots)[0]

    def compile(self, data: RunInputs, slots: np.ndarray, views: np.ndarray | None = None) -> None:
        """Copy data and ``views`` to the GPU, and compile every kernel that a step launches."""
        self._place(data)
        self._views = views, views_on_gpu(views)
        first = self._device_network, np.zeros(1, np.int64), self._orders_on_gpu, 0, 1
        self._images.gather(*first, data.scale, self._views)
        self._device_network.compile()
        for kernel in (step.add_parts, step.finish):
            launchable(kernel, step.SIGNATURES[kernel])
        for rule in (self._loss, self._update):
            if rule is not None:
                rule.compile()

    def _place(self, data: RunInputs) -> None:
        """Copy the inputs of the run to the GPU: the whole data set, if it fits."""
        if self._data is not None and all(
            one is other for one, other in zip(data, self._data, strict=True)
        ):
            return
        fits = data.images.nbytes < free_memory()
        self._images = Images(data.images, self._device_network.chunk, fits)
        weights = np.ones(1, np.float32) if data.sample_weights is None else data.sample_weights
        self._labels, self._sample_weights = to_device(data.labels), to_device(weights)
        for_loss = data.targets, data.class_weights, data.hyperparameters
        self._for_loss = [to_device(array) for array in for_loss]
        self._data = data

    def steps(
        self, data: RunInputs, batches: Sequence[StepInputs], slots: np.ndarray
    ) -> list[StepResult]:
        """One step for each of ``batches``, at most ``steps_per_call`` of them. After a step that
        is not finite the weights no longer change."""
        self._place(data)
        size, chunk = self.batch_size, self._device_network.chunk
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
        self._orders_on_gpu[: len(batches) * size].copy_to_device(
            self._orders[: len(batches) * size]
        )
        self._table_on_gpu.copy_to_device(self._table)
        for row, batch in enumerate(batches):
            self._launch(row, batch, data.scale, slots)
        self._results_on_gpu.copy_to_host(self._results)
        return [
            StepResult(
                float(row[step.LOSS]), int(np.nan_to_num(row[step.CORRECT])), float(row[step.NORM])
            )
            for row in self._results[: len(batches)]
        ]

    def _launch(
        self, row: int, batch: StepInputs, scale: float | np.ndarray, slots: np.ndarray
    ) -> None:
        device_network, group, ranks, n = self._device_network, 0, self._ranks, 0
        begin, end, key = 0, len(batch.order), batch.key
        if batch.views is not self._views[0]:
            self._views = batch.views, views_on_gpu(batch.views)
        if ranks is not None:  # samples are numbered from 0 in each, and their dropout differs
            shards = min(ranks.size, end)
            begin, end = (min(ranks.rank + k, shards) * end // shards for k in (0, 1))
            key = (key + ranks.rank * 0x9E3779B97F4A7C15) % 2**64
        for first in range(0, end - begin, device_network.chunk):
            images = batch.order[begin + first : min(end, begin + first + device_network.chunk)]
            n, start = len(images), row * self.batch_size + begin + first
            self._images.gather(
                device_network, images, self._orders_on_gpu, start, n, scale, self._views
            )
            device_network.forward(self.params, n, key, first)
            run_kernel(
                self._loss,
                -(-n // THREADS),
                device_network.work,
                device_network.logits_at,
                device_network.dlogits_at,
                device_network.outputs,
                self._labels,
                self._sample_weights,
                self._orders_on_gpu,
                start,
                n,
                *self._for_loss,
                self._table_on_gpu,
                row,
                self._partials,
                group,
                self._views[1],
                self._mixed,
            )
            device_network.backward(self.params, n, key, first)
            group += -(-n // THREADS)
        if n > 0:
            device_network.add_parts(self.grads, self._squares)
        if ranks is not None:
            self._meet(group)
        given = (self._table_on_gpu, row, self._squares, self._partials, self._results_on_gpu)
        blocks = blocks_for(self.params.size)
        if self._update is None:
            run_kernel(step.finish, blocks, self.grads, *given)
        else:
            run_kernel(self._update, blocks, self.params, self.grads, slots, *given, self._spans)
        if n > 0:
            device_network.finish(self.params, n, row, self._results_on_gpu)

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
            ranks.add_up_on_gpu(self._padded, self._parts, self._add)
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
