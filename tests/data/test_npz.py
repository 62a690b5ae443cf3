"""NPZ archives with the Keras keys."""

import numpy as np
import pytest

from minicnn.data import load_dataset
from minicnn.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (6, 4, 5), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def save(tmp_path, **arrays):
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


def message(path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def test_the_keras_keys_are_loaded(tmp_path):
    dataset = load_dataset(save(tmp_path, x_train=X, y_train=Y[:, None], x_test=X[:2], y_test=Y[:2]))
    assert np.array_equal(dataset.train.images, X[..., None])
    assert np.array_equal(dataset.train.labels, Y)
    assert np.array_equal(dataset.test.images, X[:2, ..., None])
    assert dataset.classes == ("0", "1", "2")


def test_the_test_images_may_be_missing_and_the_classes_named(tmp_path):
    dataset = load_dataset(save(tmp_path, x_train=X, y_train=Y, class_names=np.array(["ant", "bee", "cat"])))
    assert dataset.test is None
    assert dataset.classes == ("ant", "bee", "cat")


def test_missing_keys_are_named_with_those_that_are_there(tmp_path):
    assert "has no x_train and no y_train (found: images, labels)" in message(save(tmp_path, images=X, labels=Y))
    assert "has no y_test (found: x_train, y_train, x_test)" in message(save(tmp_path, x_train=X, y_train=Y, x_test=X))


def test_objects_are_never_unpickled(tmp_path):
    assert "Object arrays cannot be loaded" in message(save(tmp_path, x_train=np.array([X, None], object), y_train=Y))


def test_floats_beyond_the_scale_ask_for_a_declared_maximum(tmp_path):
    path = save(tmp_path, x_train=X.astype(np.float64), y_train=Y)
    assert "maximum=" in message(path)
    assert load_dataset(path, maximum=255).scale == 1 / 255


def test_not_a_number_is_refused(tmp_path):
    assert "not a finite number" in message(save(tmp_path, x_train=np.where(X > 200, np.nan, X / 255), y_train=Y))


def test_class_names_must_be_strings_and_fit_the_labels(tmp_path):
    assert "class_names" in message(save(tmp_path, x_train=X, y_train=Y, class_names=np.arange(3)))
    assert "outside the 2 classes" in message(save(tmp_path, x_train=X, y_train=Y, class_names=np.array(["a", "b"])))


@pytest.mark.parametrize("keep", [10, 200, 0.5, 0.99])
def test_a_truncated_archive_names_itself(tmp_path, keep):
    path = save(tmp_path, x_train=X, y_train=Y)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    assert "cannot be read" in message(path)


def test_a_damaged_member_names_the_archive(tmp_path):
    path = save(tmp_path, x_train=X, y_train=Y)
    data = bytearray(path.read_bytes())
    data[150:160] = b"\xff" * 10
    path.write_bytes(data)
    assert message(path)
