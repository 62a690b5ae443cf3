"""The passes of one batch and its loss on the CPU as calls of their own, for training loops written
by hand."""

import functools
from typing import Any

import numpy as np

from minicnn.backends.layout import lay_out
from minicnn.errors import SettingError
from minicnn.kernels.cpu import passes, step
from minicnn.kernels.cpu.rules import compile_loss
from minicnn.memory import aligned_zeros, check_array
from minicnn.network.checks import integer
from minicnn.network.network import Network, check_network
from minicnn.rules import LossRule

_compiled_loss = functools.cache(compile_loss)  # to find it on the disk takes longer than a batch


def batch_loss(
    rule: LossRule,
    logits: np.ndarray,
    labels: np.ndarray,
    targets: np.ndarray,
    class_weights: np.ndarray,
    hyperparameters: np.ndarray,
    sample_weights: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """(summed loss, dlogits of each row's own loss) of ``logits`` [N, outputs], each row times its
    weight."""
    dlogits = np.empty_like(logits)
    address = _compiled_loss(rule, logits.dtype).address
    weights = np.empty(0, logits.dtype) if sample_weights is None else sample_weights
    given = labels, weights, targets, class_weights, hyperparameters
    return step.loss_of(address, logits, *given, dlogits), dlogits


class Passes:
    """The forward and the backward pass of one batch as calls of their own, for training loops
    written by hand.

    ``params`` [flat_size], float32 or float64, is used and never changed; ``key`` numbers the step
    for dropout. The methods ``*_by_operation`` return the values of every operation. Raises
    `SettingError` for arrays that do not fit the network or the batch.
    """

    def __init__(
        self, network: Network, params: np.ndarray, batch_size: int, by_operation: bool = False
    ):
        check_network(network)
        check_array("params", params, (network.flat_size,), writable=False)
        self._batch_size = integer("Passes", "batch_size", batch_size)
        self.params, self._network = params, network
        self._by_operation, self._count = by_operation, 0
        self.plan = lay_out(
            network, self._batch_size, True, params.dtype, plain=by_operation, keep=by_operation
        )
        self.work = aligned_zeros(self.plan.work_size, params.dtype)
        self._transposed = aligned_zeros(len(params), params.dtype)
        self._logits = np.empty((self._batch_size, network.outputs), params.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return Passes, (self._network, self.params, self._batch_size, self._by_operation)

    def forward(self, x: np.ndarray, key: int = 0) -> np.ndarray:
        """logits [N, outputs] of the scaled images x [N, H, W, C], N at most ``batch_size``."""
        x = self._images(x)
        logits = self._logits[: len(x)]
        self._forward(self.plan.table, x, logits, key)
        return logits

    def backward(self, dlogits: np.ndarray, key: int = 0) -> np.ndarray:
        """The gradient [flat_size] of the loss with respect to the parameters, after `forward` on
        the same batch."""
        grads, dlogits = aligned_zeros(len(self.params), self.params.dtype), self._rows(dlogits)
        self._backward(self.plan.table, dlogits, grads, key)
        return grads

    def forward_by_operation(
        self, x: np.ndarray | None = None, key: int = 0, first: int = 0
    ) -> list[np.ndarray]:
        """The outputs [N, numbers in a sample] of all operations of the plan.

        ``x`` [N, H, W, C] are scaled images. None begins with operation ``first``, on what the last
        pass left before it.
        """
        table, number = self.plan.table, self.params.dtype
        if x is not None:
            x = self._images(x)
            self.work[table[0]["x"] :][: x.size] = x.reshape(-1)
        elif self._count == 0:
            raise SettingError("x is None, but there was no forward pass to go on from")
        if not isinstance(first, int) or not 0 <= first < len(table):
            raise SettingError(f"first must be from 0 to {len(table) - 1}, not {first!r}")
        outputs = []
        for i in range(first, len(table)):
            y = np.empty((self._count, table[i]["output_size"]), number)
            before = self.work[table[i]["x"] :][: self._count * table[i]["input_size"]]
            self._forward(table[i : i + 1], before.reshape(self._count, 1, 1, -1), y, key)
            outputs.append(y)
        return outputs

    def backward_by_operation(self, dlogits: np.ndarray, key: int = 0) -> list[np.ndarray]:
        """The gradients [N, numbers in a sample] of the loss with respect to the outputs of the
        operations.

        After `forward_by_operation` on the same batch; the last of them is ``dlogits`` itself.
        Those before the first weights are empty.
        """
        table, grads = self.plan.table, aligned_zeros(len(self.params), self.params.dtype)
        gradients: list[np.ndarray] = []
        dlogits = self._rows(dlogits)
        self.work[table[-1]["dy"] :][: dlogits.size] = dlogits.reshape(-1)
        for i in range(len(table) - 1, -1, -1):
            dy = table[i]["dy"]
            size = self._count * table[i]["output_size"] if dy >= 0 else 0
            gradients.insert(0, self.work[max(dy, 0) :][:size].reshape(self._count, -1).copy())
            if size:
                self._backward(table[i : i + 1], gradients[0], grads, key)
        return gradients

    def _forward(self, table: np.ndarray, x: np.ndarray, y: np.ndarray, key: int) -> None:
        passes.forward_keep(table, self.params, self.work, x, y, _key(key))

    def _backward(self, table: np.ndarray, dy: np.ndarray, grads: np.ndarray, key: int) -> None:
        given = self.params, self._transposed, self.work, dy, grads
        passes.backward(table, *given, _key(key))

    def _images(self, x: np.ndarray) -> np.ndarray:
        """``x`` in the dtype of the parameters, if it is a batch of images."""
        x = np.ascontiguousarray(x, self.params.dtype)
        wanted = self._network.input_shape
        if x.ndim != 4 or x.shape[1:] != wanted or not 1 <= len(x) <= self._batch_size:
            raise SettingError(
                f"x must be images [N, {', '.join(map(str, wanted))}], N from 1 to "
                f"{self._batch_size}, the batch size, not {list(x.shape)}"
            )
        self._count = len(x)
        return x

    def _rows(self, dlogits: np.ndarray) -> np.ndarray:
        dlogits = np.ascontiguousarray(dlogits, self.params.dtype)
        if not self._count or dlogits.shape != (self._count, self._network.outputs):
            raise SettingError(
                f"dlogits must be [{self._count}, {self._network.outputs}], as the forward pass "
                f"before it had images, not {list(dlogits.shape)}"
            )
        return dlogits


def _key(key: int) -> np.uint64:
    if not isinstance(key, int | np.integer) or not 0 <= key < 2**64:
        raise SettingError(f"key must be a whole number from 0 to below 2⁶⁴, not {key!r}")
    return np.uint64(key)
