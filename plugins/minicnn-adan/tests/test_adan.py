"""Adan against its equations in NumPy, and through minicnn's conformance kit."""

import numpy as np
from minicnn_adan import ADAN

import minicnn
from minicnn.testing import check_optimizer


def adan(w, gradients, rate, b1, b2, b3, epsilon, decay):
    """The paper's algorithm with the bias corrections of its code, in float64."""
    m, v, n, previous = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), gradients[0]
    for t, g in enumerate(gradients, 1):
        d = g - previous
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * (g + b2 * d) ** 2
        step = (m / (1 - b1**t) + b2 * v / (1 - b2**t)) / (np.sqrt(n / (1 - b3**t)) + epsilon)
        w = (w - rate * step) / (1 + rate * decay)
        previous = g
    return w


def test_forty_steps_follow_the_paper():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=30), rng.normal(0.3, 1.0, (40, 30))
    optimizer = minicnn.Optimizer(
        ADAN,
        30,
        np.float64,
        learning_rate=0.02,
        beta1=0.9,
        beta2=0.8,
        beta3=0.95,
        epsilon=1e-3,
        weight_decay=0.1,
    )
    params = start.copy()
    for g in gradients:
        optimizer.update(params, g)
    np.testing.assert_allclose(
        params, adan(start, gradients, 0.02, 0.9, 0.8, 0.95, 1e-3, 0.1), rtol=1e-10, atol=1e-12
    )


def test_it_passes_the_conformance_kit():
    assert [check for check in check_optimizer(ADAN) if not check.passed] == []
