"""Single kernels, called in compiled loops so that the call from Python does not show, on a layer's own buffers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network
from minicnn.backends.cpu import lay_out
from minicnn.kernels.cpu import conv2d, dense, passes, pool2d
from minicnn.kernels.cpu.call import call_update
from minicnn.kernels.cpu.tile import JIT
from minicnn.plan import CONV2D, DENSE, MAX_POOL2D

IMAGES = 8  # in a chunk: about as many as go through such layers at once


@njit(cache=True, **JIT)
def _conv_forward(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        conv2d.forward(layer, params, work, n)


@njit(cache=True, **JIT)
def _conv_dx(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        conv2d.backward_data(layer, turned, work, n)


@njit(cache=True, **JIT)
def _conv_dw(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        conv2d.backward_filter(layer, work, grads, n)


@njit(cache=True, **JIT)
def _dense_forward(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        dense.forward(layer, params, work, n)


@njit(cache=True, **JIT)
def _dense_dx(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        dense.backward_data(layer, turned, work, n)


@njit(cache=True, **JIT)
def _dense_dw(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        dense.backward_filter(layer, work, grads, n)


@njit(cache=True, **JIT)
def _pool_forward(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        pool2d.max_forward(layer, params, work, n)


@njit(cache=True, **JIT)
def _pool_backward(layer, params, turned, work, grads, n, calls):
    for _ in range(calls):
        pool2d.max_backward(layer, work, n)


@njit(cache=True, **JIT)
def _turn(plan, params, turned):
    passes.turn_weights(plan, params, turned, 0, 1)


@njit(cache=True, **JIT)
def update(plan, address, params, grads, slots, scalars, calls):
    """``calls`` updates; ``plan`` is there for its type, by which the cache sees that a kernel has changed."""
    for _ in range(calls):
        call_update(address, params, grads, slots, len(params), scalars, 0, len(params))


@njit(cache=True, **JIT)
def copy(source, target, calls):
    """``calls`` copies of one array into another, as fast as memcpy; ``target[:] = source`` is not."""
    for _ in range(calls):
        for i in range(len(source)):
            target[i] = source[i]


PASSES: dict[int, dict[str, Callable]] = {
    CONV2D: {"forward": _conv_forward, "dw": _conv_dw, "dx": _conv_dx},
    DENSE: {"forward": _dense_forward, "dw": _dense_dw, "dx": _dense_dx},
    MAX_POOL2D: {"forward": _pool_forward, "backward": _pool_backward},
}


class Laid(NamedTuple):
    """One layer in a plan for training, with buffers full of random numbers; ``turned`` has the weights for dx."""

    network: Network
    kind: int
    layer: np.void
    params: np.ndarray
    turned: np.ndarray
    work: np.ndarray
    grads: np.ndarray

    def run(self, direction: str, calls: int = 1) -> None:
        """Call the kernel ``calls`` times on `IMAGES` images."""
        function = PASSES[self.kind][direction]
        function(self.layer, self.params, self.turned, self.work, self.grads, IMAGES, calls)

    def image(self, which: str) -> np.ndarray:
        """``input``, ``output``, ``d_input`` or ``d_output`` as a view [IMAGES, H, W, C]."""
        side = which.removeprefix("d_")
        shape = tuple(int(self.layer[f"{side}_{length}"]) for length in ("height", "width", "channels"))
        return self.work[self.layer[which] :][: IMAGES * int(np.prod(shape))].reshape(IMAGES, *shape)


def lay(shape: tuple[int, int, int], layer: Conv2d | Dense | MaxPool2d) -> Laid:
    """Lay out ``layer`` for images of ``shape`` behind another with weights, so that it has a gradient to hand back."""
    if isinstance(layer, Dense):
        kind, layers = DENSE, [Flatten(), Dense(shape[2]), layer]
    else:
        kind = CONV2D if isinstance(layer, Conv2d) else MAX_POOL2D
        layers = [Conv2d(shape[2], 1), layer, Flatten(), Dense(1)]
    network = Network((*shape[:2], 1), layers)
    plan = lay_out(network, IMAGES, True, np.dtype(np.float32), plain=kind == MAX_POOL2D)
    rng = np.random.default_rng(2)
    work = rng.standard_normal(plan.work_size).astype(np.float32)
    params = rng.standard_normal(network.flat_size).astype(np.float32)
    turned = np.zeros_like(params)
    _turn(plan.table, params, turned)
    record = next(row for row in plan.table[1:] if row["kind"] == kind)
    return Laid(network, kind, record, params, turned, work, np.zeros_like(params))
