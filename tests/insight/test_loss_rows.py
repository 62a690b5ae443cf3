"""The loss along a line of weights, computed by shared work, against the oracle's forward pass at
every point."""

import numpy as np
import pytest

from minicnn.backends.surface import LossRows, first_layer
from minicnn.insight.weights import parse
from minicnn.network.activations import ReLU, Tanh
from minicnn.network.layers import (
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
)
from minicnn.network.network import Network
from minicnn.training.loss import Loss
from tests.networks import oracle_steps, oracle_tensors, random_params
from tests.reference import losses as reference
from tests.reference import network as oracle

CONVOLUTIONAL = Network(
    (9, 7, 2),
    [
        Conv2d(5, 3, padding=1),
        ReLU(),
        MaxPool2d(2),
        Dropout(0.5),
        Conv2d(6, (2, 1), stride=(1, 2)),
        Tanh(),
        AvgPool2d((2, 1)),
        Flatten(),
        Dense(7),
        Tanh(),
        Dense(4),
    ],
)
POOLED = Network(
    (6, 5), [Conv2d(4, 3, dilation=2, padding=2), ReLU(), Conv2d(4, 3), GlobalAvgPool2d()]
)
LINEAR = Network((3, 4), [Flatten(), Dense(3)])
COORDINATES = np.array([-1.5, 0.0, 0.3, 2.0])
# The names of weights that change, or a scale of random changes everywhere.
CASES = [
    (CONVOLUTIONAL, ["conv1.weight[0,1,1,4]"]),
    (CONVOLUTIONAL, ["conv1.weight[2,2,0,1]", "conv1.bias[3]"]),
    (CONVOLUTIONAL, ["conv1.bias[0]"]),
    (CONVOLUTIONAL, ["conv1.weight[0,0,0,0]", "dense2.weight[1,1]"]),
    (CONVOLUTIONAL, ["conv2.weight[1,0,4,5]"]),
    (CONVOLUTIONAL, ["dense1.weight[3,6]"]),
    (CONVOLUTIONAL, ["dense1.bias[2]"]),
    (CONVOLUTIONAL, ["dense2.weight[6,3]"]),
    (CONVOLUTIONAL, 0.3),
    (POOLED, ["conv1.weight[1,2,0,3]"]),
    (POOLED, ["conv2.weight[1,2,3,3]"]),
    (LINEAR, ["dense1.weight[5,1]"]),
    (LINEAR, 1.0),
]


def direction_of(network, changes):
    direction = np.zeros(network.flat_size, np.float32)
    if isinstance(changes, float):
        return (changes * random_params(network, np.random.default_rng(5))).astype(np.float32)
    for text in changes:
        direction[parse(network, text)] = 1
    return direction


def expected(network, params, x, labels):
    """The oracle's summed cross-entropy, in float64."""
    network = Network(
        network.input_shape, [layer for layer in network.layers if not isinstance(layer, Dropout)]
    )
    logits = oracle.forward(oracle_steps(network), x, oracle_tensors(network, params))[-1]
    return len(x) * reference.cross_entropy(logits, labels)


def rows_and_data(network, direction, images, threads=None):
    rng = np.random.default_rng(1)
    x = rng.random((images, *network.input_shape), np.float32)
    labels = rng.integers(0, network.outputs, images)
    loss = Loss("cross_entropy", network.outputs)
    given = loss.rule, loss.one_hot, loss.class_weights, loss.hyperparameters
    rows = LossRows(network, direction, x, labels, *given, threads)
    return rows, x, labels


@pytest.mark.parametrize(("network", "changes"), CASES)
def test_the_loss_at_every_point_of_the_line_is_the_oracles(network, changes):
    direction = direction_of(network, changes)
    rows, x, labels = rows_and_data(network, direction, 5)
    params = random_params(network, np.random.default_rng(0)).astype(np.float32)
    before = params.copy()
    points = [params.astype(float) + c * direction.astype(float) for c in COORDINATES]
    wanted = [expected(network, point, x.astype(float), labels) for point in points]
    assert np.ptp(wanted) > 1e-3  # the direction matters
    np.testing.assert_allclose(rows(params, COORDINATES), wanted, rtol=2e-6)
    np.testing.assert_array_equal(params, before)


def test_rows_at_other_weights_reuse_nothing_of_the_row_before():
    direction = direction_of(CONVOLUTIONAL, ["conv1.weight[0,1,1,4]"])
    rows, _, _ = rows_and_data(CONVOLUTIONAL, direction, 5)
    first, second = (
        random_params(CONVOLUTIONAL, np.random.default_rng(seed)).astype(np.float32)
        for seed in (0, 1)
    )
    fresh, _, _ = rows_and_data(CONVOLUTIONAL, direction, 5)
    rows(first, COORDINATES)
    np.testing.assert_array_equal(rows(second, COORDINATES), fresh(second, COORDINATES))


def test_many_chunks_over_the_threads_give_the_same_bits_as_on_one():
    direction = direction_of(CONVOLUTIONAL, ["conv1.weight[0,1,1,4]"])
    params = random_params(CONVOLUTIONAL, np.random.default_rng(0)).astype(np.float32)
    one, two = (rows_and_data(CONVOLUTIONAL, direction, 203, threads)[0] for threads in (1, 2))
    np.testing.assert_array_equal(one(params, COORDINATES), two(params, COORDINATES))


def test_the_first_layer_that_changes_is_found():
    found = [first_layer(network, direction_of(network, changes)) for network, changes in CASES]
    assert found == [0, 0, 0, 0, 4, 8, 8, 10, 0, 0, 2, 1, 1]
