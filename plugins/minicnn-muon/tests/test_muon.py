"""Muon against its equations in NumPy, and through minicnn's conformance kit."""

import numpy as np
import pytest
from minicnn_muon import MUON

import minicnn
from minicnn.testing import check_optimizer


def orthogonal(g):
    """Newton–Schulz in the source's own orientation: the matrix lies on its side."""
    x = g / (np.linalg.norm(g) + 1e-7)
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def muon(tensors, gradients, hidden, rate, momentum, decay, share):
    """The steps of a list of matrices and rows, in float64; ``hidden`` says which are made
    orthogonal."""
    tensors = [tensor.copy() for tensor in tensors]
    memory = [[np.zeros_like(tensor), np.zeros_like(tensor)] for tensor in tensors]
    for t, grads in enumerate(gradients, 1):
        for w, g, kept, inside in zip(tensors, grads, memory, hidden, strict=True):
            if inside:
                kept[0] = momentum * kept[0] + g
                w *= 1 - rate * decay
                w -= (
                    rate
                    * max(1, w.shape[1] / w.shape[0]) ** 0.5
                    * orthogonal(g + momentum * kept[0])
                )
            else:
                kept[0] = 0.9 * kept[0] + 0.1 * g
                kept[1] = 0.95 * kept[1] + 0.05 * g * g
                w *= 1 - share * rate * decay
                w -= (
                    share
                    * rate
                    * (kept[0] / (1 - 0.9**t))
                    / (np.sqrt(kept[1] / (1 - 0.95**t)) + 1e-10)
                )
    return tensors


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ten_steps_follow_the_source(dtype):
    layers = [
        minicnn.Conv2d(4, 3),
        minicnn.ReLU(),
        minicnn.Conv2d(9, 2),
        minicnn.Flatten(),
        minicnn.Dense(70),
        minicnn.Dense(150),
        minicnn.Dense(3),
    ]
    network = minicnn.Network(
        (8, 9, 2), layers
    )  # hidden [16, 9], [270, 70], [70, 150]: tall, and wider than a panel
    hidden = [
        name in ("conv2.weight", "dense1.weight", "dense2.weight")
        for name in network.unflatten(np.zeros(network.flat_size))
    ]
    rng = np.random.default_rng(0)
    params = network.initialize(rng, dtype)
    optimizer = minicnn.Optimizer(MUON, network, dtype, weight_decay=0.1, learning_rate=0.03)

    def matrices(flat):
        return [
            tensor.reshape(-1, tensor.shape[-1]).astype(np.float64)
            for tensor in network.unflatten(flat).values()
        ]

    start, gradients = matrices(params), rng.normal(size=(10, network.flat_size)).astype(dtype)
    for g in gradients:
        optimizer.update(params, g)
    expected = muon(start, [matrices(g) for g in gradients], hidden, 0.03, 0.95, 0.1, 0.015)
    for found, wanted in zip(matrices(params), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9 if dtype == np.float64 else 2e-4)


def test_a_step_has_singular_values_around_one():
    rng = np.random.default_rng(1)
    layers = [minicnn.Flatten(), minicnn.Dense(20), minicnn.Dense(30, bias=False), minicnn.Dense(2)]
    network = minicnn.Network((4, 5), layers)
    optimizer = minicnn.Optimizer(MUON, network, np.float64, learning_rate=1.0)
    flat = np.zeros(network.flat_size)
    optimizer.update(flat, rng.normal(size=network.flat_size))
    params = network.unflatten(flat)["dense2.weight"]
    values = np.linalg.svd(params / np.sqrt(1.5), compute_uv=False)
    assert 0.5 < values.min() and values.max() < 1.3


def test_it_passes_the_conformance_kit():
    assert [check for check in check_optimizer(MUON) if not check.passed] == []
