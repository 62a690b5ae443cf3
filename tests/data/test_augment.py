"""What is drawn for the images, and the views that are made of it, against plain arithmetic."""

import numpy as np
import pytest

from minicnn import Augment
from minicnn.backends import cpu
from minicnn.data.normalization import channel_scale, measure
from minicnn.errors import SettingError
from tests.reference.augment import mixed_view

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 6, 7, 3), dtype=np.uint8)
ALL = np.arange(len(IMAGES))


def show(augment, epoch=1, images=IMAGES, scale=1.0):
    return cpu.show(images, np.arange(len(images)), scale, augment.draw(0, epoch, images))


@pytest.mark.parametrize("border", ["zero", "edge", "reflect"])
def test_a_crop_is_a_window_of_the_padded_image(border):
    mode = {"zero": "constant"}.get(border, border)
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
    seen = set()
    for epoch in range(1, 9):
        for view, image in zip(show(Augment(crop=2, border=border), epoch), padded, strict=True):
            windows = {(i, j): image[i : i + 6, j : j + 7] for i in range(5) for j in range(5)}
            (found,) = [at for at, window in windows.items() if np.array_equal(view, window)]
            seen.add(found)
    assert len(seen) > 20


def test_flips_mirror_about_half_of_the_images():
    views = np.concatenate([show(Augment(flip=True, flip_vertical=True), e) for e in range(1, 9)])
    counts = [0, 0]
    for view, image in zip(views, np.tile(IMAGES, (8, 1, 1, 1)), strict=True):
        forms = [image[::a, ::b] for a in (1, -1) for b in (1, -1)]
        (form,) = [k for k, one in enumerate(forms) if np.array_equal(view, one)]
        counts[0] += form % 2
        counts[1] += form // 2
    assert all(20 <= count <= 52 for count in counts)


def test_alternating_flip_shows_every_image_in_both_ways_in_two_epochs():
    augment = Augment(flip="alternating")
    first, second, third = (show(augment, epoch) for epoch in (1, 2, 3))
    np.testing.assert_array_equal(second, first[:, :, ::-1])
    np.testing.assert_array_equal(third, first)
    mirrored = (first != IMAGES).any(axis=(1, 2, 3))
    assert 0 < mirrored.sum() < len(IMAGES)


def test_cutout_sets_a_square_to_zero_after_the_scaling():
    ones = np.ones((40, 8, 8, 1), np.uint8)
    scale = channel_scale(1.0, ((0.5,), (0.25,)))
    cut = show(Augment(cutout=4), 1, ones, scale)[..., 0]
    assert set(np.unique(cut)) == {0.0, 2.0}
    sizes = (cut == 0).sum(axis=(1, 2))
    assert sizes.max() == 16 and sizes.min() >= 4


@pytest.mark.parametrize(
    "augment",
    [
        Augment(flip=True, flip_vertical=True, crop=2, border="edge", cutout=3),
        Augment(rotate=25, scale=0.2),
        Augment(rotate=40, scale=0.3, border="reflect", flip=True),
        Augment(rotate=180, border="edge", crop=4),
        Augment(brightness=0.2, contrast=0.4),
        Augment(mixup=0.4, crop=1),
        Augment(cutmix=1.0, flip=True),
        Augment(mixup=0.3, cutmix=0.7, rotate=10, cutout=2, brightness=0.1),
    ],
    ids=str,
)
def test_every_pixel_is_that_of_the_oracle(augment):
    scale = channel_scale(255.0, measure(IMAGES, ALL, 255.0))
    for epoch in (1, 2):
        views = augment.draw(5, epoch, IMAGES)
        found = cpu.show(IMAGES, ALL, scale, views)
        expected = [mixed_view(IMAGES, i, views, *scale) for i in ALL]
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert not np.array_equal(found, cpu.show(IMAGES, ALL, scale, Augment().draw(5, 1, IMAGES)))


def test_what_is_drawn_is_a_function_of_seed_epoch_and_image():
    augment = Augment(flip=True, crop=3, rotate=10, brightness=0.1, mixup=0.5)
    same = augment.draw(1, 2, IMAGES)
    np.testing.assert_array_equal(augment.draw(1, 2, IMAGES), same)
    for seed, epoch in ((1, 3), (2, 2)):
        assert (augment.draw(seed, epoch, IMAGES) != same).any()
    fewer = Augment(flip=True, crop=3)
    np.testing.assert_array_equal(fewer.draw(1, 2, IMAGES[:4]), fewer.draw(1, 2, IMAGES)[:4])


def test_a_partner_is_a_training_image_and_keeps_the_smaller_share():
    views = Augment(mixup=1.0, cutmix=1.0).draw(0, 1, IMAGES, train=np.array([2, 5]))
    assert set(views[:, 13]) <= {2.0, 5.0}
    assert (views[:, 15] >= 0.4).all() and (views[:, 15] <= 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": -1}, "crop must be a whole number from 0 on, not -1"),
        ({"crop": 1.5}, "crop must be"),
        ({"flip": "sometimes"}, "flip must be true, false or alternating"),
        ({"border": "wrap"}, "border must be zero or edge or reflect"),
        ({"mixup": 2}, "mixup must be a number from 0 to 1"),
        ({"rotate": float("nan")}, "rotate must be degrees"),
        ({"scale": "much"}, "scale must be a number"),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_named(options, message):
    with pytest.raises(SettingError, match=message):
        Augment(**options)
