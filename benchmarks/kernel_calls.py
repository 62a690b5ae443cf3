"""Single kernels, called in compiled loops so that the call from Python does not show, on a layer's
own buffers."""

from typing import NamedTuple

import numpy as np
from numba import njit

from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network
from minicnn.backends.layout import lay_out
from minicnn.kernels.cpu import passes
from minicnn.kernels.cpu.call import call
from minicnn.kernels.cpu.tile import ENTRY
from minicnn.memory import aligned_copy, aligned_zeros

IMAGES = 8  # in a chunk: about as many as go through such layers at once


@njit(cache=True, **ENTRY)
def _forward(plan, params, transposed, work, grads, n, calls):
    for _ in range(calls):
        passes.forward_chunk(plan, params, work, n, np.uint64(0), 0)


@njit(cache=True, **ENTRY)
def _backward(plan, params, transposed, work, grads, n, calls):
    for _ in range(calls):
        passes.backward_chunk(plan, params, transposed, work, grads, n, np.uint64(0), 0)


@njit(cache=True, **ENTRY)
def _transpose(plan, params, transposed):
    passes.transpose_weights(plan, params, transposed)


@njit(cache=True, **ENTRY)
def update(plan, address, params, grads, slots, scalars, calls):
    """``calls`` updates; ``plan`` is there for its type, by which the cache sees that a kernel has
    changed."""
    for _ in range(calls):
        call(address, (params, grads, slots, scalars, 0, len(params)))


@njit(cache=True, **ENTRY)
def copy(source, target, calls):
    """``calls`` copies of one array into another, as fast as memcpy; ``target[:] = source`` is
    not."""
    for _ in range(calls):
        for i in range(len(source)):
            target[i] = source[i]


# What can be timed of each kind of layer: "dw" is the backward pass of a first layer, which has no
# dx.
DIRECTIONS = {
    "conv2d": ("forward", "dw", "backward"),
    "dense": ("forward", "dw", "backward"),
    "max_pool2d": ("forward", "backward"),
}


class Laid(NamedTuple):
    """One layer in a plan for training, with buffers full of random numbers; ``transposed`` has the
    weights for dx."""

    network: Network
    operation: str
    plan: np.ndarray  # its record alone
    params: np.ndarray
    transposed: np.ndarray
    work: np.ndarray
    grads: np.ndarray
    backward_weights: int  # the address of the kernel that makes no dx

    def run(self, direction: str, calls: int = 1) -> None:
        """Call the kernel ``calls`` times on `IMAGES` images."""
        plan = self.plan.copy()
        if direction == "dw":
            plan["dx"], plan["backward"] = -1, self.backward_weights
        function = _forward if direction == "forward" else _backward
        function(plan, self.params, self.transposed, self.work, self.grads, IMAGES, calls)

    def image(self, which: str) -> np.ndarray:
        """``x``, ``y``, ``dx`` or ``dy`` as a view [IMAGES, H, W, C]."""
        side = "input" if which.endswith("x") else "output"
        shape = tuple(
            int(self.plan[0][f"{side}_{length}"]) for length in ("height", "width", "channels")
        )
        return self.work[self.plan[0][which] :][: IMAGES * int(np.prod(shape))].reshape(
            IMAGES, *shape
        )


def lay(shape: tuple[int, int, int], layer: Conv2d | Dense | MaxPool2d) -> Laid:
    """Lay out ``layer`` for images of ``shape`` behind another with weights, so that it has a
    gradient to hand back."""
    if isinstance(layer, Dense):
        operation, layers = "dense", [Flatten(), Dense(shape[2]), layer]
    else:
        operation = "conv2d" if isinstance(layer, Conv2d) else "max_pool2d"
        layers = [Conv2d(shape[2], 1), layer, Flatten(), Dense(1)]
    network = Network((*shape[:2], 1), layers)
    plan = lay_out(network, IMAGES, True, np.dtype(np.float32), plain=True, keep=True)
    rng = np.random.default_rng(2)
    # aligned, as the backend has them: a vector across two lines of the cache is two loads
    work = aligned_copy(rng.standard_normal(plan.work_size).astype(np.float32))
    params = aligned_copy(rng.standard_normal(network.flat_size).astype(np.float32))
    transposed = aligned_zeros(params.shape, params.dtype)
    _transpose(plan.table, params, transposed)
    index = next(i for i, node in enumerate(plan.nodes) if i and node.operation == operation)
    return Laid(
        network,
        operation,
        plan.table[index : index + 1],
        params,
        transposed,
        work,
        aligned_zeros(params.shape, params.dtype),
        passes.kernel_address(plan.nodes[index].row, "backward_weights", "float32"),
    )
