"""Launch the kernels of the passes as the backend does, one after the other, and bring back what they computed."""

import numpy as np
from minicnn.network.translation import make_plan
from minicnn.plan import CONV2D, DENSE
from numba import cuda, from_dtype

from minicnn.kernels.cuda import call, layout, passes


def launch(kernel, blocks, *arguments):
    call.launch(kernel, passes.SIGNATURES[kernel], blocks, *arguments)


def lay_out(network, chunk, training=True):
    plan = make_plan(network, chunk, training, 1)
    return layout.lay_out(plan.table, plan.work_size, training)


class Device:
    """A network's buffers on the device; the workspace begins as ``rubbish``."""

    def __init__(self, network, params, chunk, training=True, rubbish=np.nan):
        self.network, self.layout = network, lay_out(network, chunk, training)
        self.plan, self.rates = cuda.to_device(self.layout.plan), cuda.to_device(self.layout.rates)
        self.tasks = cuda.to_device(self.layout.tasks)
        self.splits = []  # of the products launched so far
        self.params = cuda.to_device(params.astype(np.float32))
        self.work = cuda.to_device(np.full(self.layout.work_size, rubbish, np.float32))
        self.parts = cuda.to_device(np.full(self.layout.parts_size, rubbish, np.float32))

    def field(self, layer, name):
        return int(self.layout.plan[layer, layout.FIELDS.index(name)])

    def numbers(self, start, count):
        return self.work.copy_to_host()[start : start + count]

    def forward(self, x, grid=None, key=0, first_sample=0, order=None, scale=1.0):
        """logits [n, outputs]: ``grid`` is another number of blocks than is natural."""
        order = np.arange(len(x)) if order is None else order
        n, layers = len(order), len(self.layout.plan)
        images = cuda.to_device(np.ascontiguousarray(x.reshape(len(x), -1)))
        call.launch(passes.gather, passes.gather_signature(from_dtype(x.dtype)), grid or n, self.plan, self.work, images,
                    cuda.to_device(order), 0, n, np.float32(scale))  # fmt: skip
        rest = (np.uint64(key), first_sample)
        for layer in range(layers):
            blocks = grid or layout.blocks(self.layout.plan, layer, n, False)
            if self.field(layer, "kind") in (CONV2D, DENSE):
                launch(passes.forward_product, blocks, self.plan, self.params, self.work, n, layer)
                self.splits.append(layout.splits(self.layout.plan, layer, n, False))
                if self.splits[-1] > 1:
                    launch(passes.add_splits, grid or 3, self.plan, self.params, self.work, n, layer, 0)
            else:
                launch(passes.forward_elements, blocks, self.plan, self.rates, self.work, n, layer, *rest)
        outputs = self.network.outputs
        return self.numbers(self.field(layers - 1, "output"), n * outputs).reshape(n, outputs)

    def backward(self, dlogits, grid=None, key=0, first_sample=0, accumulate=False):
        """The flat gradient after `forward` on the same batch."""
        n, layers = len(dlogits), len(self.layout.plan)
        work = self.work.copy_to_host()
        start = self.field(layers - 1, "d_output")
        work[start : start + dlogits.size] = dlogits.astype(np.float32).ravel()
        self.work.copy_to_device(work)
        rest = (np.uint64(key), first_sample)
        for layer in reversed(range(layers)):
            if self.field(layer, "d_input") < 0:
                continue
            blocks = grid or layout.blocks(self.layout.plan, layer, n, True)
            if self.field(layer, "kind") in (CONV2D, DENSE):
                launch(passes.backward_product, blocks, self.plan, self.params, self.work, n, layer)
                self.splits.append(layout.splits(self.layout.plan, layer, n, True))
                if self.splits[-1] > 1:
                    launch(passes.add_splits, grid or 3, self.plan, self.params, self.work, n, layer, 1)
            else:
                launch(passes.backward_elements, blocks, self.plan, self.rates, self.work, n, layer, *rest)
        if len(self.layout.tasks):
            launch(passes.filter_gradients, grid or len(self.layout.tasks), self.plan, self.tasks, self.work, self.parts, n,
                   int(accumulate))  # fmt: skip
        parts, grads = self.parts.copy_to_host(), np.zeros(self.network.flat_size, np.float32)
        for offset, count, place, distance, splits in self.layout.sums:
            for split in range(splits):
                grads[offset : offset + count] += parts[place + split * distance :][:count]
        return grads
