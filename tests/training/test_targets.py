"""Losses on values and on several labels an image, weights of samples, and images of other scales:
what is learnt, said and kept."""

import numpy as np
import pytest

from minicnn import Dense, Flatten, Loss, Network, Trainer, load
from minicnn.errors import DataError, MinicnnError, NetworkError, SettingError, UnknownNameError
from minicnn.insight.batch_loss import BatchLoss
from minicnn.training.checkpoint import load_checkpoint
from tests.training import small

X = np.random.default_rng(0).integers(0, 256, (80, 4, 4), dtype=np.uint8)
VALUES = np.stack([X.mean(axis=(1, 2)) / 255, X[:, 0, 0] / 255], axis=1)
LABELS = (X[:, [0, 1, 2], [0, 1, 2]] > 127).astype(int)  # three answers an image


def trainer(outputs, **options) -> Trainer:
    network = Network((4, 4), [Flatten(), Dense(outputs)])
    chosen = {"epochs": 60, "learning_rate": 0.05, "optimizer": "adam"} | options
    return Trainer(network, **chosen)


def reloaded(trained: Trainer, folder):
    trained.model.save(folder / "model.safetensors")
    return load(folder / "model.safetensors")


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_losses_on_values_learn_values(tmp_path, loss, outputs):
    y = VALUES[:, 0] if outputs == 1 else VALUES
    trained = trainer(outputs, loss=loss, epochs=120)
    history = trained.fit(X, y, test=(X[:30], y[:30]), classes=["mean", "corner"][:outputs])
    test, model = history.ended.test, reloaded(trained, tmp_path)
    assert model.task == "regression" and model.classes == ("mean", "corner")[:outputs]
    predicted = model.predict(X[:30])
    assert predicted.shape == y[:30].shape and predicted.dtype == np.float32
    errors = (predicted - y[:30]).reshape(30, -1)
    spread = y[:30].reshape(30, -1) - y[:30].reshape(30, -1).mean(axis=0)
    for k, figures in enumerate(test.errors):
        assert figures.name == model.classes[k]
        assert figures.mae == pytest.approx(abs(errors[:, k]).mean(), rel=1e-3, abs=1e-7)
        assert figures.rmse == pytest.approx((errors[:, k] ** 2).mean() ** 0.5, rel=1e-3, abs=1e-7)
        expected = 1 - (errors[:, k] ** 2).sum() / (spread[:, k] ** 2).sum()
        assert figures.r2 == pytest.approx(expected, abs=1e-4) and expected > 0.5
    assert np.isnan(test.accuracy) and not test.confusion
    assert model.evaluate(X[:30], y[:30]).loss == pytest.approx(test.loss, rel=1e-5)
    assert history.epochs[-1].validation_loss < history.epochs[0].validation_loss
    assert min(epoch.validation_loss for epoch in history.epochs) == pytest.approx(
        next(e.validation_loss for e in history.epochs if e.epoch == history.ended.best_epoch)
    )


def test_rows_of_several_labels_learn_each_of_them(tmp_path):
    trained = trainer(3, loss="binary_cross_entropy")
    test = trained.fit(X, LABELS, test=(X, LABELS)).ended.test
    model = reloaded(trained, tmp_path)
    said = model.predict(X)
    assert (said == (model.predict_proba(X) > 0.5)).all() and said.shape == LABELS.shape
    assert test.accuracy == (said == LABELS).mean() > 0.9
    for k, (name, images, precision, recall, f1) in enumerate(test.by_class):
        hits = (said & LABELS)[:, k].sum()
        assert (name, images) == (f"label {k}", LABELS[:, k].sum())
        assert (precision, recall) == (hits / said[:, k].sum(), hits / LABELS[:, k].sum())
        assert f1 == pytest.approx(2 * hits / (said[:, k].sum() + LABELS[:, k].sum()))
    one_row = model.evaluate(X[:1], LABELS[:1] * 0)  # a label that nobody has
    assert one_row.recall == [None] * 3


def test_one_output_answers_one_question():
    trained = trainer(1, loss="binary_cross_entropy")
    trained.fit(X, LABELS[:, 0])
    assert (trained.model.predict(X) == LABELS[:, 0]).mean() > 0.8
    assert trained.model.predict_proba(X).shape == (80, 1)


def test_a_value_is_learnt_as_its_own_formula_says():
    """One step of plain gradient descent on the mean of (x − t)², all images at once."""
    trained = trainer(1, loss="mse", optimizer="gd", learning_rate=0.01, epochs=1, val_split=0.0)
    first = trained.network.initialize(np.random.default_rng([0, 0])).astype(np.float64)
    trained.fit(X, VALUES[:, 0])
    x = X.reshape(80, 16) / 255
    error = x @ first[:16] + first[16] - VALUES[:, 0]
    expected = first[:16] - 0.01 * 2 * (error[:, None] * x).mean(axis=0)
    np.testing.assert_allclose(trained.progress.params[:16], expected, rtol=1e-5)


def test_the_surface_of_a_loss_on_values_is_that_of_its_values():
    trained = trainer(2, loss="mse", epochs=2)
    trained.fit(X, VALUES)
    at = BatchLoss.of(trained.model, X, VALUES)
    value, gradient = at.gradient(trained.model.params)
    assert value == pytest.approx(trained.model.evaluate(X, VALUES).loss, rel=1e-5)
    assert np.abs(gradient).max() > 0


def test_classes_of_a_loss_on_values_stay_classes():
    for loss in ("mse", "binary_cross_entropy"):
        for y in (LABELS[:, 0], LABELS[:, 0].astype(float), np.eye(2)[LABELS[:, 0]]):
            trained = trainer(2, loss=loss)
            trained.fit(X, y)
            assert trained.model.task == "classification"
            assert (trained.model.predict(X) == LABELS[:, 0]).mean() > 0.8


def test_targets_that_do_not_fit_are_refused():
    for outputs, loss, y, text in (
        (1, "cross_entropy", LABELS[:, 0], "has 1 output, and classes need two or more"),
        (3, "mse", VALUES[:, 0], r"targets must be numbers \[N, 3\], .* not float64 \[80\]"),
        (3, "mse", VALUES, r"\[N, 3\], .* not float64 \[80, 2\]"),
        (3, "cross_entropy", VALUES[:, 0], "values are for the losses mse, mae and huber"),
        (3, "cross_entropy", LABELS, "several labels are for the loss binary_cross_entropy"),
        (2, "binary_cross_entropy", VALUES, "must be 0 or 1"),
        (1, "mse", np.where(VALUES[:, 0] > 0.6, np.nan, VALUES[:, 0]), "not finite"),
        (1, "mse", VALUES[:50, 0], "80 training images but 50 labels"),
    ):
        with pytest.raises((DataError, NetworkError), match=text):
            trainer(outputs, loss=loss).fit(X, y)
    trained = trainer(1, loss="mse", epochs=1)
    trained.fit(X, VALUES[:, 0])
    with pytest.raises(DataError, match="values, which have no probabilities"):
        trained.model.predict_proba(X)
    with pytest.raises(DataError, match=r"numbers \[N, 1\]"):
        trained.model.evaluate(X, VALUES)


def test_a_loss_on_labels_makes_no_table_of_the_classes():
    assert Loss("cross_entropy", 100_000).one_hot.nbytes == 0


# --- weights of samples ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_weight_of_2_is_the_image_twice_and_of_0_not_there(loss):
    y, weights = LABELS[:, 0], np.random.default_rng(1).integers(0, 3, 80)
    again = np.repeat(np.arange(80), weights)
    options = {"loss": loss, "optimizer": "gd", "learning_rate": 0.3, "epochs": 20, "val_split": 0}
    weighted, repeated = trainer(2, **options), trainer(2, **options)
    first = weighted.fit(X, y, sample_weight=weights)
    second = repeated.fit(X[again], y[again])
    np.testing.assert_allclose(weighted.model.params, repeated.model.params, rtol=1e-3, atol=1e-5)
    assert first.epochs[3].train_loss == pytest.approx(
        second.epochs[3].train_loss, rel=1e-3, abs=1e-7
    )
    found = weighted.model.evaluate(X, y, sample_weight=weights)
    expected = weighted.model.evaluate(X[again], y[again])
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.accuracy, found.confusion) == (expected.accuracy, expected.confusion)
    assert found.precision == pytest.approx(expected.precision)


def test_weights_count_beside_those_of_classes_and_in_every_batch():
    y, weights = LABELS[:, 0], np.random.default_rng(1).random(80)
    options = {"class_weights": [1, 3], "batch_size": 7, "epochs": 1}
    epoch = trainer(2, learning_rate=1e-9, val_split=0, **options).fit(X, y, sample_weight=weights)
    model = trainer(2, learning_rate=1e-9, val_split=0, **options)
    model.fit(X, y)
    logits, w = model.model.logits(X).astype(np.float64), weights * np.array([1, 3])[y]
    each = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(80), y]
    expected = pytest.approx((w * each).sum() / w.sum(), rel=1e-5)
    assert epoch.epochs[0].train_loss == expected
    assert model.model.evaluate(X, y, sample_weight=weights).loss == expected


def test_a_weighted_validation_set_and_values():
    y, weights = VALUES[:, 0], np.arange(80)
    trained = trainer(1, loss="mse", epochs=2)
    done = trained.fit(X, y, validation=(X, y, weights), test=(X, y, weights)).ended.test
    errors = trained.model.predict(X) - y
    assert done.loss == pytest.approx(np.average(errors**2, weights=weights), rel=1e-3, abs=1e-7)
    assert done.errors[0].mae == pytest.approx(
        np.average(abs(errors), weights=weights), rel=1e-3, abs=1e-7
    )


def test_a_batch_whose_weights_are_0_changes_nothing():
    weights = np.zeros(80)
    weights[0] = 1
    history = trainer(2, batch_size=8, val_split=0, epochs=2).fit(
        X, LABELS[:, 0], sample_weight=weights
    )
    assert np.isfinite([epoch.train_loss for epoch in history.epochs]).all()


@pytest.mark.parametrize(
    "weights", [np.ones(79), np.ones((80, 1)), -np.ones(80), np.zeros(80), np.full(80, np.nan)]
)
def test_what_is_no_weight_is_refused(weights):
    with pytest.raises(DataError, match="sample_weight must be 80 finite numbers from 0 on"):
        trainer(2).fit(X, LABELS[:, 0], sample_weight=weights)
    trained = trainer(2, epochs=1)
    trained.fit(X, LABELS[:, 0])
    with pytest.raises(DataError, match="sample_weight must be 80 finite numbers"):
        trained.model.evaluate(X, LABELS[:, 0], sample_weight=weights)


# --- standardised images --------------------------------------------------------------------------


def test_standardised_images_are_learnt_as_they_are_and_predict_wants_the_same(tmp_path, caplog):
    y, z = LABELS[:, 0], (X / 255 - 0.5) / 0.25
    trained = trainer(2)
    trained.fit(z, y, validation=(z[:20] * 1.1, y[:20]))
    model = reloaded(trained, tmp_path)
    assert model.seen == (z.min(), z.max()) and model.scale == 1
    assert model.evaluate(z, y).accuracy > 0.9
    for images, text in (
        (X, "trained on standardised floats, from -2 to 2, not uint8"),
        (z * 10, "values from -20 to 20, but the images trained on are standardised, from -2 to 2"),
        (np.where(z > 1, np.nan, z), "not a finite number"),
    ):
        with pytest.raises(DataError, match=text):
            model.predict(images)
    assert caplog.messages == []
    model.predict(X / 255)
    assert caplog.messages == [
        "the images have no value below 0: are they standardised like those of training?"
    ]
    with pytest.raises(DataError, match="negative values"):
        trainer(2, data_max=2.0).fit(z, y)


@pytest.mark.parametrize("dtype", [">u2", ">f4", bool])
def test_other_byte_orders_and_masks_are_images(dtype):
    images = (
        (X > 127) if dtype is bool else (X.astype(float) * (257 if dtype == ">u2" else 1 / 255))
    )
    trained = trainer(2)
    trained.fit(images.astype(dtype), LABELS[:, 0])
    assert trained.model.evaluate(images.astype(dtype), LABELS[:, 0]).accuracy > 0.8
    assert trained.model.image_dtype == ("uint16" if dtype == ">u2" else "float32")


# --- going on, and what is written ----------------------------------------------------------------


def test_a_trainer_of_a_model_goes_on_from_its_weights_classes_and_scale():
    names = np.array(["no", "yes"])[LABELS[:, 0]]
    first = trainer(2, epochs=20, data_max=300.0)
    first.fit(X, names)
    then = Trainer(first.model, epochs=1, learning_rate=1e-9)
    then.fit(X, names)
    assert (then.model.classes, then.model.maximum) == (("no", "yes"), 300.0)
    np.testing.assert_allclose(then.model.params, first.model.params, atol=1e-6)
    assert list(then.model.predict(X)) == list(first.model.predict(X))
    with pytest.raises(DataError, match="the training label 'maybe' is none of the classes"):
        then.fit(X, np.where(names == "yes", "maybe", "no"))
    with pytest.raises(DataError, match=r"standardised, but those of the model .* from 0 to 300"):
        then.fit(X / 255 - 0.5, names)


def test_each_fit_begins_anew():
    trained = trainer(2, epochs=2)
    trained.fit(X, LABELS[:, 0])
    first = trained.model.params.copy()
    trained.fit(X, LABELS[:, 0])
    np.testing.assert_array_equal(trained.model.params, first)


def test_a_run_folder_of_python_says_what_it_was_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = Network((4, 4), [Flatten(), Dense(2)], "mine")
    Trainer(network, epochs=1).fit(X, LABELS[:, 0], output="new/run")
    stored = load_checkpoint(tmp_path / "new/run/last.safetensors").settings
    for settings in (load("new/run").training["settings"], stored):
        assert (settings["data"], settings["model"]) == ("arrays", "mine")
    (tmp_path / "file").touch()
    with pytest.raises(MinicnnError, match="cannot make the folder file/run"):
        Trainer(network, epochs=1).fit(X, LABELS[:, 0], output="file/run")


def test_words_of_other_libraries_name_those_of_this_one():
    with pytest.raises(UnknownNameError, match="'validation_data'; did you mean 'validation'"):
        trainer(2).fit(X, LABELS[:, 0], validation_data=(X, LABELS[:, 0]))
    with pytest.raises(DataError, match=r"validation must be \(x, y\) or \(x, y, sample_weight\)"):
        trainer(2).fit(X, LABELS[:, 0], validation=(X,))
    with pytest.raises(SettingError, match="y is for arrays"):
        Trainer(small.network()).fit(small.dataset(), [1])
    with pytest.raises(DataError, match="declare the maximum with data_max="):
        trainer(2).fit(X.astype(float), LABELS[:, 0])
