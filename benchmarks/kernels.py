"""Rows for single kernels, on one thread: convolutions and dense layers, pooling, and the update of
each optimizer.

What multiplies is compared with the register tile alone in cache, counting useful multiply-adds,
and dense layers with numpy as well. What only moves numbers is compared with a copy: as many bytes
read and written, within as much memory, so that both are in the same cache.
"""

from collections.abc import Callable

import numpy as np
from floor import useful_multiply_adds
from kernel_calls import DIRECTIONS, IMAGES, copy, lay, update
from kernel_checks import check_pool, check_product
from networks import NETWORKS
from rows import Context, Row, RowFailed, Task
from timing import Contestant, measure, spread

from minicnn import Conv2d, Dense, MaxPool2d, Optimizer
from minicnn.backends.layout import lay_out
from minicnn.kernels.cpu.rules import compile_update
from minicnn.memory import aligned_zeros

_CONVOLUTIONS = {
    "conv 5×5 1→6": ((28, 28, 1), Conv2d(6, 5)),
    "conv 5×5 6→16": ((12, 12, 6), Conv2d(16, 5)),
    "conv 3×3 32→64": ((16, 16, 32), Conv2d(64, 3, padding="same")),
    "conv 3×3 64→64": ((16, 16, 64), Conv2d(64, 3, padding="same")),
}
_DENSE = {"dense 256→120": (256, 120), "dense 3136→128": (3136, 128)}
_POOLS = {"max pool 24×24×6": (24, 24, 6), "max pool 28×28×32": (28, 28, 32)}
_OPTIMIZERS = (
    "sgd",
    "momentum",
    "nesterov",
    "rmsprop",
    "adagrad",
    "adadelta",
    "adam",
    "adamw",
    "nadam",
    "lion",
)
_CALL = 40_000_000  # multiply-adds in one call from Python, beside which its cost does not show
_CALL_NUMBERS = 4_000_000  # numbers read or written in one call from Python


def tasks() -> list[Task]:
    """All rows of single kernels."""
    found = []
    for title, (shape, layer) in _CONVOLUTIONS.items():
        for direction in DIRECTIONS["conv2d"]:
            if shape[2] == 1 and direction == "backward":
                continue  # a first layer needs none
            name = f"{title}, {direction}"
            found.append(
                Task("kernel", name, 1, _product(name, shape, layer, direction), "3×3" in title)
            )
    for title, (inputs, outputs) in _DENSE.items():
        for direction in DIRECTIONS["dense"]:
            name = f"{title}, {direction}"
            found.append(
                Task("kernel", name, 1, _product(name, (1, 1, inputs), Dense(outputs), direction))
            )
    for title, shape in _POOLS.items():
        for direction in DIRECTIONS["max_pool2d"]:
            found.append(
                Task(
                    "kernel",
                    f"{title}, {direction}",
                    1,
                    _pool(f"{title}, {direction}", shape, direction),
                )
            )
    for name in _OPTIMIZERS:
        found.append(
            Task(
                "kernel", f"update {name}, LeNet-5", 1, _optimizer(name, "LeNet-5"), name == "adam"
            )
        )
    found.append(Task("kernel", "update adam, vgg-small", 1, _optimizer("adam", "vgg-small")))
    return found


def _product(
    title: str, shape: tuple[int, int, int], layer: Conv2d | Dense, direction: str
) -> Callable[[Context], Row]:
    def run(context: Context) -> Row:
        laid = lay(shape, layer)
        check_product(title, laid, direction)
        index = next(i for i, other in enumerate(laid.network.layers) if other is layer)
        work = (
            useful_multiply_adds(laid.network, index)
            * IMAGES
            * (2 if direction == "backward" else 1)
        )
        calls = max(1, _CALL // work)
        contestants = [
            Contestant("kernel", lambda: laid.run(direction, calls), work * calls),
            context.tile.contestant(1),
        ]
        if isinstance(layer, Dense):
            in_numpy = _numpy_product(shape[2], layer.units, direction, calls)
            contestants.append(Contestant("numpy", in_numpy, work * calls))
        seconds = measure(contestants, context.effort)
        row = Row(
            "kernel",
            title,
            1,
            share=spread(seconds["tile"] / seconds["kernel"]),
            share_of="register tile",
        )
        if "numpy" in seconds:
            row.faster_than["numpy"] = spread(seconds["numpy"] / seconds["kernel"])
            row.best_peer = "numpy"
        return row

    return run


def _numpy_product(inputs: int, outputs: int, direction: str, calls: int) -> Callable[[], None]:
    """The same product by numpy's BLAS, which `compare.py` keeps to one thread."""
    rng = np.random.default_rng(0)
    sizes = (IMAGES, inputs), (inputs, outputs), (IMAGES, outputs)
    x, w, dy = (rng.standard_normal(size).astype(np.float32) for size in sizes)
    given = {"forward": [(x, w)], "dw": [(x.T, dy)], "backward": [(x.T, dy), (dy, w.T)]}[direction]
    products = [(a, b, np.empty((len(a), b.shape[1]), np.float32)) for a, b in given]

    def call() -> None:
        for _ in range(calls):
            for a, b, out in products:
                np.matmul(a, b, out=out)

    return call


def _pool(title: str, shape: tuple[int, int, int], direction: str) -> Callable[[Context], Row]:
    def run(context: Context) -> Row:
        laid = lay(shape, MaxPool2d(2))
        check_pool(title, laid)
        # Forward reads x and writes y; backward reads x, y, dy and writes dx.
        numbers = laid.image("x").size + laid.image("y").size
        numbers *= 1 if direction == "forward" else 2
        calls = max(1, _CALL_NUMBERS // numbers)
        kernel = Contestant("kernel", lambda: laid.run(direction, calls), numbers * calls)
        return _beside_a_copy(context, title, kernel, numbers)

    return run


def _optimizer(name: str, network: str) -> Callable[[Context], Row]:
    def run(context: Context) -> Row:
        size = NETWORKS[network].flat_size
        optimizer = Optimizer(name, size)
        address = compile_update(optimizer.rule, np.dtype(np.float32)).address
        table = lay_out(NETWORKS[network], 1, True, np.dtype(np.float32)).table
        params, grads = np.random.default_rng(0).standard_normal((2, size)).astype(np.float32)
        scalars, slots = optimizer.scalars()[0], optimizer.slots
        expected = [
            optimizer.rule.update(*map(float, (*values, *scalars)))
            for values in zip(params[:50], grads[:50], *slots[:, :50], strict=True)
        ]
        update(table, address, params, grads, slots, scalars, 1)
        found = np.column_stack([params[:50], *slots[:, :50]])
        if not np.allclose(found, np.array(expected).reshape(found.shape), rtol=1e-5, atol=1e-6):
            raise RowFailed(f"update {name} is not what its rule says")
        numbers = (
            3 + 2 * len(slots)
        ) * size  # parameters and slots are read and written, gradients read
        calls = max(1, _CALL_NUMBERS // numbers)
        arguments = table, address, params, grads, slots, scalars, calls
        kernel = Contestant("kernel", lambda: update(*arguments), numbers * calls)
        return _beside_a_copy(context, f"update {name}, {network}", kernel, (2 + len(slots)) * size)

    return run


def _beside_a_copy(context: Context, title: str, kernel: Contestant, footprint: int) -> Row:
    """The kernel's speed in numbers read or written, as a share of a copy from one half of
    ``footprint`` to the other."""
    source, target = (aligned_zeros(footprint // 2, np.float32) for _ in range(2))
    calls = max(1, _CALL_NUMBERS // footprint)
    plain = Contestant("copy", lambda: copy(source, target, calls), footprint * calls)
    seconds = measure([kernel, plain], context.effort)
    return Row(
        "kernel",
        title,
        1,
        share=spread(seconds["copy"] / seconds["kernel"]),
        share_of="copy of as many bytes",
    )
