"""What the machine could do: the speed of the register tile alone in cache, and the multiply-adds
that are useful.

The floor of a row is the time of its useful multiply-adds at the tile's own speed on as many
threads, measured in the same repetitions. Useful are the products with pixels that exist (padding
is not counted) of the convolutions and dense layers: one pass for inference; for training forward,
the slopes of the weights, and, but for the first of these layers, the slopes of the input.
"""

import numba
import numpy as np
from numba import njit, prange
from timing import Contestant, Effort, measure

from minicnn import Conv2d, Dense, Network
from minicnn.kernels.cpu.passes import PLAN_RECORD
from minicnn.kernels.cpu.tile import ENTRY, Rows, Scalars, Vectors, multiply, multiply_address

_INNER = 128  # steps of the inner loop
# how often the outer loop repeats the same, so that beginning and ending a block does not count
_AGAIN = 16
# multiply-adds a thread in one call, beside which the cost of waking it does not show
_CALL = 30_000_000
_CACHE = 24_000  # bytes of A and B: three quarters of the smallest first-level cache


@njit(cache=True, parallel=True, **ENTRY)
def _products(plan, rows, columns, repeat, a, b, c):
    """``repeat`` times C = _AGAIN · A·B on each of len(a) threads."""
    address = plan[0].multiply
    for thread in prange(len(a)):
        for _ in range(repeat):
            out = c[thread]
            multiply(
                address,
                (rows, columns, _AGAIN, _INNER),
                Scalars(a[thread], 0, _INNER, 0, 1),
                Vectors(b[thread], 0, 0, columns),
                Rows(out, -1, 0),
                Rows(out, 0, columns),
            )


def _contestant(threads: int, rows: int, columns: int) -> Contestant:
    plan = np.zeros(
        1, PLAN_RECORD
    )  # its dtype names the kernels' digest, so that the cache sees when they change
    plan["multiply"] = multiply_address(np.float32)
    rng = np.random.default_rng(0)
    # 16 more elements a thread keep two threads' numbers out of one cache line.
    a, b, c = (
        rng.standard_normal((threads, size + 16)).astype(np.float32)
        for size in (rows * _INNER, _INNER * columns, rows * columns)
    )
    repeat = max(1, _CALL // (rows * columns * _INNER * _AGAIN))

    def call() -> None:
        numba.set_num_threads(threads)
        _products(plan, rows, columns, repeat, a, b, c)

    call()
    product = (
        _AGAIN
        * a[-1, : rows * _INNER].reshape(rows, -1)
        @ b[-1, : _INNER * columns].reshape(-1, columns)
    )
    np.testing.assert_allclose(
        c[-1, : rows * columns].reshape(rows, columns), product, rtol=1e-3, atol=1e-2
    )
    return Contestant("tile", call, rows * columns * _INNER * _AGAIN * repeat * threads)


class Tile:
    """The fastest of a few blocks, chosen once, as a contestant whose unit is a multiply-add."""

    def __init__(self) -> None:
        shapes = [
            (rows, columns)
            for rows in (4, 6, 8, 12, 14, 24)
            for columns in (8, 16, 32, 48)
            if 4 * _INNER * (rows + columns) <= _CACHE
        ]
        quick = Effort(repetitions=3, turn=0.004)
        seconds = {
            shape: measure([_contestant(1, *shape)], quick)["tile"].min() for shape in shapes
        }
        self.shape = min(seconds, key=seconds.__getitem__)

    def contestant(self, threads: int) -> Contestant:
        """The tile at work on ``threads`` threads at once, each on its own block."""
        return _contestant(threads, *self.shape)


def _taps_inside(
    outputs: int, length: int, taps: int, stride: int, dilation: int, padding: int
) -> int:
    """Over all outputs of one dimension, how many filter taps read an element that exists."""
    return sum(
        0 <= position * stride + tap * dilation - padding < length
        for position in range(outputs)
        for tap in range(taps)
    )


def useful_multiply_adds(network: Network, index: int) -> int:
    """Products of one pass through layer ``index`` for one image that do not read padding."""
    layer, shape, output = network.layers[index], network.shapes[index], network.shapes[index + 1]
    if isinstance(layer, Dense):
        return shape[0] * output[0]
    if not isinstance(layer, Conv2d):
        return 0
    top, _, left, _ = layer.resolved_padding(shape)
    along = [
        _taps_inside(
            output[i], shape[i], layer.kernel_size[i], layer.stride[i], layer.dilation[i], padding
        )
        for i, padding in enumerate((top, left))
    ]
    return along[0] * along[1] * shape[2] // layer.groups * output[2]


def inference_work(network: Network) -> int:
    """Useful multiply-adds of the forward pass on one image."""
    return sum(useful_multiply_adds(network, index) for index in range(len(network.layers)))


def training_work(network: Network) -> int:
    """Useful multiply-adds of a training step, per image."""
    by_layer = [
        work
        for index in range(len(network.layers))
        if (work := useful_multiply_adds(network, index))
    ]
    return 3 * sum(by_layer) - by_layer[0]
