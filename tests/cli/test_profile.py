"""`train --profile` and `predict --profile`: where the time goes, layer by layer."""

import json

import numpy as np
import pytest

import minicnn as api
from minicnn import BatchNorm2d, Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU, Trainer
from minicnn.backends.cpu import Inference
from minicnn.errors import DataError, SettingError
from tests.cli.conftest import SOFTMAX, arrays
from tests.training import small

LAYERS = [
    Conv2d(4, 3),
    BatchNorm2d(),
    ReLU(),
    MaxPool2d(2),
    Flatten(),
    Dense(3),
]


@pytest.fixture
def dataset():
    return small.dataset()


def trainer_for(dataset, **options):
    network = Network(dataset.image_shape, [*LAYERS[:-1], Dense(len(dataset.classes))])
    return Trainer(network, epochs=1, batch_size=8, **options)


def test_a_training_step_is_divided_among_its_operations(dataset):
    trainer = trainer_for(dataset)
    found = trainer.profile(dataset, seconds=0.05)
    rows = {(row.operation, row.direction): row for row in found.rows}
    assert {("conv2d", "forward"), ("conv2d", "backward"), ("dense", "transpose")} <= rows.keys()
    assert {("batch_statistics", "backward"), ("max_pool2d", "backward")} <= rows.keys()
    assert {row.layers for row in found.rows if not row.operation} == {
        "gather",
        "optimizer",
        "the rest",
    }
    assert rows["max_pool2d", "forward"].layers.startswith("relu1+")
    assert all(row.microseconds > 0 for key, row in rows.items() if key[0])
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert sum(row.microseconds for row in found.rows) == pytest.approx(found.microseconds)
    assert found.images >= 8 and found.tile_gflops > 1


def test_one_image_is_divided_among_its_operations(dataset):
    network = Network(dataset.image_shape, LAYERS)
    model = api.Model(network, network.initialize(np.random.default_rng(0)), ("a", "b", "c"))
    model.predict(dataset.train.images[:1])
    found = model.profile(dataset.train.images[:1], seconds=0.05)
    assert [row.operation for row in found.rows if row.operation] == ["conv_pool_grey", "dense"]
    assert all(row.microseconds > 0 for row in found.rows if row.operation)


def test_figures_of_a_pass_are_those_of_its_formula(dataset):
    found = trainer_for(dataset).profile(dataset, seconds=0.05)
    rows = {(row.operation, row.direction): row for row in found.rows}
    height, width, channels = dataset.image_shape
    conv, dense = rows["conv2d", "forward"], rows["dense", "backward"]
    flops = 2 * (height - 2) * (width - 2) * 9 * channels * 4
    assert conv.gflops * 1e3 * conv.microseconds == pytest.approx(flops)
    assert conv.tile_share == pytest.approx(conv.gflops / found.tile_gflops)
    inputs = (height - 2) // 2 * ((width - 2) // 2) * 4
    outputs = len(dataset.classes)
    assert dense.gflops * 1e3 * dense.microseconds == pytest.approx(2 * 2 * inputs * outputs)
    back = rows["conv2d", "backward"]  # of the first layer, which has no dx
    assert back.gflops * 1e3 * back.microseconds == pytest.approx(flops)
    pool = rows["max_pool2d", "forward"]
    assert pool.gflops is None and pool.tile_share is None
    read = (height - 2) * (width - 2) * 4
    assert pool.gigabytes * 1e3 * pool.microseconds == pytest.approx(4 * (read + inputs))
    back = rows["max_pool2d", "backward"]  # reads x, y and dy, writes dx
    assert back.gigabytes * 1e3 * back.microseconds == pytest.approx(8 * (read + inputs))


def test_a_profile_changes_nothing(dataset):
    alone, profiled = trainer_for(dataset, seed=3), trainer_for(dataset, seed=3)
    profiled.profile(dataset, seconds=0.01)
    with pytest.raises(SettingError, match="no model yet"):
        _ = profiled.model
    alone.fit(dataset), profiled.fit(dataset)
    np.testing.assert_array_equal(alone.model.params, profiled.model.params)


def test_a_model_is_profiled_and_answers_as_before(place, model):
    loaded = api.load(model)
    images = arrays(6, 2)[0]
    before = loaded.logits(images)
    found = loaded.profile(images, seconds=0.02)
    assert found.images % 6 == 0
    assert {row.direction for row in found.rows} == {"forward", ""}
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    np.testing.assert_array_equal(loaded.logits(images), before)
    with pytest.raises(DataError, match="no image"):
        loaded.profile(images[:0])
    with pytest.raises(SettingError, match="seconds must be above 0"):
        loaded.profile(images, seconds=0)


def test_nothing_is_counted_where_nothing_is_asked_for(model):
    loaded = api.load(model)
    engine = Inference(loaded.network, loaded.params.copy(), 1)
    before = engine.plan.table["forward"].copy()
    loaded.profile(arrays(6, 2)[0], seconds=0.01)
    np.testing.assert_array_equal(engine.plan.table["forward"], before)
    np.testing.assert_array_equal(loaded._inference.plan.table["forward"][:1], before[:1])


def test_train_and_predict_print_tables(place, minicnn, model):
    result = minicnn("train", *SOFTMAX, "--profile")
    assert result.status == 0 and "µs an image" in result.out and "optimizer" in result.out
    np.save(place / "images.npy", arrays(6, 2)[0])
    result = minicnn("predict", model, "images.npy", "--profile")
    assert result.status == 0 and "dense1" in result.out and "Gflop/s" in result.out
    shown = json.loads(minicnn("predict", model, "images.npy", "--profile", "--json").out)
    assert shown["images"] >= 6 and shown["rows"][0]["direction"] == "forward"
    shown = json.loads(minicnn("train", *SOFTMAX, "--profile", "--json").out)
    assert {"gather", "optimizer"} <= {row["layers"] for row in shown["rows"]}
    assert not (place / "runs").exists()


def test_a_rule_on_whole_steps_has_no_row_of_its_own(dataset):
    found = trainer_for(dataset, optimizer="adafactor").profile(dataset, seconds=0.01)
    assert {row.layers for row in found.rows if not row.operation} == {"gather", "the rest"}
