"""The losses of the first 20 steps of LeNet-5 equal PyTorch's: same weights, batches, optimizer and data.

    python benchmarks/losses_equal_pytorch.py

minicnn takes every step twice: with forward, loss, backward and update as calls of their own, and with the fused step
that training uses. Exit status 1 if a loss differs by more than a relative 1e-4, or where torch is not installed.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from rich.console import Console
from rich.table import Table

import minicnn
from minicnn.backends.cpu import Training

STEPS, BATCH, TOLERANCE = 20, 64, 1e-4
# minicnn's name: PyTorch's class, and its arguments as a function of minicnn's hyperparameters.
OPTIMIZERS: dict[str, tuple[str, Callable[[dict[str, float]], dict]]] = {
    "sgd": ("SGD", lambda h: {}),
    "momentum": ("SGD", lambda h: {"momentum": h["momentum"]}),
    "adam": ("Adam", lambda h: {"betas": (h["beta1"], h["beta2"]), "eps": h["epsilon"]}),
    "adamw": ("AdamW", lambda h: {"betas": (h["beta1"], h["beta2"]), "eps": h["epsilon"]}),
    "rmsprop": ("RMSprop", lambda h: {"alpha": h["alpha"], "eps": h["epsilon"]}),
}


def losses_by_calls(network: minicnn.Network, params: np.ndarray, images: np.ndarray, labels: np.ndarray,
                    order: np.ndarray, name: str) -> list[float]:  # fmt: skip
    """forward, loss, backward, update, written out."""
    passes = minicnn.Passes(network, params, BATCH)
    loss = minicnn.Loss("cross_entropy", network.outputs)
    optimizer = minicnn.Optimizer(name, network.flat_size)
    losses = []
    for batch in order:
        logits = passes.forward(images[batch] * np.float32(1 / 255))
        value, dlogits = loss(logits, labels[batch])
        optimizer.update(params, passes.backward(dlogits))
        losses.append(value)
    return losses


def losses_by_fused_step(network: minicnn.Network, params: np.ndarray, images: np.ndarray, labels: np.ndarray,
                         order: np.ndarray, name: str) -> list[float]:  # fmt: skip
    """The one call a step that `Trainer` makes."""
    loss = minicnn.Loss("cross_entropy", network.outputs)
    optimizer = minicnn.Optimizer(name, network.flat_size)
    training = Training(network, params, BATCH, optimizer.rule, loss.rule)
    rows = images.reshape(len(images), -1)
    return [
        training.step(rows, labels, batch, 1 / 255, loss.one_hot, loss.class_weights, loss.hyperparameters,
                      loss.divisor(labels[batch]), number, optimizer.slots, optimizer.scalars()).loss
        for number, batch in enumerate(order)
    ]  # fmt: skip


def losses_of_pytorch(network: minicnn.Network, params: np.ndarray, images: np.ndarray, labels: np.ndarray,
                      order: np.ndarray, name: str) -> list[float]:  # fmt: skip
    """The same in PyTorch, NCHW."""
    import torch
    from peers.layout import to_nchw
    from peers.with_torch import to_torch

    model = to_torch(network, params)
    hyper = minicnn.Optimizer(name, 1).hyperparameters
    kind, arguments = OPTIMIZERS[name]
    optimizer = getattr(torch.optim, kind)(
        model.parameters(), lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"], **arguments(hyper)
    )
    losses = []
    for batch in order:
        optimizer.zero_grad()
        logits = model(torch.from_numpy(to_nchw(images[batch])))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> int:
    """Compare every optimizer both ways; print the table."""
    if not find_spec("torch"):
        print("PyTorch is not installed here, and this script compares with it: pip install torch", file=sys.stderr)
        return 1
    data = minicnn.load_dataset("fashion-mnist-12k").train
    network = minicnn.preset("lenet5", (28, 28, 1), 10)
    order = np.random.default_rng(1).permutation(len(data))[: STEPS * BATCH].reshape(STEPS, BATCH)
    table = Table(title=f"LeNet-5, losses of the first {STEPS} steps, batch {BATCH}, against PyTorch")
    for heading in ("optimizer", "minicnn", "first loss", "last loss", "largest relative difference", "ok"):
        table.add_column(heading, justify="left" if heading in ("optimizer", "minicnn") else "right")
    all_ok = True
    for name in OPTIMIZERS:
        weights = network.initialize(np.random.default_rng(0))
        expected = np.array(losses_of_pytorch(network, weights, data.images, data.labels, order, name))
        for way, function in (("four calls", losses_by_calls), ("fused step", losses_by_fused_step)):
            losses = np.array(function(network, weights.copy(), data.images, data.labels, order, name))
            worst = float(np.max(np.abs(losses - expected) / np.abs(expected)))
            ok = worst <= TOLERANCE  # False for not-a-number
            all_ok &= ok
            table.add_row(name, way, f"{losses[0]:.6f}", f"{losses[-1]:.6f}", f"{worst:.1e}", "yes" if ok else "NO")
    Console().print(table)
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main())
