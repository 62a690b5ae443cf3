"""The axes of a landscape."""

import numpy as np
import pytest

from minicnn.errors import ModelFileError, SettingError
from minicnn.insight import directions
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.surface import loss_surface
from minicnn.training.record import load_record
from minicnn.training.trainer import Trainer
from tests.insight.small import CONVOLUTIONAL, LINEAR, small_data, small_model


def test_a_random_direction_is_as_long_as_the_model_filter_by_filter():
    model = small_model()
    one = directions.random_direction(CONVOLUTIONAL, model.params, np.random.default_rng(3))
    found, own = CONVOLUTIONAL.unflatten(one.vector), model.weights
    for name in own:
        if name.endswith(".bias"):
            assert not found[name].any()
        else:
            axes = tuple(range(own[name].ndim - 1))
            np.testing.assert_allclose(
                (found[name] ** 2).sum(axes), (own[name] ** 2).sum(axes), rtol=1e-5
            )
    assert (
        abs(np.corrcoef(found["dense1.weight"].ravel(), own["dense1.weight"].ravel())[0, 1]) < 0.5
    )


def test_the_seed_decides_and_two_random_directions_differ():
    batch_loss = BatchLoss.of(small_model(), *small_data())
    first, second = directions.chosen(batch_loss, ["random", "random"], seed=1)
    again, _ = directions.chosen(batch_loss, ["random", "random"], seed=1)
    np.testing.assert_array_equal(first.vector, again.vector)
    assert abs(first.vector @ second.vector) < 0.5 * (first.vector @ first.vector)


def test_a_line_leads_from_the_model_to_the_other(tmp_path):
    model, other = small_model(seed=0), small_model(seed=7)
    other.save(tmp_path / "other.safetensors")
    x, y = small_data()
    surface = loss_surface(
        BatchLoss.of(model, x, y), (f"to:{tmp_path / 'other.safetensors'}", "random"), 9
    )
    assert surface.x_values[6] == 1.0 and surface.y_values[4] == 0.0
    assert surface.losses[4, 6] == pytest.approx(other.evaluate(x, y).loss, rel=1e-5)
    assert surface.losses[4, 2] == pytest.approx(model.evaluate(x, y).loss, rel=1e-5)


def test_a_line_that_leads_nowhere_is_refused():
    model = small_model()
    with pytest.raises(SettingError, match="the same weights"):
        directions.line_to(CONVOLUTIONAL, model.params, model)
    with pytest.raises(SettingError, match="another network"):
        directions.line_to(CONVOLUTIONAL, model.params, small_model(LINEAR))


def test_principal_directions_hold_the_path_of_a_recorded_run(tmp_path):
    x, y = small_data(images=40)
    trainer = Trainer(CONVOLUTIONAL, epochs=6, record=0, learning_rate=0.01, val_split=0.0)
    trainer.fit(x, y, output=tmp_path)
    record = load_record(tmp_path)
    params = trainer.model.params
    one, two = directions.principal_directions(params, tmp_path)
    start = record.first - params
    assert one.path[0] == pytest.approx(float(start @ one.vector), abs=1e-4)
    assert (
        one.low < min(one.path) and max(one.path) < one.high and len(one.path) == len(record.path)
    )
    # The plane explains most of the trajectory from the first weights to the last.
    left = start - one.path[0] * one.vector - two.path[0] * two.vector
    assert np.linalg.norm(left) < 0.5 * np.linalg.norm(start)
    surface = loss_surface(BatchLoss.of(trainer.model, x, y), ("pc1", "pc2"), 5, run=tmp_path)
    assert surface.own_loss == pytest.approx(trainer.model.evaluate(x, y).loss, rel=1e-5)


def test_a_run_without_a_record_says_how_one_is_made(tmp_path):
    with pytest.raises(ModelFileError, match="train --record"):
        directions.principal_directions(small_model().params, tmp_path)


def test_the_range_of_a_weight_ends_where_the_loss_has_risen_by_half():
    model, (x, y) = small_model(), small_data()
    batch_loss = BatchLoss.of(model, x, y)
    (one,) = directions.chosen(batch_loss, ["dense2.weight[3,1]"])
    reach = one.high - one.origin
    assert one.origin - one.low == pytest.approx(reach)
    own, *ends = batch_loss.along(one.vector, np.array([0, reach, -reach, reach / 2, -reach / 2]))
    assert max(ends[:2]) > 1.5 * own


def test_the_range_of_a_weight_that_does_nothing_is_finite():
    model = small_model()
    x, y = small_data()
    (one,) = directions.chosen(BatchLoss.of(model, 0 * x, y), ["conv1.weight[0,0,0,0]"])
    assert (one.high - one.origin, one.origin - one.low) == pytest.approx((4, 4))
