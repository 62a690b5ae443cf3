"""A model for inference alone: what it predicts, what it refuses, and what it needs when it is
loaded."""

import itertools
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

import minicnn
from minicnn import Dense, Flatten, Loss, Model, Network, Trainer, load, plugins, save
from minicnn.errors import DataError, MinicnnError, ModelFileError, UnknownNameError
from minicnn.storage import read_tensors, write_tensors
from tests.networks import oracle_passes
from tests.training import small

IMAGES, LABELS = small.arrays(50)


@pytest.fixture(scope="module")
def model():
    """A model that was trained on bytes."""
    return small.train(epochs=6, learning_rate=0.01)[0].model


@pytest.fixture(scope="module")
def model_of_floats():
    trainer = Trainer(small.network(), small.settings(loss="binary_cross_entropy"))
    trainer.fit((IMAGES / 255).astype(np.float32), LABELS)
    return trainer.model


# --- predictions ----------------------------------------------------------------------------------


def test_the_logits_are_those_of_the_oracle(model):
    without_dropout = small.network(dropout=0)
    expected, _ = oracle_passes(without_dropout, model.params, IMAGES / 255, np.zeros((50, 3)))
    found = model.logits(IMAGES)
    assert found.dtype == np.float32 and found.shape == (50, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_predictions_are_the_largest_logits_and_the_largest_probabilities(model):
    predictions = model.predict(IMAGES)
    assert predictions.dtype == np.int64
    np.testing.assert_array_equal(predictions, model.logits(IMAGES).argmax(axis=1))
    np.testing.assert_array_equal(predictions, model.predict_proba(IMAGES).argmax(axis=1))
    assert (predictions == LABELS).mean() > 0.5 and len(set(predictions)) == 3


def test_probabilities_are_the_softmax_of_the_logits(model):
    logits, found = model.logits(IMAGES).astype(np.float64), model.predict_proba(IMAGES)
    np.testing.assert_allclose(
        found, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), rtol=1e-5
    )
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    assert found.dtype == np.float32


def test_a_model_of_binary_cross_entropy_gives_the_sigmoid_of_each_logit(model_of_floats):
    images = IMAGES / 255
    logits, found = (
        model_of_floats.logits(images).astype(np.float64),
        model_of_floats.predict_proba(images),
    )
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert np.abs(found.sum(axis=1) - 1).max() > 0.01 and found.dtype == np.float32


@pytest.mark.parametrize("probabilities", ["softmax", "sigmoid"])
def test_probabilities_of_extreme_logits_are_finite(probabilities, model):
    views = model.network.unflatten(np.zeros_like(model.params))
    views["dense1.bias"][:] = [3e38, -3e38, 0]
    extreme = replace(model, params=model.network.flatten(views), probabilities=probabilities)
    expected = [1, 0, 0.5 if probabilities == "sigmoid" else 0]
    np.testing.assert_array_equal(extreme.predict_proba(IMAGES[:1]), [expected])


def test_any_number_of_images_in_any_cut_gives_the_same_logits(model):
    whole = model.logits(np.concatenate([IMAGES] * 30))
    np.testing.assert_array_equal(whole[:50], model.logits(IMAGES))
    for first, last in itertools.pairwise([0, 1, 2, 5, 18, 50]):
        np.testing.assert_array_equal(model.logits(IMAGES[first:last]), whole[first:last])
    assert model.logits(IMAGES[:0]).shape == (0, 3)
    assert model.predict(IMAGES[:0]).shape == (0,) and model.predict_proba(IMAGES[:0]).shape == (
        0,
        3,
    )


def test_the_number_of_threads_changes_no_bit(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    many = np.concatenate([IMAGES] * 100)
    one, two = (load(path, threads=threads).logits(many) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_inference_changes_neither_weights_nor_images(model):
    params, images = model.params.copy(), IMAGES.copy()
    model.evaluate(images, LABELS)
    model.predict_proba(images)
    np.testing.assert_array_equal(model.params, params)
    np.testing.assert_array_equal(images, IMAGES)


# --- images ---------------------------------------------------------------------------------------


def test_images_that_mean_the_same_give_the_same_logits(model, model_of_floats):
    expected = model.logits(IMAGES)
    turned = np.asfortranarray(IMAGES)
    for same in (
        IMAGES[..., 0],
        IMAGES.astype(np.int64),
        IMAGES.astype(np.uint16),
        IMAGES.tolist(),
        turned,
    ):
        np.testing.assert_array_equal(model.logits(same), expected)
    np.testing.assert_array_equal(model.logits(IMAGES[::2]), expected[::2])
    np.testing.assert_array_equal(
        model.logits(IMAGES > 100), model.logits((IMAGES > 100) * np.uint8(255))
    )
    for floats in (IMAGES / 255, (IMAGES / 255).astype(np.float32)):
        np.testing.assert_allclose(model.logits(floats), expected, atol=1e-5)
    expected = model_of_floats.logits(IMAGES / 255)
    np.testing.assert_allclose(model_of_floats.logits(IMAGES), expected, atol=1e-5)
    np.testing.assert_array_equal(model_of_floats.logits((IMAGES / 255)[..., 0]), expected)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            IMAGES[:, 1:],
            r"wants images \[N, 6, 6, 1\] \(height, width, channels\), not \[50, 5, 6, 1\]",
        ),
        (IMAGES[0], r"not \[6, 6, 1\]"),
        (IMAGES[0, ..., 0], r"not \[6, 6\]"),
        (np.repeat(IMAGES, 3, axis=3), r"not \[50, 6, 6, 3\]"),
        (np.where(IMAGES == IMAGES[0, 0, 0, 0], np.nan, IMAGES / 255), "NaN or infinity"),
        (np.where(IMAGES == IMAGES[0, 0, 0, 0], np.inf, IMAGES / 255), "NaN or infinity"),
        (IMAGES.astype(np.float32), "must be from 0 to 1 for float32, not 0 to 209"),
        (IMAGES / 255 - 0.1, "must be from 0 to 1 for float64, not -0.1 to"),
        (IMAGES.astype(np.int64) * 2, "must be from 0 to 255 for int64, not 0 to 418"),
        (
            np.maximum(IMAGES, 256, dtype=np.int64),
            "must be from 0 to 255 for int64, not 256 to 256",
        ),
        (np.full(IMAGES.shape, 1.001), "must be from 0 to 1 for float64"),
        (IMAGES.astype(np.int64) - 1, "must be from 0 to 255 for int64, not -1 to"),
        (IMAGES.astype(str), "must be numbers"),
        (IMAGES.astype(complex), "must be numbers"),
        ("image.png", "not"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, text, model):
    for method in (
        model.logits,
        model.predict,
        model.predict_proba,
        lambda x: model.evaluate(x, LABELS),
    ):
        with pytest.raises(DataError, match=text) as caught:
            method(images)
        assert "\n" not in str(caught.value)


def test_bytes_that_fit_say_nothing_of_other_images():
    """What fitted is not checked again, but for its dtype and its shape."""
    network = Network((6, 6, 1), [Flatten(), Dense(2)])
    params = network.initialize(np.random.default_rng(0))
    model, low = (Model(network, params, "ab", maximum=maximum) for maximum in (255.0, 16.0))
    image = IMAGES[:1] // 16
    expected, turned = model.logits(image), np.asfortranarray(np.repeat(image, 2, axis=0))
    for _ in range(2):
        np.testing.assert_array_equal(model.logits(image), expected)
        np.testing.assert_array_equal(model.logits(turned), [expected[0]] * 2)
        np.testing.assert_allclose(model.logits(image, 51), model.logits(image * 5), rtol=1e-5)
        np.testing.assert_array_equal(low.logits(image), model.logits(image, 16))
    for wrong in (image.reshape(1, 4, 9, 1), np.full((1, 6, 6, 1), 2.0), image.view(np.int8) - 1):
        with pytest.raises(DataError):
            model.logits(wrong)
    with pytest.raises(DataError, match="from 0 to 16"):
        low.logits(image + 10)
    with pytest.raises(DataError, match="masked"):
        model.logits(np.ma.masked_equal(image, image[0, 0, 0, 0]))


# --- evaluation -----------------------------------------------------------------------------------


def test_the_figures_of_an_evaluation_are_those_of_the_predictions(model):
    found, predictions = model.evaluate(IMAGES, LABELS), model.predict(IMAGES)
    confusion = np.array(
        [[((LABELS == i) & (predictions == j)).sum() for j in range(3)] for i in range(3)]
    )
    assert (
        found.images == 50
        and found.confusion == confusion.tolist()
        and found.classes == ["0", "1", "2"]
    )
    assert found.accuracy == (predictions == LABELS).mean()
    np.testing.assert_allclose(found.recall, confusion.diagonal() / confusion.sum(axis=1))
    np.testing.assert_allclose(found.precision, confusion.diagonal() / confusion.sum(axis=0))
    logits = model.logits(IMAGES).astype(np.float64)
    logarithms = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert found.loss == pytest.approx(-logarithms[np.arange(50), LABELS].mean(), rel=1e-5)
    assert found.seconds > 0 and found.images_per_second == 50 / found.seconds


def test_a_class_that_does_not_occur_has_neither_precision_nor_recall(model):
    found = model.evaluate(IMAGES[LABELS == 0], LABELS[LABELS == 0])
    assert found.recall[0] is not None and found.recall[1:] == [None, None]
    never = [sum(row[k] for row in found.confusion) == 0 for k in range(3)]
    assert [figure is None for figure in found.precision] == never


def test_more_images_than_are_held_at_once_give_the_same_figures(model):
    once, many = (
        model.evaluate(IMAGES, LABELS),
        model.evaluate(np.tile(IMAGES, (100, 1, 1, 1)), np.tile(LABELS, 100)),
    )
    assert (many.images, many.accuracy) == (5000, once.accuracy)
    assert many.loss == pytest.approx(once.loss, rel=1e-6)


def test_class_weights_count_in_the_loss_of_an_evaluation():
    weights = [0.5, 2.0, 4.0]
    options = {"class_weights": weights, "loss_kwargs": {"label_smoothing": 0.1}}
    model = small.train(epochs=1, **options)[0].model
    expected, _ = Loss("cross_entropy", 3, weights, label_smoothing=0.1)(
        model.logits(IMAGES), LABELS
    )
    assert model.evaluate(IMAGES, LABELS).loss == pytest.approx(expected, rel=1e-6)
    other = Loss("multi_margin", 3)
    assert model.evaluate(IMAGES, LABELS, other).loss == pytest.approx(
        other(model.logits(IMAGES), LABELS)[0], rel=1e-6
    )


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (LABELS[1:], "there are 50 images but 49 labels"),
        (LABELS + 0.5, "whole class numbers or names, not float64"),
        (LABELS + 1, "label 3 of image 2 is outside the 3 classes"),
        (LABELS - 1, "label -1 of image 0 is outside the 3 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, text, model):
    with pytest.raises(DataError, match=text):
        model.evaluate(IMAGES, labels)


def test_a_set_without_images_cannot_be_evaluated(model):
    with pytest.raises(DataError, match="no image"):
        model.evaluate(IMAGES[:0], LABELS[:0])


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def file(model, tmp_path):
    save(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_model_comes_back_from_its_file_bit_by_bit(model, file):
    for found in (load(file), load(str(file)), load(file.parent)):
        assert found.params.dtype == np.float32
        np.testing.assert_array_equal(found.params, model.params)
        np.testing.assert_array_equal(found.logits(IMAGES), model.logits(IMAGES))
        for name in ("network", "classes", "maximum", "image_dtype", "probabilities", "training"):
            assert getattr(found, name) == getattr(model, name)


def test_the_files_tensors_are_named_and_shaped_as_the_layers(model, file):
    tensors, metadata = read_tensors(file, "model")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes == {
        "conv1.weight": (3, 3, 1, 3),
        "conv1.bias": (3,),
        "dense1.weight": (12, 3),
        "dense1.bias": (3,),
    }
    np.testing.assert_array_equal(tensors["dense1.weight"], model.weights["dense1.weight"])
    assert 0 <= metadata["training"]["figures"]["accuracy"] <= 1
    assert metadata["classes"] == ["0", "1", "2"] and metadata["maximum"] == 255


def test_the_model_file_of_a_run_has_its_figures(tmp_path):
    _, events = small.train(tmp_path, epochs=2)
    found = load(tmp_path)
    test = events[-1].test
    figures = found.training["figures"]
    assert (figures["test_accuracy"], figures["test_loss"]) == (test.accuracy, test.loss)
    assert found.evaluate(*small.arrays(20, seed=8)).accuracy == test.accuracy
    assert found.evaluate(*small.arrays(20, seed=8)).loss == test.loss
    assert found.training["data"] == "small" and found.training["loss"]["name"] == "cross_entropy"


def test_a_model_file_cut_off_is_named(file):
    content = file.read_bytes()
    for length in sorted({*range(0, len(content), 61), len(content) - 1}):
        file.write_bytes(content[:length])
        with pytest.raises(ModelFileError) as caught:
            load(file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_a_missing_file_and_an_empty_folder_are_no_model(tmp_path):
    small.train(tmp_path, epochs=1)
    with pytest.raises(
        ModelFileError, match=r"last\.safetensors is a checkpoint, not a minicnn model"
    ):
        load(tmp_path / "last.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: no such file"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata, tensors: metadata.pop("network"),
        lambda metadata, tensors: metadata.pop("training"),
        lambda metadata, tensors: metadata["network"]["layers"][0].update(type="Conv9d"),
        lambda metadata, tensors: metadata["network"]["layers"][0].update(filters=4),
        lambda metadata, tensors: metadata["network"].update(layers="conv"),
        lambda metadata, tensors: metadata.update(network=3),
        lambda metadata, tensors: metadata.update(classes=["a", "b"]),
        lambda metadata, tensors: metadata.update(classes=None),
        lambda metadata, tensors: metadata.update(maximum="much"),
        lambda metadata, tensors: metadata.update(maximum=0),
        lambda metadata, tensors: metadata.update(training=[1]),
        lambda metadata, tensors: metadata.update(classes="abc"),
        lambda metadata, tensors: metadata.update(classes=[1, 2, 3]),
        lambda metadata, tensors: metadata.update(maximum=10**400),
        lambda metadata, tensors: metadata.update(labels=[1, 2]),
        lambda metadata, tensors: metadata.update(labels=7),
        lambda metadata, tensors: metadata["training"].update(settings=[1]),
        lambda metadata, tensors: metadata["training"].update(data=None),
        lambda metadata, tensors: metadata["training"].update(loss="mse"),
        lambda metadata, tensors: metadata.update(probabilities="all"),
        lambda metadata, tensors: metadata.update(image_dtype="int3"),
        lambda metadata, tensors: tensors.pop("conv1.bias"),
        lambda metadata, tensors: tensors.update({"conv1.bias": np.zeros(4, np.float32)}),
        lambda metadata, tensors: tensors.update({"conv9.bias": np.zeros(4, np.float32)}),
    ],
)
def test_a_file_that_contradicts_itself_is_named(change, file):
    tensors, metadata = read_tensors(file, "model")
    change(metadata, tensors)
    write_tensors(file, "model", tensors, metadata)
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors does not hold a usable model"
    ) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_a_model_needs_a_name_for_each_of_its_outputs(model):
    with pytest.raises(MinicnnError, match="3 outputs but there are 2 classes"):
        replace(model, classes=("a", "b"))


# --- without the training plugins -----------------------------------------------------------------


def test_a_model_predicts_without_the_plugins_that_it_was_trained_with(model, file):
    tensors, metadata = read_tensors(file, "model")
    metadata["training"]["settings"].update(optimizer="adan", schedule="sawtooth", loss="focal")
    metadata["training"]["loss"]["name"] = "focal"
    write_tensors(file, "model", tensors, metadata)
    found = load(file)
    np.testing.assert_array_equal(found.predict(IMAGES), model.predict(IMAGES))
    with pytest.raises(UnknownNameError, match=r"unknown loss 'focal'.*a plugin is installed with"):
        found.evaluate(IMAGES, LABELS)
    known = found.evaluate(IMAGES, LABELS, Loss("cross_entropy", 3))
    assert known.accuracy == (model.predict(IMAGES) == LABELS).mean() and math.isfinite(known.loss)


def test_loading_and_predicting_asks_for_no_plugin(file, monkeypatch):
    def forbidden(**arguments):
        raise AssertionError("a plugin was looked for")

    monkeypatch.setattr(plugins, "entry_points", forbidden)
    found = load(file)
    found.predict(IMAGES)
    found.predict_proba(IMAGES)
    with pytest.raises(AssertionError, match="looked for"):
        found.evaluate(IMAGES, LABELS)


def test_a_model_without_a_training_record_is_evaluated_without_a_loss(model):
    found = replace(model, training={}).evaluate(IMAGES, LABELS)
    assert found.loss is None and found.accuracy == model.evaluate(IMAGES, LABELS).accuracy


def test_weights_cannot_be_changed_behind_what_inference_has_made_of_them():
    network = minicnn.preset("vgg-small", (8, 8, 1), 10)
    params = network.initialize(np.random.default_rng(0))
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    model = minicnn.Model(network, params, tuple("0123456789"))
    before = model.logits(images)
    params[:] = 0
    np.testing.assert_array_equal(model.logits(images), before)
    for changed in (model, pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match="read-only"):
            changed.weights["conv1.weight"][:] = 0
        np.testing.assert_array_equal(changed.logits(images), before)


def test_classes_are_names_and_a_maximum_is_a_number(tmp_path):
    network = Network((2, 2), [Flatten(), Dense(3)])
    params = network.initialize(np.random.default_rng(0))
    model = Model(network, params, np.arange(3))
    model.save(tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").classes == model.classes == ("0", "1", "2")
    for wrong in (None, 3):
        with pytest.raises(MinicnnError, match="classes must be names, one per output"):
            Model(network, params, wrong)
    x = np.zeros((1, 2, 2), np.uint8)
    for maximum in (float("nan"), 0, -1, "255"):
        with pytest.raises(MinicnnError, match="maximum must be a finite number above 0"):
            model.logits(x, maximum)
        with pytest.raises(MinicnnError, match="maximum must be a finite number above 0"):
            Model(network, params, "abc", maximum=maximum)
    with pytest.raises(MinicnnError, match="normalization must be mean and deviation"):
        Model(network, params, "abc", normalization=((1,), (1, 2)))


def test_the_scale_of_normalized_images_is_made_once_and_a_users_change_is_his_own():
    network = Network((2, 2, 3), [Flatten(), Dense(2)])
    given = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    model = Model(network, network.initialize(np.random.default_rng(0)), "ab", normalization=given)
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3) * 20
    before = model.logits(images)
    assert model.check_images(images)[1] is model.check_images(images)[1]
    np.testing.assert_allclose(model.scale, 1 / (255 * np.array(given[1])))
    np.testing.assert_allclose(model.offset, -np.array(given[0]) / given[1])
    model.scale[:] = 0
    model.offset[:] = 7
    np.testing.assert_array_equal(model.logits(images), before)
    np.testing.assert_array_equal(model.logits(images, maximum=np.array(255.0)), before)
