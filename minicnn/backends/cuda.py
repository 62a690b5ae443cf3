"""A CUDA card: owns the buffers in its memory, compiles or loads the kernels, and launches them.

Vectors are flat float32 arrays on the card. A step is a handful of launches that wait for nothing; their results are read
once for `Training.at_once` steps.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda, from_dtype

from minicnn.backends import Batch, Data, StepResult, check_scalars
from minicnn.backends.cpu import thread_count
from minicnn.errors import DeviceError, SettingError
from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda import passes, step
from minicnn.kernels.cuda.call import launch, launchable
from minicnn.kernels.cuda.rules import Kernel, compile_loss, compile_tensor_update, compile_update
from minicnn.kernels.cuda.tile import SIMULATED, THREADS
from minicnn.network.network import Network
from minicnn.network.translation import make_plan
from minicnn.plan import CONV2D, DENSE, RELU
from minicnn.rules import AnyOptimizer, LossRule, OptimizerRule, TensorRule

__all__ = ["Inference", "Passes", "Training", "Update", "axpy", "copy", "describe", "fetch", "loss_rows", "norm",
           "thread_count", "vector"]  # fmt: skip

Vector = Any  # an array on the card

# Below this many multiply-adds of a batch, launches of a few µs each take longer than walking all layers in one.
_WORTH_LAUNCHES = 50_000_000
_SIGNATURES = step.SIGNATURES | passes.SIGNATURES
_MOST_BLOCKS = 1024  # of a launch over elements: enough to fill any card
_AT_ONCE, _MOST_ORDERS = 50, 1 << 16  # steps whose results are read together, and images of them
_SHARE_OF_MEMORY = 0.8  # what is left of the card's free memory is for others


def describe() -> dict[str, Any]:
    """Name, compute capability, memory and multiprocessors of the card, for a report."""
    if SIMULATED:
        return {"card": "Numba's simulator"}
    card, (free, total) = cuda.get_current_device(), cuda.current_context().get_memory_info()
    name = card.name.decode() if isinstance(card.name, bytes) else str(card.name)
    return {"card": name, "compute_capability": ".".join(map(str, card.compute_capability)), "memory": int(total),
            "free_memory": int(free), "multiprocessors": card.MULTIPROCESSOR_COUNT}  # fmt: skip


def vector(array: np.ndarray) -> Vector:
    """A copy of ``array`` on the card; what is there already is returned as it is."""
    if not isinstance(array, np.ndarray):
        return array
    return cuda.to_device(np.ascontiguousarray(array) if array.size else np.zeros((1,) * array.ndim, array.dtype))


def fetch(vector: Vector, array: np.ndarray) -> None:
    """Copy a vector back into the array that it was made of."""
    if array.size:
        vector.copy_to_host(array)


def copy(x: Vector, y: Vector) -> None:
    """y ← x of vectors."""
    y.copy_to_device(x)


def axpy(factor: float, x: Vector, y: Vector) -> None:
    """y ← factor · x + y of vectors."""
    _launch(step.axpy, _blocks(len(y)), factor, x, y)


def norm(x: Vector) -> float:
    """√Σ x² of a vector."""
    squares = _empty(_blocks(len(x)), 2)
    _launch(step.square_sums, len(squares), x, squares)
    size, total = squares.copy_to_host().astype(np.float64).T
    return math.sqrt((size * size * total).sum())


def loss_rows(rule: LossRule, logits: np.ndarray, labels: np.ndarray, targets: np.ndarray, class_weights: np.ndarray,
              hyperparameters: np.ndarray) -> tuple[float, np.ndarray]:  # fmt: skip
    """(summed loss, dlogits of each row's own loss) of ``logits`` [N, outputs], all of them on the host."""
    n, outputs = logits.shape
    work, partials = vector(np.append(logits.reshape(-1), np.zeros(logits.size, np.float32))), _empty(-(-n // THREADS), 2)
    table = np.zeros((1, step.SCALARS), np.float32)
    table[0, step.DIVISOR] = 1
    given = [vector(array) for array in (labels, np.arange(n), targets, class_weights, hyperparameters, table)]
    _launch(compile_loss(rule), len(partials), work, 0, n * outputs, outputs, *given[:2], 0, n, *given[2:], 0, partials, 0)
    return float(partials.copy_to_host()[:, 0].sum()), work.copy_to_host()[n * outputs :].reshape(n, outputs)


def _empty(*shape: int) -> Vector:
    return cuda.device_array(shape, np.float32)


def _blocks(count: int) -> int:
    """Blocks of a launch with a thread an element."""
    return max(1, min(_MOST_BLOCKS, -(-count // THREADS)))


def _launch(kernel: Any, blocks: int, *arguments: Any) -> None:
    """Launch a rule's `Kernel`, or one of the functions in ``step.py`` or ``passes.py``."""
    if isinstance(kernel, Kernel):
        launch(kernel.function, kernel.signature, blocks, *arguments)
    else:
        launch(kernel, _SIGNATURES[kernel], blocks, *arguments)


def _free_memory() -> float:
    """Bytes on the card that may be taken."""
    return _SHARE_OF_MEMORY * cuda.current_context().get_memory_info()[0]


def _chunk(network: Network, batch: int, training: bool) -> int:
    """The largest part of a batch whose activations fit the free memory."""
    plan = make_plan(network, 1, training, 1)
    bytes_a_sample = 4 * at.lay_out(plan.table, plan.work_size, training).work_size
    free = _free_memory()
    if free < bytes_a_sample:
        raise DeviceError(f"device cuda: one image needs {bytes_a_sample:,} bytes, and {free:,.0f} are free on the card")
    return int(min(batch, free // bytes_a_sample))


def walks(network: Network, n: int) -> bool:
    """Whether ``n`` samples go through all layers in one launch, rather than each layer in one of its own."""
    return n * network.multiply_adds < _WORTH_LAUNCHES


class _Images:
    """Scaled images in the first layer's input, from a set on the card or, where it does not fit, from the host."""

    def __init__(self, images: np.ndarray, most: int, resident: bool):
        self.host, self.signature = images, passes.gather_signature(from_dtype(images.dtype))
        self._all = vector(images) if resident else None
        if not resident:
            self._some = cuda.device_array((most, images.shape[1]), images.dtype)
            self._in_order = vector(np.arange(most))

    def gather(self, laid_out: "_LaidOut", order: np.ndarray, orders: Vector, start: int,
               n: int, scale: float) -> None:  # fmt: skip
        """``n`` images, those in ``order``, which is what ``orders`` on the card holds from ``start`` on."""
        if self._all is None:
            self._some[:n].copy_to_device(np.ascontiguousarray(self.host[order]))
            source, orders, start = self._some, self._in_order, 0
        else:
            source = self._all
        launch(passes.gather, self.signature, n, laid_out.plan, laid_out.work, source, orders,
               start, n, scale)  # fmt: skip


class _LaidOut:
    """A network on the card: its plan, room for ``chunk`` samples, and the launches of its passes."""

    def __init__(self, network: Network, chunk: int, training: bool):
        plan = make_plan(network, chunk, training, 1)
        layout = at.lay_out(plan.table, plan.work_size, training)
        self.chunk, self.outputs, self.table = chunk, network.outputs, layout.plan
        self.logits_at, self.dlogits_at = (int(layout.plan[-1, field]) for field in (at.OUTPUT, at.D_OUTPUT))
        self.plan, self.rates = vector(layout.plan), vector(layout.rates)
        self.work = vector(np.zeros(layout.work_size, np.float32))
        self.walked = walks(network, chunk)
        if training:
            self.tasks, self.sums, self.parts = vector(layout.tasks), vector(layout.sums), _empty(max(1, layout.parts_size))
            self._task_count, self._sum_count = len(layout.tasks), len(layout.sums)

    def forward(self, params: Vector, n: int, key: int, first: int) -> None:
        """From the first layer's input to the logits; sample 0 is number ``first`` of its batch."""
        if self.walked:
            _launch(passes.forward, n, self.plan, self.rates, params, self.work, n, 0, len(self.table), 1, key, first)
            return
        for layer, record in enumerate(self.table):
            blocks = at.blocks(self.table, layer, n, False)
            if record[at.KIND] in (CONV2D, DENSE):
                _launch(passes.forward_product, blocks, self.plan, params, self.work, n, layer)
                self._add_splits(params, n, layer, False)
            elif record[at.KIND] != RELU or not record[at.RECTIFIED]:
                _launch(passes.forward_elements, blocks, self.plan, self.rates, self.work, n, layer, key, first)

    def backward(self, params: Vector, n: int, key: int, first: int, add: bool) -> None:
        """From dlogits to the parts of all gradients; ``add`` to those of the chunks before."""
        if self.walked:
            _launch(passes.backward, n, self.plan, self.rates, params, self.work, n, 0, len(self.table), 1, key, first)
        for layer in () if self.walked else range(len(self.table) - 1, -1, -1):
            record, blocks = self.table[layer], at.blocks(self.table, layer, n, True)
            if record[at.D_INPUT] < 0:
                continue
            if record[at.KIND] in (CONV2D, DENSE):
                _launch(passes.backward_product, blocks, self.plan, params, self.work, n, layer)
                self._add_splits(params, n, layer, True)
            else:
                _launch(passes.backward_elements, blocks, self.plan, self.rates, self.work, n, layer, key, first)
        if self._task_count:
            _launch(passes.filter_gradients, self._task_count, self.plan, self.tasks, self.work, self.parts, n, int(add))

    def _add_splits(self, params: Vector, n: int, layer: int, backward: bool) -> None:
        """Finish a product whose blocks shared the reductions."""
        if at.splits(self.table, layer, n, backward) > 1:
            count = n * int(self.table[layer, at.INPUT_SIZE if backward else at.OUTPUT_SIZE])
            _launch(passes.add_splits, _blocks(count), self.plan, params, self.work, n, layer, int(backward))

    def add_parts(self, grads: Vector, squares: Vector) -> None:
        """The gradient from its parts, and its squares."""
        if self._sum_count:
            _launch(step.add_parts, len(squares), self.parts, self.sums, grads, squares)

    def compile(self) -> None:
        """Compile or load what a training step launches."""
        way = "" if self.walked else "_product _elements"
        names = [f"{direction}{part}" for direction in ("forward", "backward") for part in way.split() or ("",)]
        for name in (*names, "filter_gradients"):
            kernel = getattr(passes, name)
            launchable(kernel, passes.SIGNATURES[kernel])


class Passes:
    """The forward and the backward pass of one batch as calls of their own; arrays are on the host.

    ``params`` [flat_size] is float32, used and never changed; ``key`` numbers the step for dropout.
    """

    def __init__(self, network: Network, params: np.ndarray, batch_size: int):
        _check_float32(params)
        self.params, self._network = params, network
        self._on_card, self._laid_out = vector(params), _LaidOut(network, batch_size, True)
        self._grads, self._squares = vector(np.zeros_like(params)), _empty(_blocks(len(params)), 2)
        self._n = 0

    def walk(self, walked: bool) -> None:
        """Take all layers in one launch, or each in one of its own: which is faster, the size decides."""
        self._laid_out.walked = walked

    def forward(self, x: np.ndarray, key: int = 0) -> np.ndarray:
        """logits [N, outputs] of the scaled images x [N, H, W, C], N at most ``batch_size``."""
        fetch_at, outputs, n = self._laid_out.logits_at, self._network.outputs, len(x)
        self._on_card.copy_to_device(self.params)
        rows = np.ascontiguousarray(x, np.float32).reshape(n, -1)
        _Images(rows, n, True).gather(self._laid_out, np.arange(n), vector(np.arange(n)), 0, n, 1.0)
        self._laid_out.forward(self._on_card, n, key, 0)
        return self._laid_out.work[fetch_at : fetch_at + n * outputs].copy_to_host().reshape(n, outputs)

    def backward(self, dlogits: np.ndarray, key: int = 0) -> np.ndarray:
        """The slope [flat_size] of the loss by every parameter, after `forward` on the same batch."""
        there = self._laid_out.work[self._laid_out.dlogits_at : self._laid_out.dlogits_at + dlogits.size]
        there.copy_to_device(np.ascontiguousarray(dlogits, np.float32).reshape(-1))
        self._laid_out.backward(self._on_card, len(dlogits), key, 0, False)
        self._laid_out.add_parts(self._grads, self._squares)
        return self._grads.copy_to_host()


def _check_float32(params: np.ndarray) -> None:
    if params.dtype != np.float32:
        raise SettingError(f"device cuda computes with float32, not {params.dtype}")


class Inference:
    """Forward passes alone, in a workspace that keeps nothing. ``params`` is on the host or a vector."""

    def __init__(self, network: Network, params: np.ndarray, threads: int | None = None, batch_size: int = 1024):
        self.network, self.params = network, vector(params)
        self._laid_out = _LaidOut(network, _chunk(network, batch_size, False), False)
        self._orders = vector(np.arange(self._laid_out.chunk))

    def logits(self, images: np.ndarray, scale: float, order: np.ndarray | None = None) -> np.ndarray:
        """logits [N, outputs] of ``images`` [N, H, W, C] (or of ``images[order]``), multiplied by ``scale``."""
        order = np.arange(len(images)) if order is None else order
        out, laid_out = np.empty((len(order), self.network.outputs), np.float32), self._laid_out
        source = _Images(images.reshape(len(images), math.prod(images.shape[1:])), laid_out.chunk, False)
        for start in range(0, len(order), laid_out.chunk):
            rows = order[start : start + laid_out.chunk]
            source.gather(laid_out, rows, self._orders, 0, len(rows), scale)
            laid_out.forward(self.params, len(rows), 0, start)
            there = laid_out.work[laid_out.logits_at : laid_out.logits_at + len(rows) * laid_out.outputs]
            out[start : start + len(rows)] = there.copy_to_host().reshape(len(rows), -1)
        return out


class Update:
    """An elementwise or a whole-tensor rule, compiled; raises `PluginError` if it does not compile.

    ``tensors`` [count, (offset, rows, columns)] are all that it may see.
    """

    def __init__(self, rule: OptimizerRule | TensorRule, dtype: np.dtype, tensors: np.ndarray):
        self._name, self._whole = rule.name, isinstance(rule, TensorRule)
        self._tables: dict[bytes, Vector] = {}
        self._kernel = compile_tensor_update(rule) if isinstance(rule, TensorRule) else compile_update(rule)
        self._size = int((tensors[:, 0] + tensors[:, 1] * tensors[:, 2]).max(initial=1))
        self._scratch = _empty(max(1, len(rule.scratch)), self._size) if isinstance(rule, TensorRule) else None
        self._nothing, self._results = vector(np.zeros((1, 2), np.float32)), _empty(1, 4)
        self._table = np.zeros((1, step.SCALARS + self._kernel.scalars), np.float32)
        self._table[0, step.DIVISOR] = 1
        self._on_card = vector(self._table)
        self._kernel.compile()

    def __call__(self, params: Vector, grads: Vector, slots: Vector, scalars: np.ndarray, tensors: np.ndarray) -> None:
        """Change the vectors ``params`` [P] and ``slots`` [slots, P] by ``grads`` [P]."""
        check_scalars(self._name, self._kernel.scalars, scalars)
        if len(tensors) == 0:
            return
        key = tensors.tobytes()
        if key not in self._tables:
            self._tables[key] = vector(tensors)
        self._table[0, step.SCALARS :] = scalars
        self._on_card.copy_to_device(self._table)
        if self._whole:
            _launch(self._kernel, len(tensors), params, grads, slots, self._on_card, self._scratch, self._tables[key])
        else:
            _launch(self._kernel, _blocks(self._size), params, grads, slots, self._on_card, 0, self._nothing, self._nothing,
                    self._results, self._tables[key])  # fmt: skip


class Training:
    """Everything the training steps need on the card: weights, gradients, workspace, data set, the compiled rules."""

    def __init__(self, network: Network, params: np.ndarray, batch_size: int, optimizer: AnyOptimizer, loss: LossRule,
                 threads: int | None = None, clip_norm: float = 0.0, clip_value: float = 0.0):  # fmt: skip
        _check_float32(params)
        self._update = compile_update(optimizer) if isinstance(optimizer, OptimizerRule) else None
        # Rules that are not elementwise ask for the loss of their step.
        self.at_once = max(1, min(_AT_ONCE, _MOST_ORDERS // batch_size)) if self._update else 1
        self.params, self.grads = vector(params), vector(np.zeros_like(params))
        self.batch_size, self._name = batch_size, optimizer.name
        self._laid_out = _LaidOut(network, _chunk(network, batch_size, True), True)
        self._loss = compile_loss(loss)
        self._squares = vector(np.zeros((_blocks(len(params)), 2), np.float32))
        self._partials = _empty(batch_size // THREADS + batch_size // self._laid_out.chunk + 2, 2)
        self._all = vector(np.array([[0, 1, len(params)]]))
        self._table = np.zeros((self.at_once, step.SCALARS + (self._update.scalars if self._update else 0)), np.float32)
        self._table[:, step.CLIP_NORM], self._table[:, step.CLIP_VALUE] = clip_norm, clip_value
        self._orders = np.zeros(self.at_once * batch_size, np.int64)
        self._results = np.zeros((self.at_once, 4), np.float32)
        self._table_there, self._orders_there = vector(self._table), vector(self._orders)
        self._results_there = vector(self._results)
        self._data: Data | None = None

    def step(self, images: np.ndarray, labels: np.ndarray, order: np.ndarray, scale: float, targets: np.ndarray,
             class_weights: np.ndarray, loss_hyperparameters: np.ndarray, divisor: float, key: int,
             slots: np.ndarray, scalars: np.ndarray) -> StepResult:  # fmt: skip
        """One step on ``images[order]``; all arrays but ``slots``, vectors, are on the host."""
        data = Data(images, labels, scale, targets, class_weights, loss_hyperparameters)
        return self.steps(data, [Batch(order, divisor, key, scalars)], slots)[0]

    def compile(self, data: Data, slots: np.ndarray) -> None:
        """Copy the data to the card, and compile all that a step launches."""
        self._place(data)
        self._laid_out.compile()
        for kernel in (step.add_parts, step.finish):
            launchable(kernel, step.SIGNATURES[kernel])
        for rule in (self._loss, self._update):
            if rule is not None:
                rule.compile()

    def _place(self, data: Data) -> None:
        """Copy to the card what is the same in all steps: the whole data set, if it fits."""
        if data is self._data:
            return
        self._images = _Images(data.images, self._laid_out.chunk, data.images.nbytes < _free_memory())
        self._labels = vector(data.labels)
        self._for_loss = [vector(array) for array in (data.targets, data.class_weights, data.hyperparameters)]
        self._data = data

    def steps(self, data: Data, batches: Sequence[Batch], slots: np.ndarray) -> list[StepResult]:
        """A step on each of ``batches``, at most ``at_once``. After one that is not finite the weights stay as they are."""
        self._place(data)
        size, chunk = self.batch_size, self._laid_out.chunk
        for row, batch in enumerate(batches):
            n = len(batch.order)
            if self._update is not None:
                check_scalars(self._name, self._update.scalars, batch.scalars)
                self._table[row, step.SCALARS :] = batch.scalars
            self._orders[row * size : row * size + n] = batch.order
            self._table[row, step.DIVISOR] = batch.divisor
            self._table[row, step.GROUPS] = n // chunk * -(-chunk // THREADS) + -(-(n % chunk) // THREADS)
        self._orders_there[: len(batches) * size].copy_to_device(self._orders[: len(batches) * size])
        self._table_there.copy_to_device(self._table)
        for row, batch in enumerate(batches):
            self._launch(row, batch, data.scale, slots)
        self._results_there.copy_to_host(self._results)
        return [StepResult(float(row[step.LOSS]), int(np.nan_to_num(row[step.CORRECT])), float(row[step.NORM]))
                for row in self._results[: len(batches)]]  # fmt: skip

    def _launch(self, row: int, batch: Batch, scale: float, slots: np.ndarray) -> None:
        laid_out, group = self._laid_out, 0
        for first in range(0, len(batch.order), laid_out.chunk):
            images = batch.order[first : first + laid_out.chunk]
            n, start = len(images), row * self.batch_size + first
            self._images.gather(laid_out, images, self._orders_there, start, n, scale)
            laid_out.forward(self.params, n, batch.key, first)
            _launch(self._loss, -(-n // THREADS), laid_out.work, laid_out.logits_at, laid_out.dlogits_at, laid_out.outputs,
                    self._labels, self._orders_there, start, n, *self._for_loss, self._table_there, row, self._partials,
                    group)  # fmt: skip
            laid_out.backward(self.params, n, batch.key, first, first > 0)
            group += -(-n // THREADS)
        laid_out.add_parts(self.grads, self._squares)
        given = (self._table_there, row, self._squares, self._partials, self._results_there)
        blocks = _blocks(self.params.size)
        if self._update is None:
            _launch(step.finish, blocks, self.grads, *given)
        else:
            _launch(self._update, blocks, self.params, self.grads, slots, *given, self._all)
