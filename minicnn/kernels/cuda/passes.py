"""The kernels of the passes: one launch an operation, in which all blocks share the tiles, or the elements, of all samples.

All kernels take blocks of `THREADS` threads and any number of blocks, and share the work out in strides of the grid.
Buffers are float32: ``params`` [P], ``work`` [Layout.work_size], ``parts`` [Layout.parts_size]; ``plan`` and ``rates`` come
from the layout; ``n`` is the number of samples (at most the plan's chunk), ``key`` numbers the step for dropout, and
``first_sample`` is the place in the batch of sample 0.
"""

import functools

import numpy as np
from numba import cuda, types

from minicnn.kernels.cuda import activation, conv2d, dropout, pool2d
from minicnn.kernels.cuda import layout as at
from minicnn.kernels.cuda.tile import THREADS, device
from minicnn.plan import AVG_POOL2D, CONV2D, DENSE, DROPOUT, MAX_POOL2D, RELU

PLAN, NUMBERS, INTEGER, KEY = types.int64[:, ::1], types.float32[::1], types.int64, types.uint64
_ELEMENTS = (PLAN, NUMBERS, NUMBERS, INTEGER, INTEGER, KEY, INTEGER)
_PRODUCT = (PLAN, NUMBERS, NUMBERS, INTEGER, INTEGER)


@functools.cache
def gather_signature(images):
    """The signature of `gather` for images of the Numba type ``images``, uint8 or float32."""
    return types.void(PLAN, NUMBERS, images[:, ::1], types.int64[::1], INTEGER, INTEGER, types.float32)


def gather(plan, work, images, order, start, n, scale):
    """x[i] = images[order[start + i]] · scale, into the first layer's input; ``images`` [N, H·W·C] uint8 or float32."""
    size, x0 = plan[0, at.INPUT_SIZE], plan[0, at.INPUT]
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        image = order[start + i]
        for j in range(cuda.threadIdx.x, size, THREADS):
            work[np.uint64(x0 + i * size + j)] = np.float32(images[image, j]) * scale


@device
def _forward_elements(plan, rates, layer, work, sample, n, part, parts, key, first_sample):
    """One layer that is no product."""
    kind = plan[layer, at.KIND]
    if kind == MAX_POOL2D:
        pool2d.max_forward(plan, rates, layer, work, sample, n, part, parts)
    elif kind == AVG_POOL2D:
        pool2d.average_forward(plan, rates, layer, work, sample, n, part, parts)
    elif kind == DROPOUT:
        dropout.forward(plan, rates, layer, work, sample, n, part, parts, key, first_sample)
    elif kind != RELU or plan[layer, at.RECTIFIED] == 0:
        activation.forward(plan, rates, layer, work, sample, n, part, parts)


@device
def _backward_elements(plan, rates, layer, work, sample, n, part, parts, key, first_sample):
    """One layer that is no product."""
    kind = plan[layer, at.KIND]
    if kind == MAX_POOL2D:
        pool2d.max_backward(plan, rates, layer, work, sample, n, part, parts)
    elif kind == AVG_POOL2D:
        pool2d.average_backward(plan, rates, layer, work, sample, n, part, parts)
    elif kind == DROPOUT:
        dropout.backward(plan, rates, layer, work, sample, n, part, parts, key, first_sample)
    else:
        activation.backward(plan, rates, layer, work, sample, n, part, parts)


def forward_product(plan, params, work, n, layer):
    """y = b + x * w of one convolution or dense layer; the grid is over the tiles (`layout.blocks`)."""
    conv2d.forward(plan, layer, params, work, 0, n, cuda.blockIdx.x, cuda.gridDim.x, True)


def backward_product(plan, params, work, n, layer):
    """dx of one convolution or dense layer from its dy; only where ``plan[layer, D_INPUT] >= 0``."""
    conv2d.backward_data(plan, layer, params, work, 0, n, cuda.blockIdx.x, cuda.gridDim.x, True)


def add_splits(plan, params, work, n, layer, is_backward):
    """The sums of `forward_product`, or `backward_product`, where `layout.splits` says that blocks shared reductions."""
    conv2d.add_splits(plan, layer, params, work, n, is_backward, cuda.blockIdx.x, cuda.gridDim.x)


def forward_elements(plan, rates, work, n, layer, key, first_sample):
    """Any other layer forward: pooling, activation (nothing to do for a ReLU that is ``rectified``), dropout."""
    _forward_elements(plan, rates, layer, work, 0, n, cuda.blockIdx.x, cuda.gridDim.x, key, first_sample)


def backward_elements(plan, rates, work, n, layer, key, first_sample):
    """The same backward; only where ``plan[layer, D_INPUT] >= 0``."""
    _backward_elements(plan, rates, layer, work, 0, n, cuda.blockIdx.x, cuda.gridDim.x, key, first_sample)


def filter_gradients(plan, tasks, work, parts, n, accumulate):
    """All filter and bias gradients, one task a block: written to ``parts``, or added to it where ``accumulate`` is 1.

    After the backward pass of the same ``n`` samples. Every task writes all its numbers, also where its split has no positions.
    """
    task = np.uint32(cuda.blockIdx.x)
    while task < tasks.shape[0]:
        conv2d.backward_filter(plan, np.uint32(tasks[task, 0]), work, parts, n, tasks[task, 1], tasks[task, 2],
                               tasks[task, 3], tasks[task, 4], accumulate != 0)  # fmt: skip
        task = np.uint32(task + cuda.gridDim.x)


for _product in (forward_product, backward_product, filter_gradients):
    _product.blocks_together = 3  # on a multiprocessor: 80 registers a thread are enough for a product alone

SIGNATURES = {
    forward_product: types.void(*_PRODUCT),
    backward_product: types.void(*_PRODUCT),
    add_splits: types.void(*_PRODUCT, INTEGER),
    forward_elements: types.void(*_ELEMENTS),
    backward_elements: types.void(*_ELEMENTS),
    filter_gradients: types.void(PLAN, PLAN, NUMBERS, NUMBERS, INTEGER, INTEGER),
}
