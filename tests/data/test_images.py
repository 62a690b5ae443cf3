"""PNG and JPEG files of every mode."""

import sys

import numpy as np
import pytest
from PIL import Image

from minicnn.data.images import convert_image, convert_images, list_images, read_image
from minicnn.errors import DataError, MissingExtraError

GREY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def save(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_grey_stays_one_channel(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(GREY)))
    assert image.dtype == np.uint8
    assert np.array_equal(image, GREY[..., None])


def test_colour_stays_three_channels(tmp_path):
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(COLOUR))), COLOUR)


def test_one_bit_becomes_0_and_255(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(GREY > 100)))
    assert np.array_equal(image[..., 0], np.where(GREY > 100, 255, 0))


def test_sixteen_bits_become_eight(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(GREY.astype(np.uint16) * 257)))
    assert np.array_equal(image[..., 0], GREY)


def test_transparency_is_dropped(tmp_path):
    alpha = np.full((3, 4), 9, np.uint8)
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(np.dstack([COLOUR, alpha])))), COLOUR)
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    assert np.array_equal(read_image(save(tmp_path, grey)), GREY[..., None])


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": bytes(range(12))}])
def test_a_palette_is_resolved_to_its_colours(tmp_path, options):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.putpalette(COLOUR.reshape(12, 3).tobytes())
    assert image.mode == "P"
    assert np.array_equal(read_image(save(tmp_path, image, **options)), COLOUR)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_jpeg_is_read_in_every_mode(tmp_path, mode, channels):
    image = read_image(save(tmp_path, Image.new("RGB", (4, 3), (90, 90, 90)).convert(mode), "x.jpg"))
    assert image.shape == (3, 4, channels)
    assert np.abs(image.astype(int) - 90).max() <= 3


def test_the_name_does_not_matter(tmp_path):
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(GREY), "x.dat", format="png"))[..., 0], GREY)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.png") as caught:
        read_image(tmp_path / "x.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_a_truncated_image_is_named(tmp_path, name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = save(tmp_path, noise, name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=name):
        read_image(tmp_path / name)


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.bmp is not a PNG or JPEG image"):
        read_image(save(tmp_path, Image.fromarray(GREY), "x.bmp"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.png: No such file"):
        read_image(tmp_path / "x.png")


def test_the_images_of_a_folder_come_sorted_by_name_and_one_without_any_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no PNG or JPEG file"):
        list_images(tmp_path)
    for name in ("b.png", "c.JPG", ".hidden.png", "a.jpeg", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.png", "c.JPG"]


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"reading PNG and JPEG files needs pillow: .*\[images\]"):
        read_image(tmp_path / "x.png")


def test_grey_conversion_agrees_with_pillow():
    colours = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L")).astype(int)
    grey = convert_image(colours, None, grayscale=True)
    assert grey.dtype == np.uint8 and grey.shape == (50, 60, 1)
    assert np.abs(grey[..., 0] - expected).max() <= 1
    assert convert_image(np.full((1, 1, 3), 255, np.uint8), None, True).item() == 255


def test_resizing_agrees_with_pillow_and_takes_height_before_width():
    resized = convert_image(COLOUR, (5, 2), grayscale=False)
    expected = np.asarray(Image.fromarray(COLOUR).resize((2, 5), Image.Resampling.BILINEAR))
    assert resized.shape == (5, 2, 3)
    assert np.array_equal(resized, expected)


def test_floats_are_resized_and_made_grey_within_their_range():
    images = np.random.default_rng(0).random((3, 8, 9, 3), np.float32)
    converted = convert_images(images, (4, 4), grayscale=True)
    assert converted.dtype == np.float32 and converted.shape == (3, 4, 4, 1)
    assert converted.min() >= 0 and converted.max() <= 1
    assert np.allclose(converted.mean(), (images @ [0.299, 0.587, 0.114]).mean(), atol=0.05)


def test_images_of_the_right_kind_are_not_touched():
    assert np.shares_memory(convert_images(COLOUR[None], None, False), COLOUR)
    assert np.shares_memory(convert_image(GREY[..., None], (3, 4), True), GREY)


def test_four_channels_cannot_become_grey():
    with pytest.raises(DataError, match="4 channels cannot be made grey"):
        convert_image(np.zeros((2, 2, 4), np.uint8), None, True)
