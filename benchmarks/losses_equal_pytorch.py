"""The losses of the first 50 steps equal PyTorch's: same weights, batches, optimizer and data.

    python benchmarks/losses_equal_pytorch.py [PRESET ...]

LeNet-5 with five optimizers, each taken twice: with forward, loss, backward and update as calls of
their own, and with the fused step that training uses; resnet8, ds-cnn, mobilenet-v1-025 and fast
with momentum, by the fused step with one and two threads.

Training is chaotic: a difference in the last digit grows from step to step, in PyTorch as well, and
jumps where it moves a ReLU or a max pooling to the other side. So each is trained on ten orders of
the images, and the geometric mean of the largest distances so far from PyTorch in float64 must be
at every step at most twice that of PyTorch in float32, or at most 1e-5 in the first ten steps. Exit
status 1 if one is not, or where torch is not installed.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import environment  # noqa: F401  # before Numba
import numpy as np
from networks import images_for
from rich.console import Console
from rich.table import Table

import minicnn
from minicnn.backends import StepInputs
from minicnn.backends.cpu import TrainStep

STEPS, BATCH, ORDERS = 50, 64, 10
FIRST, TOLERANCE, FACTOR = 10, 1e-5, 2.0
# minicnn's name: PyTorch's class, and its arguments as a function of minicnn's hyperparameters.
OPTIMIZERS: dict[str, tuple[str, Callable[[dict[str, float]], dict]]] = {
    "sgd": ("SGD", lambda h: {}),
    "momentum": ("SGD", lambda h: {"momentum": h["momentum"]}),
    "adam": ("Adam", lambda h: {"betas": (h["beta1"], h["beta2"]), "eps": h["epsilon"]}),
    "adamw": ("AdamW", lambda h: {"betas": (h["beta1"], h["beta2"]), "eps": h["epsilon"]}),
    "rmsprop": ("RMSprop", lambda h: {"alpha": h["alpha"], "eps": h["epsilon"]}),
}
PRESETS = {
    "lenet5": ((28, 28, 1), 10),
    "resnet8": ((32, 32, 3), 10),
    "ds-cnn": ((49, 10, 1), 12),
    "mobilenet-v1-025": ((96, 96, 3), 2),
    "fast": ((32, 32, 3), 10),
}


class Job(NamedTuple):
    """One training: whose losses are compared."""

    network: minicnn.Network
    params: np.ndarray  # the first weights, never changed
    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray
    order: np.ndarray  # [STEPS, BATCH]
    optimizer: str


def losses_by_calls(job: Job) -> list[float]:
    """forward, loss, backward, update, written out."""
    params = job.params.copy()
    passes = minicnn.Passes(job.network, params, BATCH)
    loss = minicnn.Loss("cross_entropy", job.network.outputs)
    optimizer = minicnn.Optimizer(job.optimizer, job.network)
    trained = slice(optimizer.size)
    losses = []
    for batch in job.order:
        logits = passes.forward(job.images[batch] * np.float32(1 / 255))
        value, dlogits = loss(logits, job.labels[batch])
        optimizer.update(params[trained], passes.backward(dlogits)[trained])
        losses.append(value)
    return losses


def losses_by_fused_step(job: Job, threads: int | None = None) -> list[float]:
    """The one call a step that `Trainer` makes."""
    loss = minicnn.Loss("cross_entropy", job.network.outputs)
    optimizer = minicnn.Optimizer(job.optimizer, job.network)
    training = TrainStep(job.network, job.params.copy(), BATCH, optimizer.rule, loss.rule, threads)
    rows = job.images.reshape(len(job.images), -1)
    data = loss.data(rows, job.labels, 1 / 255)
    losses = []
    for number, order in enumerate(job.order):
        divisor = loss.divisor(job.labels[order])
        batch = StepInputs(order, divisor, number, optimizer.scalars())
        losses.append(training.step(data, batch, optimizer.slots).loss)
    return losses


def losses_of_pytorch(job: Job, dtype: type) -> list[float]:
    """The same in PyTorch, NCHW, in float32 or float64."""
    import torch
    from peers.layout import to_nchw
    from peers.torch_graph import to_torch

    model = to_torch(job.network, job.params.astype(dtype)).train()
    hyper = minicnn.Optimizer(job.optimizer, 1).hyperparameters
    kind, arguments = OPTIMIZERS[job.optimizer]
    optimizer = getattr(torch.optim, kind)(
        model.parameters(),
        lr=hyper["learning_rate"],
        weight_decay=hyper["weight_decay"],
        **arguments(hyper),
    )
    losses = []
    for batch in job.order:
        optimizer.zero_grad()
        logits = model(torch.from_numpy(to_nchw(job.images[batch]).astype(dtype)))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(job.labels[batch]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Comparison(NamedTuple):
    """How far losses are from those of PyTorch in float64: the largest relative distance of the
    first steps and of all, each the geometric mean over the orders."""

    first: tuple[float, float]  # of minicnn, of PyTorch in float32
    last: tuple[float, float]
    ok: bool


def compare(
    found: list[list[float]], single: list[list[float]], double: list[list[float]]
) -> Comparison:
    """Judge the losses [orders][steps] as the module says, by what PyTorch has in float32 and in
    float64."""
    own, others = (
        np.exp(np.log(np.maximum.accumulate(_distance(losses, double), axis=1)).mean(axis=0))
        for losses in (found, single)
    )
    near = own <= FACTOR * others  # False for NaN
    near[:FIRST] |= own[:FIRST] <= TOLERANCE
    first, last = ((float(own[i]), float(others[i])) for i in (FIRST - 1, -1))
    return Comparison(first, last, bool(near.all()))


def _distance(losses: list[list[float]], double: list[list[float]]) -> np.ndarray:
    """Relative, and at least what float32 resolves."""
    distance = np.abs(np.subtract(losses, double)) / np.array(double)
    return np.maximum(distance, np.finfo(np.float32).eps)


def job_of(name: str, optimizer: str, seed: int) -> Job:
    """The preset's first weights, and batches of its images in the order of ``seed``."""
    shape, outputs = PRESETS[name]
    network = minicnn.preset(name, shape, outputs)
    images, labels = images_for(shape)
    order = np.random.default_rng(seed).permutation(len(images))[: STEPS * BATCH]
    return Job(
        network,
        network.initialize(np.random.default_rng(0)),
        images,
        labels % outputs,
        order.reshape(STEPS, BATCH),
        optimizer,
    )


def main(names: list[str]) -> int:
    """Compare the presets of these names, or all; print the table."""
    if not find_spec("torch"):
        print(
            "PyTorch is not installed here, and this script compares with it: pip install torch",
            file=sys.stderr,
        )
        return 1
    table = Table(title=f"Distance of the losses from those of PyTorch in float64, batch {BATCH}")
    headings = (
        "network",
        "optimizer",
        "minicnn",
        "first loss",
        "last loss",
        f"first {FIRST} steps",
        "PyTorch's",
        f"{STEPS} steps",
        "PyTorch's",
        "ok",
    )
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 3 else "right")
    all_ok = True
    for name in names or PRESETS:
        for optimizer in OPTIMIZERS if name == "lenet5" else ("momentum",):
            jobs = [job_of(name, optimizer, seed) for seed in range(ORDERS)]
            single, double = (
                [losses_of_pytorch(job, dtype) for job in jobs]
                for dtype in (np.float32, np.float64)
            )
            ways = {
                f"{count} threads": partial(losses_by_fused_step, threads=count) for count in (1, 2)
            }
            if name == "lenet5":
                ways = {"four calls": losses_by_calls, "fused step": losses_by_fused_step}
            for way, function in ways.items():
                losses = [function(job) for job in jobs]
                found = compare(losses, single, double)
                all_ok &= found.ok
                table.add_row(
                    name,
                    optimizer,
                    way,
                    f"{losses[0][0]:.6f}",
                    f"{losses[0][-1]:.6f}",
                    *(f"{value:.1e}" for value in (*found.first, *found.last)),
                    "yes" if found.ok else "NO",
                )
    Console(width=130).print(table)
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
