"""Numbers below the smallest normal one, with which processors are slow, while a step is taken."""

import platform

import numpy as np
import pytest

from minicnn import Dense, Flatten, Loss, Network, Optimizer
from minicnn.backends import StepInputs
from minicnn.backends.cpu import TrainStep


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="nothing changes there"
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_has_zeros_in_their_place_and_the_caller_keeps_them(threads):
    network, rng = (
        Network((16, 16, 16), [Flatten(), Dense(16, bias=False)]),
        np.random.default_rng(0),
    )
    images = rng.uniform(1e-19, 2e-19, size=(32, network.input_shape[0] ** 3)).astype(np.float32)
    labels = np.arange(32) % 16
    loss, optimizer = Loss("cross_entropy", 16), Optimizer("adam", network)
    rules = optimizer.rule, loss.rule
    training = TrainStep(network, network.initialize(rng), 32, *rules, threads)
    batch = StepInputs(np.arange(32), loss.divisor(labels), 0, optimizer.scalars())
    training.step(loss.data(images, labels, 1.0), batch, optimizer.slots)
    first, second = np.abs(optimizer.slots)
    assert first.max() > 0
    assert second.max() == 0, "squares of gradients of 1e-20"
    assert np.float32(1.5e-39) * np.float32(0.5) != 0
