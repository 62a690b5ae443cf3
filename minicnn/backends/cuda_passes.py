"""The passes of one batch and its loss on a CUDA GPU as calls of their own; arrays are on the
host."""

import numpy as np

from minicnn.backends.gpu import (
    DeviceNetwork,
    Images,
    blocks_for,
    check_float32,
    empty,
    run_kernel,
    to_device,
    views_on_gpu,
)
from minicnn.kernels.cuda import step
from minicnn.kernels.cuda.rules import compile_loss
from minicnn.kernels.cuda.tile import THREADS
from minicnn.network.network import Network
from minicnn.rules import LossRule


def batch_loss(
    rule: LossRule,
    logits: np.ndarray,
    labels: np.ndarray,
    targets: np.ndarray,
    class_weights: np.ndarray,
    hyperparameters: np.ndarray,
) -> tuple[float, np.ndarray]:
    """(summed loss, dlogits of each row's own loss) of ``logits`` [N, outputs], all of them on the
    host."""
    n, outputs = logits.shape
    work, partials = (
        to_device(np.append(logits.reshape(-1), np.zeros(logits.size, np.float32))),
        empty(-(-n // THREADS), 2),
    )
    table = np.zeros((1, step.SCALARS), np.float32)
    table[0, step.DIVISOR] = 1
    given = [
        to_device(array)
        for array in (
            labels,
            np.ones(1, np.float32),
            np.arange(n),
            targets,
            class_weights,
            hyperparameters,
            table,
        )
    ]
    places = 0, n * outputs, outputs
    run_kernel(
        compile_loss(rule),
        len(partials),
        work,
        *places,
        *given[:3],
        0,
        n,
        *given[3:],
        0,
        partials,
        0,
        views_on_gpu(None),
        empty(1, 1),
    )
    dlogits = work.copy_to_host()[n * outputs :].reshape(n, outputs)
    return float(partials.copy_to_host()[:, 0].sum()), dlogits


class Passes:
    """The forward and the backward pass of one batch as calls of their own; arrays are on the host.

    ``params`` [flat_size] is float32, used and never changed; ``key`` numbers the step for dropout.
    """

    def __init__(self, network: Network, params: np.ndarray, batch_size: int):
        check_float32(params)
        self.params = params
        self._on_gpu, self._device_network = (
            to_device(params),
            DeviceNetwork(network, batch_size, True),
        )
        self._grads = to_device(np.zeros_like(params))
        self._squares = empty(blocks_for(len(params)), 2)

    def forward(self, x: np.ndarray, key: int = 0) -> np.ndarray:
        """logits [N, outputs] of the scaled images x [N, H, W, C], N at most ``batch_size``."""
        n = len(x)
        self._on_gpu.copy_to_device(self.params)
        rows = np.ascontiguousarray(x, np.float32).reshape(n, -1)
        Images(rows, n, True).gather(
            self._device_network, np.arange(n), to_device(np.arange(n)), 0, n, 1.0
        )
        self._device_network.forward(self._on_gpu, n, key, 0)
        return self._device_network.logits(n)

    def backward(self, dlogits: np.ndarray, key: int = 0) -> np.ndarray:
        """The gradient [flat_size] of the loss with respect to the parameters, after `forward` on
        the same batch."""
        rows = np.ascontiguousarray(dlogits, np.float32).reshape(-1)
        self._device_network.work[self._device_network.dlogits_at :][: rows.size].copy_to_device(
            rows
        )
        self._device_network.backward(self._on_gpu, len(dlogits), key, 0)
        self._device_network.add_parts(self._grads, self._squares)
        return self._grads.copy_to_host()
