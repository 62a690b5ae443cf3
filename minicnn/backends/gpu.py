"""Parts of the CUDA backend: arrays on the GPU, launches, and a network in GPU memory."""

from typing import Any

import numpy as np
from numba import cuda, from_dtype

from minicnn.backends import scale_rows
from minicnn.errors import DeviceError, SettingError
from minicnn.kernels.augment import COLUMNS, PARTNER
from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda import step, tensor
from minicnn.kernels.cuda.call import launch, launchable
from minicnn.kernels.cuda.gather import (
    channels_signature,
    gather,
    gather_channels,
    gather_signature,
    gather_views,
    views_signature,
)
from minicnn.kernels.cuda.launches import FINISH, OPERATION, Launch, launches
from minicnn.kernels.cuda.rules import Kernel, rule_launches
from minicnn.kernels.cuda.tile import SIMULATED, THREADS
from minicnn.network.network import Network
from minicnn.program.planner import make_plan

Vector = Any  # an array on the GPU

_MOST_BLOCKS = 1024  # of a launch over a vector: enough to fill any GPU
_FRACTION_OF_MEMORY = 0.8  # what is left of the GPU's free memory is for others


def choose(number: int) -> None:
    """From now on compute on GPU ``number`` modulo the number of GPUs of this machine."""
    if not SIMULATED:
        cuda.select_device(number % len(cuda.gpus))


def to_device(array: np.ndarray) -> Vector:
    """A copy of ``array`` on the GPU; an array that is there already is returned as it is."""
    if not isinstance(array, np.ndarray):
        return array
    return cuda.to_device(
        np.ascontiguousarray(array) if array.size else np.zeros((1,) * array.ndim, array.dtype)
    )


def empty(*shape: int) -> Vector:
    """An uninitialized float32 array on the GPU."""
    return cuda.device_array(shape, np.float32)


def views_on_gpu(views: np.ndarray | None) -> Vector:
    """The views of all images on the GPU; for None, one row without a partner, which stands for
    every image."""
    if views is None:
        views = np.zeros((1, COLUMNS), np.float32)
        views[0, PARTNER] = -1
    return to_device(views)


def blocks_for(count: int) -> int:
    """Blocks of a launch over a vector, of which a thread takes four numbers at a time."""
    return max(1, min(_MOST_BLOCKS, -(-count // (4 * THREADS))))


def run_kernel(kernel: Any, blocks: int, *arguments: Any) -> None:
    """Launch a rule's `Kernel`, or one of the functions in ``step.py`` and ``tensor.py``."""
    if isinstance(kernel, Kernel):
        launch(kernel.function, kernel.signature, blocks, *arguments)
    else:
        module = tensor if kernel in tensor.SIGNATURES else step
        launch(kernel, module.SIGNATURES[kernel], blocks, *arguments)


def check_float32(params: np.ndarray) -> None:
    """Raise `SettingError` for parameters of another dtype."""
    if params.dtype != np.float32:
        raise SettingError(f"device cuda computes with float32, not {params.dtype}")


def free_memory() -> float:
    """Bytes of GPU memory that may be used."""
    return _FRACTION_OF_MEMORY * cuda.current_context().get_memory_info()[0]


def lay_out(
    network: Network, chunk: int, training: bool, frozen: bool = False
) -> tuple[at.Layout, list[dict[str, tuple[Launch, ...]]]]:
    """The layout of ``network``, and what is launched for each operation.

    ``frozen`` is that of `make_plan`. Raises `SettingError`, which names the layer, for an
    operation that CUDA lacks.
    """
    plan = make_plan(network, chunk, training, 1, frozen=frozen)
    sizes = {spec.offset: spec.size for spec in network.parameters if spec.kind != "state"}
    found = []
    for node in plan.nodes:
        own = launches(node.row.module) if node.row.rule is None else rule_launches(node.row.rule)
        if own is None:
            name, layer = network.layer_names[node.layers[-1]], network.layers[node.layers[-1]]
            raise SettingError(
                f"device cuda: layer {name}, {layer}, cannot be computed there: use the device cpu"
            )
        found.append(own)
    layout = at.lay_out(plan.table, plan.work_size, sizes, training)
    frozen_at = [spec.offset for spec in network.parameters if spec.layer in network.frozen]
    return layout._replace(sums=layout.sums[~np.isin(layout.sums[:, 0], frozen_at)]), found


def largest_chunk(network: Network, batch: int, training: bool, frozen: bool = False) -> int:
    """The largest part of a batch whose workspace fits the free memory."""
    fits, most, free = 0, batch, free_memory()
    while fits < most:
        chunk = most if fits == 0 and most == batch else (fits + most + 1) // 2
        layout, operations = lay_out(network, chunk, training, frozen)
        if 4 * layout.work_size <= free:
            fits = chunk
        elif any("finish" in operation for operation in operations):
            raise DeviceError(
                f"device cuda: batch normalization needs a batch of {batch} at once, {4 * layout.work_size:,} "
                f"bytes, and {free:,.0f} are free on the GPU: take smaller batches"
            )
        else:
            most = chunk - 1
    if fits == 0:
        needed = 4 * layout.work_size
        raise DeviceError(
            f"device cuda: one image needs {needed:,} bytes, and {free:,.0f} are free on the GPU"
        )
    return fits


class Images:
    """Scaled images in the first layer's input, from a set on the GPU or, where it does not fit,
    from the host."""

    def __init__(self, images: np.ndarray, most: int, resident: bool):
        self.host, self._kind = images, from_dtype(images.dtype)
        self._all = to_device(images) if resident else None
        self._scale: float | np.ndarray | None = None
        if not resident:
            self._some = cuda.device_array((most, images.shape[1]), images.dtype)
            self._in_order = to_device(np.arange(most))

    def gather(
        self,
        device_network: "DeviceNetwork",
        order: np.ndarray,
        orders: Vector,
        start: int,
        n: int,
        scale: float | np.ndarray,
        views: tuple[np.ndarray | None, Vector] = (None, None),
    ) -> None:
        """``n`` images, those in ``order``, which is what ``orders`` on the GPU holds from
        ``start`` on. ``views`` are those of all images, on the host and on the GPU; None: the
        images as they are."""
        (host, views_here), source = views, self._all
        if source is None and host is not None:
            partners = np.maximum(host[order, PARTNER], 0).astype(np.int64)
            source = to_device(self.host[np.concatenate([order, partners])])
        elif source is None:
            self._some[:n].copy_to_device(np.ascontiguousarray(self.host[order]))
            source, orders, start = self._some, self._in_order, 0
        given = n, device_network.plan, device_network.work, source, orders, start, n
        if host is not None:
            whole = int(self._all is not None)
            signature = views_signature(self._kind)
            launch(gather_views, signature, *given, self._rows(scale), views_here, whole)
        elif isinstance(scale, float):
            launch(gather, gather_signature(self._kind), *given, scale)
        else:
            signature = channels_signature(self._kind)
            launch(gather_channels, signature, *given, self._rows(scale))

    def _rows(self, scale: float | np.ndarray) -> Vector:
        if self._scale is not scale:
            self._scale, self._scale_on_gpu = (
                scale,
                to_device(scale_rows(scale, np.dtype(np.float32))),
            )
        return self._scale_on_gpu


class DeviceNetwork:
    """A network on the GPU: its plan, room for ``chunk`` samples, and the launches of its
    passes."""

    def __init__(self, network: Network, chunk: int, training: bool, frozen: bool = False):
        layout, self._operations = lay_out(network, chunk, training, frozen)
        self.chunk, self.outputs, self.table = chunk, network.outputs, layout.table
        self.logits_at, self.dlogits_at = int(self.table[-1]["y"]), int(self.table[-1]["dy"])
        size = layout.work_size
        if self.dlogits_at < 0:  # nothing is trained: the loss writes them, and nobody reads them
            self.dlogits_at, size = size, size + chunk * network.outputs
        self.plan = to_device(layout.table)
        self.work = to_device(np.zeros(size, np.float32))
        self.sums, self._sum_count = to_device(layout.sums), len(layout.sums)

    def forward(self, params: Vector, n: int, key: int, first: int) -> None:
        """The forward pass, from the first operation's x to the logits; sample 0 is number
        ``first`` of its batch."""
        for op in range(len(self.table)):
            self._launch("forward", op, params, n, key, first)

    def logits(self, n: int) -> np.ndarray:
        """Those of the last forward pass, [n, outputs], on the host."""
        rows = self.work[self.logits_at : self.logits_at + n * self.outputs]
        return rows.copy_to_host().reshape(n, self.outputs)

    def backward(self, params: Vector, n: int, key: int, first: int) -> None:
        """From dlogits to the parts of all gradients, added to those of the chunks before, if
        ``first`` is not 0."""
        for op in range(len(self.table) - 1, -1, -1):
            if self.table[op]["dy"] >= 0:
                self._launch("backward", op, params, n, key, first)

    def finish(self, params: Vector, n: int, row: int, results: Vector) -> None:
        """The state after a step whose results are in ``row``."""
        for op in range(len(self.table)):
            self._launch("finish", op, params, n, row, results)

    def _launch(self, which: str, op: int, params: Vector, n: int, *rest: Any) -> None:
        signature = FINISH if which == "finish" else OPERATION
        for kernel, blocks in self._operations[op].get(which, ()):
            if count := blocks(self.table[op], n):
                launch(
                    kernel,
                    signature,
                    count,
                    self.plan,
                    params,
                    self.work,
                    op,
                    n,
                    *rest,
                )

    def add_parts(self, grads: Vector, squares: Vector) -> None:
        """The gradient from its parts, and its squares."""
        if self._sum_count:
            run_kernel(step.add_parts, len(squares), self.work, self.sums, grads, squares)

    def compile(self) -> None:
        """Compile or load what a training step launches."""
        for operation in self._operations:
            for which, ones in operation.items():
                for one in ones:
                    launchable(one.kernel, FINISH if which == "finish" else OPERATION)
