"""Loss surfaces: every point is a loss of the network, and the minima are those of the grid."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minicnn import Dense, Flatten, Loss, Network, ReLU, Softmax
from minicnn.backends import cpu
from minicnn.errors import DataError, SettingError, UnknownNameError
from minicnn.insight.batch_loss import BatchLoss, first_layer
from minicnn.insight.directions import Direction, chosen
from minicnn.insight.surface import Surface, loss_surface, two_directions
from tests.graphs import graphs
from tests.insight.small import CONVOLUTIONAL, small_data, small_model
from tests.networks import random_params

FIRST, LAST, MIDDLE = "conv1.weight[0,1,0,2]", "dense2.weight[3,1]", "conv2.bias[4]"


@pytest.mark.parametrize(
    "directions",
    [
        (FIRST, LAST),
        (LAST, FIRST),
        (FIRST, "conv1.bias[0]"),
        (MIDDLE, "random"),
        ("random", "random"),
    ],
)
def test_each_point_is_the_loss_that_evaluate_gives_at_its_weights(directions):
    model, (x, y) = small_model(), small_data()
    surface = loss_surface(BatchLoss.of(model, x, y), directions, 7)
    assert surface.losses.shape == (7, 7) and surface.complete
    for row, column in [(0, 0), (2, 5), (6, 1)]:
        moved = (surface.x_values[column] - surface.x.origin) * surface.x.vector
        moved = moved + (surface.y_values[row] - surface.y.origin) * surface.y.vector
        there = replace(model, params=(model.params + moved).astype(np.float32))
        assert surface.losses[row, column] == pytest.approx(there.evaluate(x, y).loss, rel=2e-6)


def test_rows_of_a_surface_are_computed_side_by_side(monkeypatch):
    batch_loss = replace(BatchLoss.of(small_model(), *small_data()), threads=2)
    directions = two_directions(batch_loss, (FIRST, LAST))
    alone = loss_surface(replace(batch_loss, threads=1), directions, 4).losses
    gate, along, met = threading.Barrier(2), BatchLoss.along, []

    def with_another(*arguments):
        if threading.current_thread() is not threading.main_thread():
            met.append(gate.wait(30))
        return along(*arguments)

    monkeypatch.setattr(BatchLoss, "along", with_another)
    np.testing.assert_array_equal(loss_surface(batch_loss, directions, 4).losses, alone)
    assert len(met) == 4


def test_the_loss_at_the_models_own_point_is_evaluates():
    model, (x, y) = small_model(), small_data()
    own = model.evaluate(x, y).loss
    surface = loss_surface(BatchLoss.of(model, x, y), (FIRST, LAST), 7)
    assert surface.own_loss == pytest.approx(own, rel=1e-6)
    assert surface.losses[3, 3] == pytest.approx(own, rel=1e-6)
    weight = float(model.weights["conv1.weight"][0, 1, 0, 2])
    assert surface.x_values[3] == pytest.approx(weight) and surface.x.label == FIRST


def test_class_weights_count_as_in_evaluation():
    loss = {
        "name": "cross_entropy",
        "class_weights": [1.0, 5.0, 0.5],
        "hyperparameters": {"label_smoothing": 0.1},
    }
    model, (x, y) = replace(small_model(), training={"loss": loss}), small_data()
    assert loss_surface(BatchLoss.of(model, x, y), (FIRST, LAST), 3).own_loss == pytest.approx(
        model.evaluate(x, y).loss, rel=1e-6
    )


def test_without_directions_there_are_the_two_weights_with_the_largest_gradients():
    model, (x, y) = small_model(), small_data()
    batch_loss = BatchLoss.of(model, x, y)
    grads = np.abs(batch_loss.gradient(model.params)[1])
    found = two_directions(batch_loss, ())
    steepest = {
        name: tensor
        for name, tensor in model.network.unflatten(grads).items()
        if name.endswith("weight")
    }
    assert np.sort(np.concatenate([tensor.ravel() for tensor in steepest.values()]))[
        -2:
    ].tolist() == [float(grads[np.flatnonzero(one.vector)[0]]) for one in found[::-1]]


def test_ctrl_c_keeps_the_rows_that_are_done():
    batch_loss = BatchLoss.of(small_model(), *small_data())
    directions = two_directions(batch_loss, (FIRST, LAST))
    whole = loss_surface(batch_loss, directions, 9)

    def interrupt(done, rows):
        if done == 3:
            raise KeyboardInterrupt

    part = loss_surface(batch_loss, directions, 9, progress=interrupt)
    done = np.isfinite(part.losses)
    assert not part.complete and done.sum() == 27
    np.testing.assert_array_equal(part.losses[done], whole.losses[done])
    with pytest.raises(KeyboardInterrupt):
        loss_surface(
            batch_loss,
            directions,
            9,
            progress=lambda done, rows: (_ for _ in ()).throw(KeyboardInterrupt),
        )


def drawn(losses, low=-1.0, high=1.0):
    axis = Direction("axis", np.ones(1, np.float32), 0.0, low, high)
    rows, columns = losses.shape
    return Surface(
        axis, axis, np.linspace(low, high, columns), np.linspace(low, high, rows), losses, 1.0
    )


def test_minima_are_found_and_a_point_knows_its_own():
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    two_wells = drawn((x**2 - 0.25) ** 2 + 0.05 * x + y**2)
    assert two_wells.minima() == [(10, 5), (10, 15)]
    assert two_wells.minimum_below((-0.8, 0.9)) == (10, 5)
    assert two_wells.minimum_below((0.8, -0.9)) == (10, 15)
    assert two_wells.minimum_below((0.0, 1.2)) is None


def test_a_slanting_valley_has_one_minimum():
    x, y = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    assert len(drawn(30 * (y - 0.63 * x) ** 2 + 0.3 * (x - 0.2) ** 2).minima()) == 1


@pytest.mark.parametrize(
    ("directions", "error", "says"),
    [
        ((FIRST,), SettingError, "directions must be two, not 1"),
        ((FIRST, FIRST), SettingError, "are the same"),
        ((FIRST, "conv1.wait[0,0,0,0]"), UnknownNameError, "did you mean"),
        ((FIRST, "pc1"), SettingError, "pc1 is a direction of a recorded run"),
    ],
)
def test_wrong_directions_say_what_would_be_right(directions, error, says):
    with pytest.raises(error, match=says):
        loss_surface(BatchLoss.of(small_model(), *small_data()), directions, 3)


def test_labels_that_do_not_fit_are_refused():
    x, y = small_data()
    with pytest.raises(DataError, match="there are 12 images but 3 labels"):
        BatchLoss.of(small_model(), x, y[:3])
    with pytest.raises(DataError, match="label 3 of image 4 is outside the 3 classes"):
        BatchLoss.of(small_model(), x, y + 1)
    with pytest.raises(SettingError, match="loss must be named"):
        BatchLoss.of(replace(small_model(), training={}), x, y)


def test_what_comes_before_the_first_changed_layer_is_computed_once_and_the_rest_is_the_same_function():
    model, (x, y) = small_model(), small_data()
    batch_loss = BatchLoss.of(model, x, y)
    loss, grads = batch_loss.gradient(batch_loss.params)
    for layer in range(len(CONVOLUTIONAL.layers) - 2):
        tail = batch_loss.since(layer)
        tail_loss, tail_grads = tail.gradient(tail.params)
        assert tail_loss == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(tail_grads, grads[-len(tail_grads) :], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "layer"),
    [(FIRST, 0), (MIDDLE, 4), ("dense1.weight[3,1]", 7), (LAST, 9), ("random", 0)],
)
def test_the_losses_along_a_line_are_those_of_evaluation_and_leave_the_weights(text, layer):
    model, (x, y) = small_model(), small_data()
    batch_loss, before = BatchLoss.of(model, x, y), model.params.copy()
    (one,) = chosen(batch_loss, [text])
    assert first_layer(model.network, one.vector) == layer
    losses = batch_loss.along(one.vector, np.array([-1.5, 0.0, 0.3]))
    for coordinate, loss in zip((-1.5, 0.0, 0.3), losses, strict=True):
        there = replace(model, params=model.params + np.float32(coordinate) * one.vector)
        assert loss == pytest.approx(there.evaluate(x, y).loss, rel=2e-6)
    np.testing.assert_array_equal(model.params, before)


@settings(max_examples=10, deadline=None)
@given(network=graphs(), seed=st.integers(0, 99))
@example(
    network=Network((2, 2), [Flatten(), Dense(5), ReLU(), Dense(4, name="before"), Dense(3)]),
    seed=0,
)
def test_a_graph_is_cut_only_where_the_rest_is_the_same_function(network, seed):
    assume(network.outputs > 1 and not isinstance(network.layers[-1], Softmax))
    rng = np.random.default_rng(seed)
    params, x = random_params(network, rng), rng.normal(size=(3, *network.input_shape))
    labels = rng.integers(0, network.outputs, 3)
    loss = Loss("cross_entropy", network.outputs, None, np.float64)
    batch_loss = BatchLoss(network, params, x, labels, loss, 1)
    for spec in network.parameters:
        if spec.kind != "state":
            vector = np.zeros_like(params)
            vector[spec.offset :][: spec.size] = rng.normal(size=spec.size)
            (found,) = batch_loss.along(vector, np.array([0.3]))
            whole = cpu.Inference(network, params + 0.3 * vector, 1).logits(x, 1.0)
            assert found == pytest.approx(loss(whole, labels)[0], rel=1e-9)
