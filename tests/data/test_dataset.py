"""A data set is checked when it is made, and split in proportion."""

import numpy as np
import pytest

from minicnn.data import Dataset, Split, stratified_split
from minicnn.data.dataset import build_dataset
from minicnn.errors import DataError, SettingError

LABELS = np.array([0, 1, 0, 1])


def images(count: int = 4, dtype: type = np.uint8) -> np.ndarray:
    return np.ones((count, 3, 5, 2), dtype)


def message(*arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        build_dataset("set", *arguments, **options)
    text = str(caught.value)
    assert text.startswith("set: ") and "\n" not in text
    return text


def test_uint8_images_are_kept_as_they_are_without_a_copy():
    x = images()
    dataset = build_dataset("set", (x, LABELS))
    assert dataset.train.images is x or np.shares_memory(dataset.train.images, x)
    assert (dataset.maximum, dataset.scale) == (255.0, 1 / 255)
    assert dataset.image_shape == (3, 5, 2)
    assert dataset.classes == ("0", "1")
    assert len(dataset.train) == 4
    assert dataset.test is None


def test_grey_images_without_a_channel_axis_get_one():
    assert build_dataset("set", (np.zeros((4, 6, 7), np.uint8), LABELS)).image_shape == (6, 7, 1)


@pytest.mark.parametrize(
    ("dtype", "declared", "maximum"),
    [
        (bool, None, 1.0),
        (">u2", None, 65535.0),
        (np.float64, None, 1.0),
        (np.float16, 16, 16.0),
        (np.uint16, None, 65535.0),
        (np.int64, 16, 16.0),
    ],
)
def test_other_numbers_become_float32_with_the_maximum_of_their_type_or_the_declared_one(
    dtype, declared, maximum
):
    dataset = build_dataset("set", (images(dtype=dtype), LABELS), maximum=declared)
    assert dataset.train.images.dtype == np.float32
    assert dataset.maximum == maximum


def test_a_declared_maximum_wins_over_the_dtype():
    assert build_dataset("set", (images(), LABELS), maximum=16).scale == 1 / 16


def test_integers_without_a_natural_scale_ask_for_one():
    assert "declare the maximum with maximum=" in message((images(dtype=np.int64), LABELS))


def test_values_beyond_the_scale_ask_for_another_one():
    assert "up to 16, beyond the scale's end 1; declare the maximum with maximum=" in message(
        (images(dtype=np.float32) * 16, LABELS)
    )
    assert "beyond the scale's end 15" in message((images() * 16, LABELS), maximum=15)


def test_negative_values_are_refused_where_a_maximum_is_declared():
    given = (images(dtype=np.float32) * -0.5, LABELS)
    assert "negative values (down to -0.5)" in message(given, maximum=1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_no_finite_float32_is_refused(value):
    x = images(dtype=np.float64)
    x[2, 1, 1, 0] = value
    assert "not a finite number" in message((x, LABELS))


@pytest.mark.parametrize("maximum", [0, -1, np.nan, np.inf])
def test_a_maximum_that_is_no_scale_is_a_setting_error(maximum):
    with pytest.raises(SettingError, match="maximum must be a finite number above 0"):
        build_dataset("set", (images(), LABELS), maximum=maximum)


def test_different_numbers_of_images_and_labels_are_refused():
    assert "5 training images but 4 labels" in message((images(5), LABELS))
    assert "3 test images but 4 labels" in message((images(), LABELS), (images(3), LABELS))


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_label_outside_the_classes_names_its_image(label):
    labels = np.array([0, 1, label, 1])
    assert f"label {label} of training image 2 is outside the 2 classes (0 to 1)" in message(
        (images(), labels), classes=("cat", "dog")
    )
    assert f"label {label} of test image 2" in message((images(), LABELS), (images(), labels))


def test_a_class_without_a_training_image_is_named():
    assert "class 'owl' has no training image" in message(
        (images(), LABELS), classes=("cat", "dog", "owl")
    )
    assert "class '1' has no training image" in message((images(3), np.array([0, 2, 3])), outputs=4)


def test_a_test_or_validation_set_may_lack_a_class_but_one_alone_cannot_be_trained_on():
    test, validation = (images(1), LABELS[1:2]), (images(2), np.array([[0], [0]]))
    dataset = build_dataset("set", (images(), LABELS), test, validation=validation)
    assert dataset.test.labels.tolist() == [1] and dataset.validation.labels.tolist() == [0, 0]
    assert "all training images are of one class, '3'" in message((images(), LABELS * 0 + 3))


def test_no_image_at_all_is_refused():
    assert "there is no training image" in message((images(0), LABELS[:0]))
    assert "there is no training image" in message((np.zeros((4, 0, 5), np.uint8), LABELS))


def test_splits_of_another_shape_or_dtype_are_refused():
    assert "test images are uint8 [3, 5, 1], but training images are uint8 [3, 5, 2]" in message(
        (images(), LABELS), (images()[..., :1], LABELS)
    )
    assert "test images are float32" in message(
        (images(), LABELS), (images(dtype=np.float32), LABELS)
    )


def test_two_classes_of_one_name_are_refused():
    assert "same name" in message((images(), LABELS), classes=("cat", "cat"))


def test_images_of_another_rank_or_kind_are_refused():
    assert "[N, H, W] or [N, H, W, C], not [4, 9]" in message((np.zeros((4, 9)), LABELS))
    assert "must be numbers, not <U1" in message((np.full((4, 3, 3), "a"), LABELS), maximum=1)


def test_a_dataset_made_by_hand_is_checked_too():
    with pytest.raises(DataError, match="C-contiguous uint8 or float32"):
        Dataset("set", Split(images(dtype=np.float64), LABELS), None, ("a", "b"), 1.0)
    with pytest.raises(DataError, match="labels must be int64"):
        Dataset("set", Split(images(), LABELS.astype(np.uint8)), None, ("a", "b"), 255.0)
    with pytest.raises(DataError, match="label 7 of validation image 0"):
        Dataset(
            "set",
            Split(images(), LABELS),
            None,
            ("a", "b"),
            255.0,
            validation=Split(images(1), np.array([7])),
        )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.2, 1 / 3, 0.5])
@pytest.mark.parametrize("counts", [[942, 1027, 1016], [10, 10, 10], [1, 7, 300], [3, 3, 3, 3, 3]])
def test_a_split_holds_out_the_rounded_fraction_each_class_in_proportion(counts, fraction):
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(len(counts)), counts))
    train, validation = stratified_split(labels, fraction, seed=3)
    assert len(validation) == round(fraction * len(labels))
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    assert np.all(np.diff(train) > 0) and np.all(np.diff(validation) > 0)
    held_out = np.bincount(labels[validation], minlength=len(counts))
    assert np.abs(held_out - fraction * np.array(counts)).max() <= 1


def test_a_class_with_a_single_image_keeps_it_in_training():
    labels = np.array([0, 1, 2, 2, 2, 2])
    for seed in range(10):
        train, validation = stratified_split(labels, 0.5, seed)
        assert {0, 1} <= set(labels[train])
        assert len(validation) == 3
    assert len(stratified_split(np.arange(5), 0.4, 0)[1]) == 0


def test_the_seed_alone_decides_the_split():
    labels = np.arange(200) % 3
    first, same, other = (stratified_split(labels, 0.1, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_leaves_no_training_is_a_setting_error(fraction):
    with pytest.raises(SettingError, match=r"in \[0, 1\)"):
        stratified_split(LABELS, fraction, 0)
