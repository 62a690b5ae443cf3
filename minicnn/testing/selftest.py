"""Does a device compute here what it should, and how fast? Every kernel against the CPU's in
float64, a training, times."""

import functools
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from minicnn.backends import StepInputs, StepOptions, backend, cpu
from minicnn.data import Dataset, Split, load_dataset
from minicnn.data.augment import Augment
from minicnn.errors import SettingError
from minicnn.evaluation.loss import Loss
from minicnn.network.activations import (
    GELU,
    LeakyReLU,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from minicnn.network.blocks import Branches
from minicnn.network.layer import Layer
from minicnn.network.layers import (
    Add,
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool2d,
    Multiply,
)
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm
from minicnn.network.presets import preset
from minicnn.network.tables import layer
from minicnn.plugins import entries, find
from minicnn.rules import AnyLayer, AnyOptimizer, LossRule, StepRule
from minicnn.testing.checks import Check, CheckFailed, Checks, CheckSkipped, close, run_checks
from minicnn.training.optimizer import Optimizer
from minicnn.training.trainer import Trainer

_TOLERANCE = 1e-5  # of float32 against float64, relative to the largest number
_SAMPLES = 3

NETWORKS: dict[str, tuple[tuple[int, ...], list[Layer | Branches]]] = {
    "convolution, dense": (
        (7, 6, 2),
        [Conv2d(5, 3, padding=1), Conv2d(3, (2, 3), stride=(2, 1)), Flatten(), Dense(4)],
    ),
    "dilated convolution, max pooling": (
        (9, 8, 1),
        [Conv2d(4, 3, dilation=2, padding=1), ReLU(), MaxPool2d(2), Flatten(), Dense(3)],
    ),
    "overlapping max and average pooling": (
        (7, 7, 3),
        [
            *(Conv2d(3, 1), MaxPool2d(3, stride=2, padding=1), AvgPool2d(2, stride=1)),
            *(Flatten(), Dense(2)),
        ],
    ),
    "global average pooling, dropout": (
        (5, 5, 2),
        [Conv2d(4, 2), SiLU(), Dropout(0.4), GlobalAvgPool2d(), Dense(3)],
    ),
    "activations": (
        (1, 5, 1),
        [
            *(Flatten(), Dense(6), Sigmoid(), Dense(6), Tanh(), Dense(6), GELU()),
            *(Dense(6), LeakyReLU(0.1), Dense(2)),
        ],
    ),
    "normalization": (
        (5, 4, 2),
        [
            *(Conv2d(4, 2), BatchNorm2d(), Conv2d(4, 1), GroupNorm(2), PReLU(), Flatten()),
            *(Dense(6), LayerNorm(), Dropout(0.4), Dense(3)),
        ],
    ),
    "convolutions in groups, joins": (
        (5, 4, 4),
        [
            Conv2d(6, 3, padding=1, groups=2),
            Conv2d(6, 3, padding="same", groups=6, name="a"),
            Branches([MaxPool2d(3, 1, 1)], [Conv2d(2, 1)]),
            Conv2d(6, 1, name="b"),
            GlobalAvgPool2d(name="gate"),
            Multiply(inputs=("a", "gate")),
            Add(inputs=("multiply1", "b")),
            *(GlobalMaxPool2d(), Softmax()),
        ],
    ),
    # On CUDA, blocks share sums that are so long, forward and backward.
    "long sums": ((1, 2, 1), [Flatten(), Dense(3), Dense(520), Dense(2)]),
}


def selftest(device: str, model: str = "lenet5", images: int = 10_000) -> Iterator[Check]:
    """Every check of ``device`` as it is done; ``model`` is trained on ``images`` of the embedded
    data, if there are any.

    Raises `DeviceError` if the device cannot be used.
    """
    tested = backend(device)
    checks: Checks = {
        f"passes: {name}": partial(_passes, tested, Network(*parts))
        for name, parts in NETWORKS.items()
    }
    equal: dict[str, Any] = {"loss": loss_equals, "layer": layer_equals, "optimizer": updates_equal}
    for entry in entries():
        if entry.distribution == "minicnn-numba" and entry.kind in equal:
            check = partial(equal[entry.kind], tested, entry.get())
            checks[f"{entry.kind}: {entry.name}"] = check
    checks |= {
        "operations on vectors and matrices": partial(updates_equal, tested, ALL_OPERATIONS),
        "vectors": partial(_vectors, tested),
        "a step, clipped": partial(_clipped, tested),
        "a step with frozen statistics": partial(_clipped, tested, frozen=True),
    }
    train = functools.cache(partial(_train, model, _data(images) if images else None))
    checks |= {
        f"training of {model}": partial(_learns, train, device),
        "the same training again": partial(_repeats, train, device),
        "times": partial(_times, train, device),
    }
    yield from run_checks(checks)


def environment(device: str) -> dict[str, Any]:
    """What a report says about the machine."""
    about: dict[str, Any] = {
        "device": device,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    for name in ("minicnn-numba", "numba", "numba-cuda", "cuda-toolkit", "numpy"):
        try:
            about[name] = version(name)
        except PackageNotFoundError:
            about[name] = None
    return about | backend(device).describe()


def _random(network: Network, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(parameters with biases, images, dlogits), numbers of float32."""
    rng, params = np.random.default_rng(seed), np.zeros(network.flat_size, np.float32)
    for name, tensor in network.unflatten(params).items():
        tensor[:] = rng.normal(size=tensor.shape) / math.sqrt(math.prod(tensor.shape[:-1]))
        if name.endswith("running_var"):
            tensor[:] = 0.5 + np.abs(tensor)
    x = rng.normal(size=(_SAMPLES, *network.input_shape)).astype(np.float32)
    return params, x, rng.normal(size=(_SAMPLES, network.outputs)).astype(np.float32)


def _passes(tested: Any, network: Network) -> str:
    params, x, dlogits = _random(network)
    reference = cpu.Passes(network, params.astype(np.float64), _SAMPLES)
    passes = tested.Passes(network, params, _SAMPLES)
    close("logits", passes.forward(x, 7), reference.forward(x, 7), _TOLERANCE)
    computed, expected = (
        module.Inference(network, params.astype(number)).logits(x.astype(number), 1.0)
        for module, number in ((tested, np.float32), (cpu, np.float64))
    )
    close("logits in inference", computed, expected, _TOLERANCE)
    computed, expected = (one.backward(dlogits, 7) for one in (passes, reference))
    return close("gradient", computed, expected, _TOLERANCE)


def loss_equals(tested: Any, rule: LossRule, dtype: Any = np.float64) -> str:
    """Whether a loss is what it is on the CPU in ``dtype``."""
    logits = 3 * np.random.default_rng(1).normal(size=(_SAMPLES, 5)).astype(np.float32)
    weights, labels = (0.5, 1, 0.7, 2, 1.5) if rule.class_weights else None, np.arange(_SAMPLES)

    def rows(module: Any, number: Any) -> tuple[float, np.ndarray]:
        loss = Loss(rule, 5, weights, number)
        arrays = loss.one_hot, loss.class_weights, loss.hyperparameters
        found: tuple[float, np.ndarray] = module.batch_loss(
            rule, logits.astype(number), labels, *arrays
        )
        return found

    (value, gradient), (expected, expected_gradient) = rows(tested, np.float32), rows(cpu, dtype)
    close("gradient", gradient, expected_gradient, _TOLERANCE)
    return close("loss", value, expected, _TOLERANCE)


def layer_equals(tested: Any, rule: AnyLayer, dtype: Any = np.float64) -> str:
    """Whether a layer is what it is on the CPU."""
    network = Network((1, 5, 1), [Flatten(), Dense(6), layer(rule), Dense(2)])
    return _passes(tested, network)


def updates_equal(tested: Any, rule: AnyOptimizer, dtype: Any = np.float64) -> str:
    """Whether three updates of some matrices and rows, and of the slots, are what they are on the
    CPU in ``dtype``."""
    network, results = Network((2, 4, 1), [Flatten(), Dense(5), Dense(3), Dense(2)]), []
    start, *gradients = (_random(network, seed)[0] for seed in range(4))
    for module, number in ((cpu, dtype), (tested, np.float32)):
        optimizer = Optimizer(rule, network, number, module.__name__.rpartition(".")[2])
        params = start.astype(number)
        on_device = module.to_device(params)
        optimizer.compile()
        for grads in gradients:
            optimizer.update(
                on_device, partial(_same_everywhere, module.to_device(grads.astype(number)))
            )
        module.to_host(on_device, params)
        optimizer.fetch()
        results.append(np.append(params, optimizer.slots))
    return close("weights and slots after 3 updates", results[1], results[0], _TOLERANCE)


def _same_everywhere(grads: Any, params: Any) -> tuple[float, Any]:
    return 0.5, grads


def _all_operations(s):
    s.gradient()
    weight = s.tensors[0]
    w, g, product = (s.matrix(x, weight) for x in (s.params, s.grads, s.scratch["product"]))
    square = s.matrix(s.scratch["square"], weight, (w.shape[1], w.shape[1]))
    s.matmul(g, w, square, transpose_a=True)
    s.matmul(w, square, product, transpose_b=True)
    s.axpy(-0.1 * s.dot(w, product) / (1.0 + s.norm(product) * s.norm(w)), product, w)
    s.scale(0.9, s.params)
    s.axpy(-0.1, s.grads, s.params)


ALL_OPERATIONS = StepRule("selftest", _all_operations, (), scratch=("product", "square"))


def _vectors(tested: Any) -> str:
    x, y = np.random.default_rng(3).normal(size=(2, 1000)).astype(np.float32)
    one, other = tested.to_device(x.copy()), tested.to_device(y.copy())
    tested.axpy(0.5, one, other)
    tested.copy(other, one)
    found = _fetched(tested, one, len(y))
    close("a x + y", found, 0.5 * x.astype(np.float64) + y, _TOLERANCE)
    return close("norm", tested.norm(other), np.linalg.norm(found.astype(np.float64)), _TOLERANCE)


def _fetched(module: Any, vector: Any, size: int) -> np.ndarray:
    """The vector that a backend has, in the memory of the host."""
    found = vector if module is cpu else np.empty(size, np.float32)
    module.to_host(vector, found)
    return found


def _clipped(tested: Any, frozen: bool = False) -> str:
    """Two steps whose update is made apart, as that of a rule on whole steps is, of augmented and
    normalized images: of float32 where ``frozen``, else uint8."""
    network, rule = Network(*NETWORKS["normalization"]), find("loss", "cross_entropy")
    loss, none, results = Loss(rule, network.outputs), np.zeros((0, 1), np.float32), []
    images = np.random.default_rng(4).integers(0, 256, (_SAMPLES, 40), np.uint8)
    images, numbers = images.astype(np.float32 if frozen else np.uint8), np.arange(_SAMPLES)
    views = Augment(crop=1, flip=True).draw(0, 1, images.reshape(-1, *network.input_shape))
    scale = np.outer([1 / 64, -2], np.linspace(0.9, 1.1, network.input_shape[2]))
    for module in (cpu, tested):
        given = network, _random(network)[0], _SAMPLES, ALL_OPERATIONS, rule
        training = module.TrainStep(*given, None, StepOptions(0.5, 0.1, frozen=frozen))
        data = loss.data(images, numbers % 2, scale.astype(np.float32))
        batch, slots = StepInputs(numbers, _SAMPLES, 7, none), module.to_device(none)
        training.step(data, batch._replace(views=views), slots)
        result = training.step(data, batch, slots)
        vectors = training.params, training.grads
        fetched = (_fetched(module, vector, network.flat_size) for vector in vectors)
        results.append((result, *fetched))
    for what, expected, found in zip(
        ("loss, right answers, norm", "running statistics", "clipped gradient"),
        *results,
        strict=True,
    ):
        summary = close(what, found, expected, _TOLERANCE)
    return summary


def _data(images: int) -> Dataset:
    """``images`` to train and a fifth as many, at least 10, to test, of all classes."""
    whole = load_dataset("fashion-mnist-12k")
    if images < (least := 2 * len(whole.classes)):
        raise SettingError(
            f"--images must be 0, or {least} at least, two of each class, not {images}"
        )

    def some(split: Any, count: int) -> Split:
        by_class = np.argsort(split.labels, kind="stable")
        chosen = np.sort(by_class[:: max(1, len(split) // count)][:count])
        return Split(split.images[chosen], split.labels[chosen])

    return replace(
        whole, train=some(whole.train, images), test=some(whole.test, max(10, images // 5))
    )


def _train(
    model: str, data: Dataset | None, device: str, repetition: int
) -> tuple[Trainer, Any, Dataset]:
    """(trainer, history, data) of an epoch of Adam, the first or the second time."""
    if data is None:
        raise CheckSkipped("no training was asked for")
    trainer = Trainer(preset(model, data.image_shape, 10), epochs=1, device=device, val_split=0.0)
    return trainer, trainer.fit(data), data


def _learns(train: Any, device: str) -> str:
    """Training ends where it ends in float32 on the CPU; with enough images, well above chance."""
    (_, reference, data), (_, history, _) = train("cpu", 0), train(device, 0)
    found, expected = (one.epochs[0].train_loss for one in (history, reference))
    accuracy, expected_accuracy = (one.ended.test.accuracy for one in (history, reference))
    # Rounding in another order grows with every step; it stays below a hundredth of the loss.
    close("training loss", found, expected, 1e-2)
    summary = f"loss {found:.4f} (cpu {expected:.4f}), test accuracy {accuracy:.3f} (cpu {expected_accuracy:.3f})"
    if len(data.train) >= 5000 and accuracy < 0.6:
        raise CheckFailed(summary)
    return summary


def _repeats(train: Any, device: str) -> str:
    if len({train(device, repetition)[0].model.params.tobytes() for repetition in (0, 1)}) > 1:
        raise CheckFailed("the weights differ: something depends on the order in which threads ran")
    return "bitwise equal weights"


def _times(train: Any, device: str) -> str:
    """Microseconds a step, data included: the faster of two epochs."""
    seconds = min(train(device, repetition)[1].epochs[0].seconds for repetition in (0, 1))
    steps = train(device, 0)[0].progress.counters.optimizer_step
    return f"{seconds / steps * 1e6:,.0f} µs a step of 64 images"
