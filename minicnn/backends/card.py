"""What the CUDA backend is made of: arrays on the card, launches, and a network laid out there."""

from typing import Any

import numpy as np
from numba import cuda, from_dtype

from minicnn.errors import DeviceError
from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda import passes, step
from minicnn.kernels.cuda.call import launch, launchable
from minicnn.kernels.cuda.rules import Kernel
from minicnn.kernels.cuda.tile import THREADS
from minicnn.network.network import Network
from minicnn.network.translation import make_plan
from minicnn.plan import CONV2D, DENSE, RELU

Vector = Any  # an array on the card

_SIGNATURES = step.SIGNATURES | passes.SIGNATURES
_MOST_BLOCKS = 1024  # of a launch over a vector: enough to fill any card
_SHARE_OF_MEMORY = 0.8  # what is left of the card's free memory is for others


def vector(array: np.ndarray) -> Vector:
    """A copy of ``array`` on the card; what is there already is returned as it is."""
    if not isinstance(array, np.ndarray):
        return array
    return cuda.to_device(np.ascontiguousarray(array) if array.size else np.zeros((1,) * array.ndim, array.dtype))


def empty(*shape: int) -> Vector:
    """An array of float32 on the card that holds anything."""
    return cuda.device_array(shape, np.float32)


def blocks_for(count: int) -> int:
    """Blocks of a launch over a vector, of which a thread takes four numbers at a time."""
    return max(1, min(_MOST_BLOCKS, -(-count // (4 * THREADS))))


def run_kernel(kernel: Any, blocks: int, *arguments: Any) -> None:
    """Launch a rule's `Kernel`, or one of the functions in ``step.py`` or ``passes.py``."""
    if isinstance(kernel, Kernel):
        launch(kernel.function, kernel.signature, blocks, *arguments)
    else:
        launch(kernel, _SIGNATURES[kernel], blocks, *arguments)


def free_memory() -> float:
    """Bytes on the card that may be taken."""
    return _SHARE_OF_MEMORY * cuda.current_context().get_memory_info()[0]


def largest_chunk(network: Network, batch: int, training: bool) -> int:
    """The largest part of a batch whose activations fit the free memory."""
    plan = make_plan(network, 1, training, 1)
    bytes_a_sample = 4 * at.lay_out(plan.table, plan.work_size, training).work_size
    free = free_memory()
    if free < bytes_a_sample:
        raise DeviceError(f"device cuda: one image needs {bytes_a_sample:,} bytes, and {free:,.0f} are free on the card")
    return int(min(batch, free // bytes_a_sample))


class Images:
    """Scaled images in the first layer's input, from a set on the card or, where it does not fit, from the host."""

    def __init__(self, images: np.ndarray, most: int, resident: bool):
        self.host, self.signature = images, passes.gather_signature(from_dtype(images.dtype))
        self._all = vector(images) if resident else None
        if not resident:
            self._some = cuda.device_array((most, images.shape[1]), images.dtype)
            self._in_order = vector(np.arange(most))

    def gather(self, laid_out: "LaidOut", order: np.ndarray, orders: Vector, start: int,
               n: int, scale: float) -> None:  # fmt: skip
        """``n`` images, those in ``order``, which is what ``orders`` on the card holds from ``start`` on."""
        if self._all is None:
            self._some[:n].copy_to_device(np.ascontiguousarray(self.host[order]))
            source, orders, start = self._some, self._in_order, 0
        else:
            source = self._all
        launch(passes.gather, self.signature, n, laid_out.plan, laid_out.work, source, orders,
               start, n, scale)  # fmt: skip


class LaidOut:
    """A network on the card: its plan, room for ``chunk`` samples, and the launches of its passes."""

    def __init__(self, network: Network, chunk: int, training: bool):
        plan = make_plan(network, chunk, training, 1)
        layout = at.lay_out(plan.table, plan.work_size, training)
        self.chunk, self.outputs, self.table = chunk, network.outputs, layout.plan
        self.logits_at, self.dlogits_at = (int(layout.plan[-1, field]) for field in (at.OUTPUT, at.D_OUTPUT))
        self.plan, self.rates = vector(layout.plan), vector(layout.rates)
        self.work = vector(np.zeros(layout.work_size, np.float32))
        if training:
            self.tasks, self.sums, self.parts = vector(layout.tasks), vector(layout.sums), empty(max(1, layout.parts_size))
            self._task_count, self._sum_count = len(layout.tasks), len(layout.sums)

    def forward(self, params: Vector, n: int, key: int, first: int) -> None:
        """From the first layer's input to the logits; sample 0 is number ``first`` of its batch."""
        for layer, record in enumerate(self.table):
            blocks = at.blocks(self.table, layer, n, False)
            if record[at.KIND] in (CONV2D, DENSE):
                run_kernel(passes.forward_product, blocks, self.plan, params, self.work, n, layer)
                self._add_splits(params, n, layer, False)
            elif record[at.KIND] != RELU or not record[at.RECTIFIED]:
                run_kernel(passes.forward_elements, blocks, self.plan, self.rates, self.work, n, layer, key, first)

    def backward(self, params: Vector, n: int, key: int, first: int, add: bool) -> None:
        """From dlogits to the parts of all gradients; ``add`` to those of the chunks before."""
        for layer in range(len(self.table) - 1, -1, -1):
            record, blocks = self.table[layer], at.blocks(self.table, layer, n, True)
            if record[at.D_INPUT] < 0:
                continue
            if record[at.KIND] in (CONV2D, DENSE):
                run_kernel(passes.backward_product, blocks, self.plan, params, self.work, n, layer)
                self._add_splits(params, n, layer, True)
            else:
                run_kernel(passes.backward_elements, blocks, self.plan, self.rates, self.work, n, layer, key, first)
        if self._task_count:
            run_kernel(passes.filter_gradients, self._task_count, self.plan, self.tasks, self.work, self.parts, n, int(add))

    def _add_splits(self, params: Vector, n: int, layer: int, backward: bool) -> None:
        """Finish a product whose blocks shared the reductions."""
        if at.splits(self.table, layer, n, backward) > 1:
            count = n * int(self.table[layer, at.INPUT_SIZE if backward else at.OUTPUT_SIZE])
            run_kernel(passes.add_splits, blocks_for(count), self.plan, params, self.work, n, layer, int(backward))

    def add_parts(self, grads: Vector, squares: Vector) -> None:
        """The gradient from its parts, and its squares."""
        if self._sum_count:
            run_kernel(step.add_parts, len(squares), self.parts, self.sums, grads, squares)

    def compile(self) -> None:
        """Compile or load what a training step launches."""
        for kernel in (passes.forward_product, passes.forward_elements, passes.backward_product, passes.backward_elements,
                       passes.add_splits, passes.filter_gradients):  # fmt: skip
            launchable(kernel, _SIGNATURES[kernel])
