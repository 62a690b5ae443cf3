"""Launch the kernels of the operations as the backend does, one after the other, and bring back
what they computed."""

import numpy as np
from numba import cuda, from_dtype

from minicnn.backends.gpu import lay_out
from minicnn.kernels.cuda import call
from minicnn.kernels.cuda.gather import gather, gather_signature
from minicnn.kernels.cuda.launches import OPERATION


class Device:
    """A network's buffers on the device; the workspace begins as ``rubbish``."""

    def __init__(self, network, params, chunk, training=True, rubbish=np.nan):
        self.network = network
        self.layout, self.operations = lay_out(network, chunk, training)
        self.table = self.layout.table
        self.plan = cuda.to_device(self.layout.table)
        self.params = cuda.to_device(
            params.astype(np.float32) if len(params) else np.zeros(1, np.float32)
        )
        self.work = cuda.to_device(np.full(self.layout.work_size, rubbish, np.float32))
        self.launched = []  # names of the kernels

    def numbers(self, start, count):
        return self.work.copy_to_host()[start : start + count]

    def launch(self, which, op, n, grid, *rest):
        for kernel, blocks in self.operations[op].get(which, ()):
            if count := blocks(self.table[op], n):
                self.launched.append(kernel.__name__)
                call.launch(
                    kernel,
                    OPERATION,
                    grid or count,
                    self.plan,
                    self.params,
                    self.work,
                    op,
                    n,
                    *rest,
                )

    def forward(self, x, grid=None, key=0, first_sample=0, order=None, scale=1.0):
        """logits [n, outputs]; ``grid`` is another number of blocks than is natural."""
        order = np.arange(len(x)) if order is None else order
        n, outputs = len(order), self.network.outputs
        images = cuda.to_device(np.ascontiguousarray(x.reshape(len(x), -1)))
        call.launch(
            gather,
            gather_signature(from_dtype(x.dtype)),
            grid or n,
            self.plan,
            self.work,
            images,
            cuda.to_device(order),
            0,
            n,
            np.float32(scale),
        )
        for op in range(len(self.table)):
            self.launch("forward", op, n, grid, np.uint64(key), first_sample)
        return self.numbers(self.table[-1]["y"], n * outputs).reshape(n, outputs)

    def backward(self, dlogits, grid=None, key=0, first_sample=0):
        """The flat gradient after `forward` on the same batch, added to that of the samples before
        ``first_sample``."""
        n = len(dlogits)
        if self.table[-1]["dy"] >= 0:
            work = self.work.copy_to_host()
            work[self.table[-1]["dy"] :][: dlogits.size] = dlogits.astype(np.float32).ravel()
            self.work.copy_to_device(work)
        for op in reversed(range(len(self.table))):
            if self.table[op]["dy"] >= 0:
                self.launch("backward", op, n, grid, np.uint64(key), first_sample)
        work, grads = self.work.copy_to_host(), np.zeros(self.network.flat_size, np.float32)
        for offset, count, place, distance, splits in self.layout.sums:
            for split in range(splits):
                grads[offset : offset + count] += work[place + split * distance :][:count]
        return grads
