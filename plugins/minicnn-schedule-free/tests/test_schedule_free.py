"""Schedule-free AdamW against its equations in NumPy, and through minicnn's conformance kit."""

import numpy as np
from minicnn_schedule_free import SCHEDULE_FREE

import minicnn
from minicnn.testing import check_optimizer


def schedule_free(start, gradient, rates, beta1, beta2, epsilon, decay):
    """(y, x) after the steps of algorithm 1, in float64."""
    z, x, v, squares = start.copy(), start.copy(), np.zeros_like(start), 0.0
    for t, rate in enumerate(rates, 1):
        y = (1 - beta1) * z + beta1 * x
        g = gradient(y)
        v = beta2 * v + (1 - beta2) * g * g
        step = rate * np.sqrt(1 - beta2**t)
        z = z - step * g / (np.sqrt(v) + epsilon) - step * decay * y
        squares += step**2
        c = step**2 / squares
        x = (1 - c) * x + c * z
    return (1 - beta1) * z + beta1 * x, x


def test_thirty_steps_follow_the_paper():
    rates = [0.02 * min(1, t / 5) for t in range(1, 31)]
    start = np.random.default_rng(0).normal(size=20)
    y, x = schedule_free(start, np.sin, rates, 0.8, 0.95, 1e-3, 0.1)
    optimizer = minicnn.Optimizer(
        SCHEDULE_FREE, 20, np.float64, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.1
    )
    params, evaluated = start.copy(), np.empty(20)
    for rate in rates:
        optimizer.update(params, lambda p: (0.0, np.sin(p)), learning_rate=rate)
    optimizer.evaluation(params, evaluated)
    np.testing.assert_allclose(params, y, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(evaluated, x, rtol=1e-9, atol=1e-12)
    assert np.abs(x - y).max() > 1e-3


def test_the_model_has_the_average_and_not_the_weights_that_are_trained():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (200, 4, 4), dtype=np.uint8), rng.integers(0, 3, 200)
    network = minicnn.Network((4, 4), [minicnn.Flatten(), minicnn.Dense(3)])
    trainer = minicnn.Trainer(network, optimizer=SCHEDULE_FREE, epochs=1, val_split=0.0)
    trainer.fit(images, labels)
    (average,) = (
        row
        for name, row in zip(["z", "x", "v"], trainer.progress.slots, strict=True)
        if name == "x"
    )
    np.testing.assert_array_equal(trainer.model.params, average)
    assert (trainer.model.params != trainer.progress.params).any()


def test_it_passes_the_conformance_kit():
    assert [check for check in check_optimizer(SCHEDULE_FREE) if not check.passed] == []
