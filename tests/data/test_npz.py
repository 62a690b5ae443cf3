"""NPZ archives with the Keras keys."""

import zipfile

import numpy as np
import pytest

from minicnn.data import load_dataset
from minicnn.errors import DataError, SettingError
from minicnn.plugins import find

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
    dataset = load_dataset(
        save(tmp_path, x_train=X, y_train=Y[:, None], x_test=X[:2], y_test=Y[:2])
    )
    assert np.array_equal(dataset.train.images, X[..., None])
    assert np.array_equal(dataset.train.labels, Y)
    assert np.array_equal(dataset.test.images, X[:2, ..., None])
    assert dataset.classes == ("0", "1", "2")


def test_the_test_images_may_be_missing_and_the_classes_named(tmp_path):
    dataset = load_dataset(
        save(tmp_path, x_train=X, y_train=Y, class_names=np.array(["ant", "bee", "cat"]))
    )
    assert dataset.test is None
    assert dataset.classes == ("ant", "bee", "cat")


def test_missing_keys_are_named_with_those_that_are_there(tmp_path):
    assert "has no x_train and no y_train (found: images, labels)" in message(
        save(tmp_path, images=X, labels=Y)
    )
    assert "has no y_test (found: x_train, y_train, x_test)" in message(
        save(tmp_path, x_train=X, y_train=Y, x_test=X)
    )


def test_objects_are_never_unpickled(tmp_path):
    assert "Object arrays cannot be loaded" in message(
        save(tmp_path, x_train=np.array([X, None], object), y_train=Y)
    )


def test_floats_beyond_the_scale_ask_for_a_declared_maximum(tmp_path):
    path = save(tmp_path, x_train=X.astype(np.float64), y_train=Y)
    assert "maximum=" in message(path)
    assert load_dataset(path, maximum=255).scale == 1 / 255


def test_not_a_number_is_refused(tmp_path):
    assert "not a finite number" in message(
        save(tmp_path, x_train=np.where(X > 200, np.nan, X / 255), y_train=Y)
    )


def test_class_names_must_be_strings_and_fit_the_labels(tmp_path):
    assert "class_names" in message(save(tmp_path, x_train=X, y_train=Y, class_names=np.arange(3)))
    assert "outside the 2 classes" in message(
        save(tmp_path, x_train=X, y_train=Y, class_names=np.array(["a", "b"]))
    )


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


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_pixel_that_flipped_is_found_by_its_check_sum(tmp_path, write):
    write(tmp_path / "set.npz", x_train=np.tile(X, (99, 1, 1)), y_train=np.tile(Y, 99))
    with zipfile.ZipFile(tmp_path / "set.npz") as archive:
        member = archive.getinfo("x_train.npy")
    data = bytearray((tmp_path / "set.npz").read_bytes())
    data[member.header_offset + 30 + len("x_train.npy") + 20 + member.compress_size - 9] ^= 1
    (tmp_path / "set.npz").write_bytes(data)
    assert "set.npz cannot be read: " in message(tmp_path / "set.npz")


def test_what_would_take_more_than_the_limit_unpacked_is_refused_before_it_is_read(tmp_path):
    zeros = np.zeros((1000, 40, 50), np.uint8)  # 2 MB, packed 3 kB
    path = save(tmp_path, x_train=zeros, y_train=np.arange(1000) % 2)
    assert load_dataset(path, data_gb=0.0021).image_shape == (40, 50, 1)
    text = r"set\.npz would take 0\.00201 GB unpacked, above the limit of 0\.002 GB; allow more with data_gb="
    with pytest.raises(DataError, match=text):
        load_dataset(path, data_gb=0.002)


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }"
    member = b"\x93NUMPY\x01\x00" + (117).to_bytes(2, "little") + header.ljust(116) + b"\n"
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("x_train.npy", member)
        archive.writestr("y_train.npy", member)
    assert "would take 2e+03 GB unpacked" in message(tmp_path / "set.npz")


def test_channels_may_come_first_and_a_line_says_when_they_seem_to(tmp_path, caplog):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 9), np.uint8)
    path = save(tmp_path, x_train=images, y_train=Y, x_test=images[:2], y_test=Y[:2])
    first = load_dataset(path, channels="first")
    assert (
        caplog.messages == []
        and first.image_shape == (8, 9, 3)
        and first.train.images.flags.c_contiguous
    )
    assert np.array_equal(first.test.images, images[:2].transpose(0, 2, 3, 1))
    assert load_dataset(path).image_shape == (3, 8, 9)
    assert (
        "taken as height 3 and 9 channels; if the channels come first, say channels= first"
        in caplog.messages[0]
    )
    with pytest.raises(SettingError, match="channels must be first or last"):
        load_dataset(path, channels="none")


def test_the_keys_of_medmnist_are_loaded(tmp_path):
    parts = {"train": slice(None), "val": slice(0, 3), "test": slice(2, 4)}
    arrays = {f"{name}_images": X[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": Y[part, None] for name, part in parts.items()}
    dataset = load_dataset(save(tmp_path, **arrays))
    for name, part in zip(("training", "validation", "test"), parts.values(), strict=True):
        assert np.array_equal(dataset.splits[name].images, X[part, ..., None])
        assert np.array_equal(dataset.splits[name].labels, Y[part])
    del arrays["val_labels"]
    assert "has no val_labels (found:" in message(save(tmp_path, **arrays))


def test_a_loss_on_values_reads_values_and_rows_of_labels(tmp_path):
    several = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]], np.uint8)
    for y, loss, task, classes in (
        (Y / 4, "mse", "regression", ("output 0",)),
        (several, "binary_cross_entropy", "multilabel", ("label 0", "label 1")),
    ):
        path = save(tmp_path, x_train=X, y_train=y)
        dataset = load_dataset(path, loss=find("loss", loss))
        assert (dataset.task, dataset.classes) == (task, classes)
        assert np.array_equal(dataset.train.labels, y.reshape(6, -1).astype(np.float32))
        with pytest.raises(DataError):
            load_dataset(path)


def test_arrays_are_converted_when_asked_to(tmp_path):
    path = save(tmp_path, x_train=X, y_train=Y, x_test=X[:1], y_test=Y[:1])
    dataset = load_dataset(path, resize=(2, 3), rgb=True)
    assert dataset.image_shape == (2, 3, 3) and dataset.test.images.shape == (1, 2, 3, 3)
    deep = save(tmp_path, x_train=X.astype(np.uint16) * 257, y_train=Y)
    assert load_dataset(deep, resize=(8, 10)).image_dtype == "uint16"
