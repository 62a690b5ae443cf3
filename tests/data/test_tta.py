"""Test-time augmentation: the views by hand, and the mean of what a network says of them."""

from dataclasses import replace

import numpy as np
import pytest

import minicnn
from minicnn.data.tta import TTA, tta_views
from minicnn.errors import SettingError
from tests.training import small

IMAGES, LABELS = small.arrays(50)


def reflected(image, down, right):
    """The image whose pixel (h, w) is that at (h + down, w + right), reflected at the border."""
    height, width = image.shape[:2]

    def inside(i, size):
        return -i if i < 0 else (2 * (size - 1) - i if i >= size else i)

    moved = np.empty_like(image)
    for h in range(height):
        for w in range(width):
            moved[h, w] = image[inside(h + down, height), inside(w + right, width)]
    return moved


def by_hand(image, tta):
    """(weight, view) of the six views of airbench, or of those among them."""
    mirrored = image[:, ::-1]
    shifted = [reflected(image, way, way) for way in (-1, 1)]
    if tta == "flip":
        return [(1 / 2, image), (1 / 2, mirrored)]
    if tta == "shift":
        return [(1 / 2, image), *((1 / 4, view) for view in shifted)]
    both = [(1 / 4, image), (1 / 4, mirrored)]
    return both + [(1 / 8, one) for view in shifted for one in (view, view[:, ::-1])]


@pytest.fixture(scope="module")
def model():
    return small.train(epochs=4, learning_rate=0.01, normalize=True)[0].model


@pytest.mark.parametrize("tta", TTA)
def test_the_views_are_the_image_and_those_moved_by_one_pixel_and_their_mirror_images(tta):
    image = np.arange(4 * 5 * 2, dtype=np.uint8).reshape(4, 5, 2)
    made, expected = list(tta_views(image[np.newaxis], tta)), by_hand(image, tta)
    assert sum(weight for weight, _ in made) == 1 and len(made) == len(expected)
    for weight, view in expected:
        assert [w for w, (found,) in made if np.array_equal(found, view)] == [weight]


@pytest.mark.parametrize("tta", TTA)
def test_the_outputs_are_the_weighted_mean_of_those_of_the_views(tta, model):
    logits = np.zeros((50, 3))
    for i, image in enumerate(IMAGES):
        for weight, view in by_hand(image, tta):
            logits[i] += weight * model.logits(view[np.newaxis])[0].astype(np.float64)
    assert model.normalization is not None
    found = model.logits(IMAGES, tta=tta)
    assert found.dtype == np.float32 and np.abs(found - model.logits(IMAGES)).max() > 1e-3
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(IMAGES, tta=tta), probabilities, rtol=1e-3)
    np.testing.assert_array_equal(model.predict(IMAGES, tta=tta), logits.argmax(axis=1))
    evaluation = model.evaluate(IMAGES, LABELS, tta=tta)
    assert evaluation.accuracy == (logits.argmax(axis=1) == LABELS).mean()
    loss = -np.log(probabilities[np.arange(50), LABELS]).mean()
    np.testing.assert_allclose(evaluation.loss, loss, rtol=1e-4)


def test_values_are_averaged_and_floats_of_any_scale_are_taken(model):
    values = replace(model, task="regression", classes=("x", "y", "z"), training={})
    expected = model.logits(IMAGES, tta="both")
    np.testing.assert_array_equal(values.predict(IMAGES, tta="both"), expected)
    scaled = model.logits((IMAGES / 255).astype(np.float32), tta="both")
    np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-5)
    standardised = replace(model, seen=(-3.0, 3.0), normalization=None)
    given = (IMAGES / 127.5 - 1).astype(np.float32)
    mirrored = standardised.logits(given[:, :, ::-1], tta="flip")
    np.testing.assert_allclose(standardised.logits(given, tta="flip"), mirrored, rtol=1e-5)


def test_no_image_one_pixel_and_many_images(model):
    assert model.logits(IMAGES[:0], tta="both").shape == (0, 3)
    many = np.concatenate([IMAGES] * 21)  # more than are made together
    found = model.logits(many, tta="both")
    np.testing.assert_array_equal(found[-50:], model.logits(IMAGES, tta="both"))
    ((_, image), *_, (_, moved)) = tta_views(np.ones((1, 1, 1, 1), np.uint8), "shift")
    np.testing.assert_array_equal(image, moved)


def test_another_word_is_refused(model):
    with pytest.raises(
        SettingError, match="tta must be auto, flip, shift, both or None, not 'mirror'"
    ):
        model.predict_proba(IMAGES, tta="mirror")


def test_a_network_on_one_thread_and_two_says_the_same(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    many = np.concatenate([IMAGES] * 60)
    one, two = (minicnn.load(tmp_path / "m.safetensors", threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.logits(many, tta="both"), two.logits(many, tta="both"))


def test_auto_mirrors_only_where_training_did(model):
    """A digit's mirror image is no digit."""
    np.testing.assert_array_equal(
        model.logits(IMAGES, tta="auto"), model.logits(IMAGES, tta="shift")
    )
    for augment, tta in (
        ({"flip": "alternating"}, "both"),
        ({"crop": 2}, "shift"),
        (None, "shift"),
    ):
        other = replace(model, training={"settings": {"augment": augment}})
        np.testing.assert_array_equal(
            other.logits(IMAGES, tta="auto"), other.logits(IMAGES, tta=tta)
        )
    mirrored = small.train(epochs=1, augment={"flip": True})[0].model
    np.testing.assert_array_equal(
        mirrored.logits(IMAGES, tta="auto"), mirrored.logits(IMAGES, tta="both")
    )
