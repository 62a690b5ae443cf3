"""Estimators of scikit-learn side by side: `python benchmarks/estimators.py`.

`MiniCNNClassifier`, scikit-learn's `MLPClassifier` and, where they are installed, skorch with PyTorch
learn the same images: the 8×8 digits, and the first 5,000 images of Fashion-MNIST. The network is a
perceptron with 128 hidden units in all three, and LeNet-5 in those that convolve; Adam, learning rate
0.001, batches of 64, 10 epochs, one thread, from the first call of `fit` on (minicnn's compiled code
from the disk cache). Time is that of the processor, the least of three seeds; accuracy their mean.
"""

import environment  # noqa: F401  # isort: skip  # sets variables that the others' imports read
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from minicnn import Dense, Flatten, Network, ReLU, load_dataset, preset
from minicnn.sklearn import MiniCNNClassifier

_EPOCHS, _BATCH, _RATE, _SEEDS = 10, 64, 1e-3, 3


def _sets() -> dict[str, tuple[np.ndarray, ...]]:
    """(training images, test images, training labels, test labels), float32 from 0 to 1."""
    digits, labels = load_digits(return_X_y=True)
    images = (digits.reshape(-1, 8, 8) / 16).astype(np.float32)
    data = load_dataset("fashion-mnist-12k")
    train, test = (
        (part.images[:5000, :, :, 0] / np.float32(255)).astype(np.float32)
        for part in (data.train, data.test)
    )
    return {
        "digits, 1,347 images": tuple(train_test_split(images, labels, random_state=0)),
        "Fashion-MNIST, 5,000 images": (train, test, data.train.labels[:5000], data.test.labels),
    }


def _minicnn(network: Network) -> Callable[[int], Any]:
    return lambda seed: MiniCNNClassifier(
        network,
        image_shape=network.input_shape,
        standardize=False,
        max_iter=_EPOCHS,
        batch_size=_BATCH,
        learning_rate=_RATE,
        random_state=seed,
        threads=1,
    )


def _mlp(seed: int) -> MLPClassifier:
    return MLPClassifier(
        (128,),
        batch_size=_BATCH,
        learning_rate_init=_RATE,
        max_iter=_EPOCHS,
        random_state=seed,
        alpha=0.0,
    )


class _Reshaped:
    """A skorch classifier that takes rows, as the others do."""

    def __init__(self, network: Network, seed: int):
        import torch
        from peers.torch_graph import to_torch
        from skorch import NeuralNetClassifier

        torch.manual_seed(seed)
        torch.set_num_threads(1)
        params = network.initialize(np.random.default_rng(seed))
        self.shape = (-1, network.input_shape[2], *network.input_shape[:2])
        self.made = NeuralNetClassifier(
            to_torch(network, params),
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=_RATE,
            batch_size=_BATCH,
            max_epochs=_EPOCHS,
            train_split=None,
            iterator_train__shuffle=True,
            verbose=0,
        )

    def fit(self, images: np.ndarray, labels: np.ndarray) -> "_Reshaped":
        self.made.fit(images.reshape(self.shape), labels.astype(np.int64))
        return self

    def score(self, images: np.ndarray, labels: np.ndarray) -> float:
        return float(self.made.score(images.reshape(self.shape), labels))


def _rivals(shape: tuple[int, int, int]) -> dict[str, Callable[[int], Any]]:
    """By network and estimator: a function of the seed that makes one."""
    layers = [Flatten(), Dense(128), ReLU(), Dense(10)]
    networks = {"128 hidden units": Network(shape, layers)}
    if shape[0] == 28:
        networks["LeNet-5"] = preset("lenet5", shape, 10)
    found: dict[str, Callable[[int], Any]] = {}
    for name, network in networks.items():
        found[f"{name}: MiniCNNClassifier"] = _minicnn(network)
        if name != "LeNet-5":
            found[f"{name}: MLPClassifier"] = _mlp
        if find_spec("skorch"):
            found[f"{name}: skorch"] = lambda seed, network=network: _Reshaped(network, seed)
    return found


def main() -> None:
    """Measure and print a table for each set."""
    warnings.simplefilter("ignore")  # 10 epochs are not all that MLPClassifier would take
    for title, (train, test, labels, truth) in _sets().items():
        table = Table("", "seconds", "accuracy, %", title=title, title_justify="left")
        rows, tests = train.reshape(len(train), -1), test.reshape(len(test), -1)
        for name, make in _rivals((*train.shape[1:], 1)).items():
            make(0).fit(rows[:200], labels[:200])  # compiles
            seconds, scores = [], []
            for seed in range(_SEEDS):
                estimator, begun = make(seed), time.process_time()
                with threadpool_limits(1):
                    estimator.fit(rows, labels)
                seconds.append(time.process_time() - begun)
                scores.append(100 * estimator.score(tests, truth))
            table.add_row(name, f"{min(seconds):.2f}", f"{np.mean(scores):.1f}")
        Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
