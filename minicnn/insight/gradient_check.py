"""The explicit gradient against numeric partial derivatives.

    ∂C/∂w ≈ (C(w + h) − C(w − h)) / 2h        error = |explicit − numeric| / max(|explicit|, |numeric|, r)

in float64, by the same kernels. Beneath r, rounding in C leaves too few digits of the difference to
compare. Where a ReLU or the loss changes sides, or a max pooling its winner, between w − h and w +
h, C has a kink and the difference is no derivative; and where C bends sharply, as behind batch
normalization of a few numbers, the difference is off by h² / 6 of C's third derivative. There a shorter h
is tried, at which r is larger. Weights with a kink at every h are set aside and counted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minicnn.backends import backend, cpu
from minicnn.evaluation.loss import Loss
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.weights import name as weight_name

# h, in this order: longer ones cross more kinks, shorter ones leave fewer digits
STEPS = 1e-5, 1e-6, 1e-7
TOLERANCE = 1e-5  # largest relative error that passes
# between two devices' float32 gradients, relative to the largest of a tensor
DEVICE_TOLERANCE = 1e-4
# of C, relative: what is left of a difference of two values of C is below it
ROUNDING = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class TensorCheck:
    """How the explicit gradient of a tensor compares: ``checked`` of its ``weights``, and ``kinks``
    more set aside.

    ``error`` is the largest relative error, ``at`` the weight where it is, with its ``explicit``
    and ``numeric`` derivative; all None when every sampled weight was set aside, which passes
    nothing.
    """

    tensor: str
    weights: int
    checked: int
    kinks: int
    error: float | None
    at: str | None
    explicit: float | None
    numeric: float | None
    passed: bool


class Comparison(NamedTuple):
    """A weight's ``numeric`` derivative and its relative ``error``, the ∂y/∂w of every operation
    from the weight's own on, and whether a kink was ``crossed``."""

    error: float
    numeric: float
    movements: list[np.ndarray]
    crossed: bool


class FiniteDifferences:
    """A `BatchLoss` in float64, as training has it, with its explicit and its numeric derivatives.

    Dropout drops the same elements every time.
    """

    def __init__(self, batch_loss: BatchLoss):
        network, loss = batch_loss.network, batch_loss.loss
        self.network, self.labels = network, batch_loss.labels
        weights = loss.class_weights.tolist() if loss.rule.class_weights else None
        names = [hyper.name for hyper in loss.rule.hyperparameters]
        self.loss = Loss(
            loss.rule,
            network.outputs,
            weights,
            np.float64,
            **dict(zip(names, loss.hyperparameters.tolist(), strict=True)),
        )
        self.images, params = batch_loss.images, batch_loss.params.astype(np.float64)
        self.passes = cpu.Passes(network, params, len(self.images), by_operation=True)
        self.plan = self.passes.plan
        self.outputs = self.passes.forward_by_operation(self.images)
        self._work = self.passes.work.copy()
        self.value, self.dlogits = self.loss(self.outputs[-1], self.labels)

    def explicit(self) -> np.ndarray:
        """The gradient [flat_size] by the backward pass, in the fused form that training runs."""
        fused = cpu.Passes(self.network, self.passes.params, len(self.labels))
        fused.forward(self.images)
        return fused.backward(self.dlogits)

    def compare(self, index: int, explicit: float) -> Comparison:
        """The ``explicit`` derivative with respect to params[index] beside the numeric one, by the
        first of `STEPS` that passes, else by the best of those that cross no kink."""
        tried = []
        for step in STEPS:
            numeric, movements, crossed = self.numeric(index, step)
            error = relative_error(explicit, numeric, self.value, step)
            tried.append(Comparison(error, numeric, movements, crossed))
            if not crossed and error <= TOLERANCE:
                break
        return min(tried, key=lambda one: (one.crossed, np.isnan(one.error), one.error))

    def numeric(self, index: int, step: float) -> tuple[float, list[np.ndarray], bool]:
        """(numeric ∂C/∂w, ∂y/∂w of every operation from its own on, whether a kink was crossed) of
        the weight params[index]."""
        params, first = self.passes.params, self.operation_of(index)
        before, sides = params[index], []
        for w in (before + step, before - step):
            params[index] = w
            self.passes.work[:] = self._work
            y = self.passes.forward_by_operation(first=first)
            value, dlogits = self.loss(y[-1], self.labels)
            sides.append((w, value, y, [np.sign(dlogits), *self._kinks(first, y)]))
        params[index] = before
        (upper, value, y, kinks), (lower, other, z, others) = sides
        crossed = any(np.any(a != b) for a, b in zip(kinks, others, strict=True))
        movements = [(a - b) / (upper - lower) for a, b in zip(y, z, strict=True)]
        return float((value - other) / (upper - lower)), movements, crossed

    def operation_of(self, index: int) -> int:
        """Which operation of the plan is the first that reads ``params[index]``."""
        (spec,) = [
            spec
            for spec in self.network.parameters
            if spec.offset <= index < spec.offset + spec.size
        ]
        return next(i for i, node in enumerate(self.plan.nodes) if spec.layer in node.layers)

    def _kinks(self, first: int, outputs: list[np.ndarray]) -> Iterator[np.ndarray]:
        """On which side of its kinks every operation from ``first`` on is."""
        for record, node, y in zip(
            self.plan.table[first:], self.plan.nodes[first:], outputs, strict=True
        ):
            x = self.passes.work[record["x"] :][: len(y) * record["input_size"]]
            if node.row.kinks:
                yield np.digitize(x, node.row.kinks)
            elif node.row.module == "max_pool2d":
                yield _winners(record, x.reshape(len(y), -1), y)


def gradcheck(
    batch_loss: BatchLoss,
    samples: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[TensorCheck]:
    """Check the explicit gradient of every tensor at ``samples`` weights, drawn by ``seed``, or at
    all of a smaller one.

    ``progress`` is called with the weights done and all weights.

    >>> from minicnn import Dense, Flatten, Network
    >>> network, rng = Network((2, 2), [Flatten(), Dense(3)]), np.random.default_rng(0)
    >>> x, labels = rng.random((4, 2, 2, 1)), np.arange(4) % 3
    >>> batch_loss = BatchLoss(network, network.initialize(rng), x, labels, Loss("mse", 3))
    >>> [(check.tensor, check.checked, check.passed) for check in gradcheck(batch_loss)]
    [('dense1.weight', 12, True), ('dense1.bias', 3, True)]
    """
    network, rng = batch_loss.network, np.random.default_rng(seed)
    differences = FiniteDifferences(batch_loss)
    explicit = differences.explicit()
    specs = [spec for spec in network.parameters if spec.kind != "state"]
    drawn = [spec.offset + rng.permutation(spec.size)[:samples] for spec in specs]
    total, done, checks = sum(map(len, drawn)), 0, []
    for spec, indices in zip(specs, drawn, strict=True):
        errors: list[tuple[float, int, float]] = []
        for index in indices.tolist():
            found = differences.compare(index, explicit[index])
            if not found.crossed:
                errors.append((found.error, index, found.numeric))
            done += 1
            progress(done, total)
        counts = spec.name, spec.size, len(errors), len(indices) - len(errors)
        if not errors:
            checks.append(TensorCheck(*counts, None, None, None, None, False))
            continue
        error, at, numeric = max(errors, key=lambda one: (np.isnan(one[0]), one[0]))
        figures = error, weight_name(network, at), float(explicit[at]), numeric
        checks.append(TensorCheck(*counts, *figures, error <= TOLERANCE))
    return checks


def device_gradcheck(batch_loss: BatchLoss, device: str) -> list[TensorCheck]:
    """Compare the gradients of all weights that ``device`` computes in float32, loss included, with
    the CPU's.

    The error is relative to the tensor's largest gradient; in the results ``numeric`` is the CPU's
    figure. Raises `DeviceError` if the device cannot be used.
    """
    network, loss, labels = batch_loss.network, batch_loss.loss, batch_loss.labels
    arrays = loss.one_hot, loss.class_weights, loss.hyperparameters
    gradients = []
    for place in (backend(device), cpu):
        passes = place.Passes(network, batch_loss.params.astype(np.float32), len(labels))
        logits = passes.forward(batch_loss.images.astype(np.float32))
        _, dlogits = place.batch_loss(
            loss.rule, logits.copy(), labels, *(array.astype(np.float32) for array in arrays)
        )
        gradients.append(passes.backward(dlogits / np.float32(loss.divisor(labels))))
    checks = []
    for spec in network.parameters:
        if spec.kind != "state":
            begin, end = spec.offset, spec.offset + spec.size
            on_device, on_cpu = (gradient[begin:end] for gradient in gradients)
            largest = max(float(np.abs(on_cpu).max()), np.finfo(np.float32).tiny)
            errors = np.abs(on_device - on_cpu) / largest
            at = int(errors.argmax())  # the first NaN, if there is one
            error, name = float(errors[at]), weight_name(network, begin + at)
            figures = error, name, float(on_device[at]), float(on_cpu[at])
            checks.append(
                TensorCheck(spec.name, spec.size, spec.size, 0, *figures, error <= DEVICE_TOLERANCE)
            )
    return checks


def relative_error(explicit: float, numeric: float, value: float, step: float) -> float:
    """The error of the explicit derivative of a C of ``value``, as the top of this file has it."""
    resolved = ROUNDING * abs(value) / step / TOLERANCE
    return float(abs(explicit - numeric) / max(abs(explicit), abs(numeric), resolved))


def _winners(record: np.void, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which element of its window each output [N, P, Q, C] is; −1 where the ReLU before the pooling
    makes it 0."""
    H, W, C = (int(record[f"input_{name}"]) for name in ("height", "width", "channels"))
    P, Q = (int(record[f"output_{name}"]) for name in ("height", "width"))
    top, left = int(record["padding_top"]), int(record["padding_left"])
    (R, S), (down, right), (apart, aside) = (
        [int(record[f"{name}_{side}"]) for side in ("height", "width")]
        for name in ("kernel", "stride", "dilation")
    )
    rows, columns = (P - 1) * down + (R - 1) * apart + 1, (Q - 1) * right + (S - 1) * aside + 1
    padded = np.full((len(x), max(rows, top + H), max(columns, left + W), C), -np.inf)
    padded[:, top : top + H, left : left + W] = x.reshape(len(x), H, W, C)
    best = np.full((len(x), P, Q, C), -np.inf)
    winner = np.full(best.shape, -1)
    for i, (r, s) in enumerate(np.ndindex(R, S)):
        candidate = padded[:, r * apart :: down, s * aside :: right][:, :P, :Q]
        winner[candidate > best] = i
        best = np.maximum(best, candidate)
    if record["relu"]:
        winner[y.reshape(best.shape) <= 0] = -1
    return winner
