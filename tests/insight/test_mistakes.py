"""The most confident mistakes and the filters of the first layer."""

import numpy as np
import pytest

from minicnn import AvgPool2d, Conv2d, Dense, Flatten, Network, ReLU
from minicnn.inference import Model
from minicnn.insight.mistakes import confident_mistakes, first_layer_filters, tiles
from tests.training.small import arrays, train


@pytest.fixture(scope="module")
def model():
    return train(epochs=1)[0].model


def test_they_are_the_wrong_ones_and_the_most_certain_come_first(model):
    images, labels = arrays(90, seed=5)
    labels = (labels + (np.arange(90) % 4 == 0)) % 3  # a quarter is labelled wrongly
    probabilities = model.predict_proba(images)
    wrong = {int(i) for i in np.flatnonzero(probabilities.argmax(axis=1) != labels)}
    every = confident_mistakes(model, images, labels, count=1000)
    assert len(every) == len(wrong) >= 20 and {mistake.index for mistake in every} == wrong
    certainties = [mistake.probability for mistake in every]
    assert certainties == sorted(certainties, reverse=True)
    assert confident_mistakes(model, images, labels, count=7) == every[:7]
    for mistake in every:
        row = probabilities[mistake.index]
        assert mistake.label == labels[mistake.index] and mistake.predicted == row.argmax()
        assert (mistake.probability, mistake.probability_of_label) == (
            row.max(),
            row[mistake.label],
        )


def test_a_perfect_model_makes_none(model):
    images, _ = arrays(12)
    assert confident_mistakes(model, images, model.predict(images)) == []


def test_images_on_another_scale_are_read_with_their_maximum(model):
    images, labels = arrays(60, seed=5)
    labels = (labels + 1) % 3
    other = confident_mistakes(model, images.astype(np.float32) * 2, labels, maximum=510)
    expected = confident_mistakes(model, images, labels)
    assert [mistake.index for mistake in other] == [mistake.index for mistake in expected]
    assert other[0].probability == pytest.approx(expected[0].probability, rel=1e-5)


def of(layers, shape=(6, 5, 2)):
    network = Network(shape, layers)
    return Model(network, network.initialize(np.random.default_rng(0)), tuple("abc"))


def test_filters_of_a_convolution_are_its_kernels():
    made = of([Conv2d(4, (3, 2)), ReLU(), Flatten(), Dense(3)])
    name, filters = first_layer_filters(made)
    assert name == "conv1.weight" and filters.shape == (4, 3, 2, 2)
    assert (filters[3, 2, 1] == made.weights["conv1.weight"][2, 1, :, 3]).all()


def test_filters_of_a_dense_layer_have_the_shape_of_what_they_look_at():
    name, filters = first_layer_filters(made := of([Flatten(), Dense(3)]))
    assert name == "dense1.weight" and filters.shape == (3, 6, 5, 2)
    x = np.random.default_rng(1).random((6, 5, 2))
    assert (filters[2] * x).sum() == pytest.approx(
        made.weights["dense1.weight"][:, 2] @ x.ravel(), rel=1e-5
    )
    assert first_layer_filters(of([AvgPool2d(2), Flatten(), Dense(3)]))[1].shape == (3, 3, 2, 2)


def test_a_network_without_weights_has_no_filters():
    assert first_layer_filters(of([Flatten()], (1, 1, 3))) is None


def test_tiles_stand_in_rows_with_lines_between_them():
    grid = tiles(np.arange(1, 6).reshape(5, 1, 1, 1) * np.ones((1, 2, 3, 1)), columns=2, gap=0)[
        ..., 0
    ]
    assert grid.shape == (8, 7)
    assert (grid[0] == [1, 1, 1, 0, 2, 2, 2]).all() and (grid[2] == 0).all()
    assert (grid[7] == [5, 5, 5, 0, 0, 0, 0]).all()
