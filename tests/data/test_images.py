"""PNG and JPEG files of every mode."""

import sys

import numpy as np
import pytest
from PIL import Image

from minicnn.data.images import convert_image, convert_images, list_images, read_image
from minicnn.data.inputs import load_inputs
from minicnn.data.reading import ReadOptions
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


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_kept(tmp_path, name):
    values = GREY.astype(np.uint16) * 200 + 3
    image = read_image(save(tmp_path, Image.fromarray(values), name))
    assert image.dtype == np.uint16 and np.array_equal(image[..., 0], values)


def test_numbers_beyond_sixteen_bits_and_floats_are_refused(tmp_path):
    for values in (GREY.astype(np.int32) * 1000, GREY.astype(np.float32)):
        with pytest.raises(DataError, match=r"x\.tif holds .*save them as NPY"):
            read_image(save(tmp_path, Image.fromarray(values), "x.tif"))


@pytest.mark.parametrize(("drawing", "ground"), [(0, 255), (90, 255), (255, 0)])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_shape_that_only_the_alpha_channel_has_is_seen(tmp_path, mode, drawing, ground):
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    bands = [np.full((3, 4), drawing, np.uint8)] * (len(mode) - 1) + [alpha]
    image = read_image(save(tmp_path, Image.merge(mode, [Image.fromarray(band) for band in bands])))
    assert image.shape == (3, 4, len(bands) - 1 if mode == "RGBA" else 1)
    assert np.array_equal(image[..., 0], np.where(GREY > 100, drawing, ground))


def test_colours_that_nothing_shines_through_stay_as_they_are(tmp_path):
    opaque = np.dstack([COLOUR, np.full((3, 4), 255, np.uint8)])
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(opaque))), COLOUR)


@pytest.mark.parametrize(
    "options", [{}, {"transparency": 0}, {"transparency": bytes(range(0, 240, 20)) + b"\xff"}]
)
def test_a_palette_is_resolved_to_its_colours_on_white(tmp_path, options):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.putpalette(COLOUR.reshape(12, 3).tobytes())
    assert image.mode == "P"
    alpha = np.full((3, 4, 1), 255.0)
    if options:
        given = options["transparency"]
        alpha.reshape(-1)[: len(given) if isinstance(given, bytes) else 1] = (
            list(given[:12]) if given else 0
        )
    expected = COLOUR * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(read_image(save(tmp_path, image, **options)) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_as_its_exif_orientation_says(tmp_path, orientation):
    stored = Image.fromarray(np.kron(GREY, np.ones((16, 16), np.uint8)))
    turns = [
        None,
        None,
        0,
        3,
        1,
        5,
        4,
        6,
        2,
    ]  # Pillow's Transpose that makes it upright; source: EXIF 2.3, table 6
    upright = stored if orientation == 1 else stored.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(save(tmp_path, stored, "x.jpg", quality=95, exif=exif))
    assert image.shape == (*upright.size[::-1], 1)
    assert np.abs(image[..., 0].astype(int) - np.asarray(upright)).max() < 30


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.webp", {"lossless": True}),
        ("x.bmp", {}),
        ("x.tif", {}),
        ("x.tiff", {}),
        ("x.gif", {}),
        ("x.jfif", {"format": "jpeg", "quality": 95}),
    ],
)
def test_other_formats_are_read_and_listed(tmp_path, name, options):
    path = save(
        tmp_path, Image.fromarray(GREY).convert("RGB" if name == "x.webp" else "L"), name, **options
    )
    assert list_images(tmp_path) == [[path]]
    assert np.abs(read_image(path)[..., 0].astype(int) - GREY).max() < 9
    assert load_inputs(path)[1].shape[:3] == (1, 3, 4)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_jpeg_is_read_in_every_mode(tmp_path, mode, channels):
    image = read_image(
        save(tmp_path, Image.new("RGB", (4, 3), (90, 90, 90)).convert(mode), "x.jpg")
    )
    assert image.shape == (3, 4, channels)
    assert np.abs(image.astype(int) - 90).max() <= 3


def test_the_name_does_not_matter(tmp_path):
    assert np.array_equal(
        read_image(save(tmp_path, Image.fromarray(GREY), "x.dat", format="png"))[..., 0], GREY
    )


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
    with pytest.raises(DataError, match=r"x\.ppm is not a PNG, JPEG, WebP, BMP, TIFF or GIF image"):
        read_image(save(tmp_path, Image.fromarray(GREY), "x.ppm"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.png: No such file"):
        read_image(tmp_path / "x.png")


def test_the_images_of_a_folder_come_sorted_by_name_and_one_without_any_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no PNG, JPEG, WebP, BMP, TIFF or GIF file"):
        list_images(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / ".thumbnails").mkdir()
    for name in (
        "c.png",
        "d.JPG",
        ".hidden.png",
        "a.jpeg",
        ".thumbnails/a.png",
        "b/1.png",
        "b/2.bmp",
    ):
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)[0]]
    assert found == ["a.jpeg", "b/1.png", "b/2.bmp", "c.png", "d.JPG"]


def test_files_of_other_suffixes_are_counted_in_a_line(tmp_path, caplog):
    for name in ("b.png", "a.svg", "c.SVG", "d.heic", "README", ".DS_Store"):
        (tmp_path / name).touch()
    list_images(tmp_path)
    assert caplog.messages == [
        f"{tmp_path}: files that are not read as images: 1 .heic, 2 .svg, 1 no suffix"
    ]


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"reading image files needs pillow: .*\[images\]"):
        read_image(tmp_path / "x.png")


def test_grey_conversion_agrees_with_pillow():
    colours = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L")).astype(int)
    grey = convert_image(colours, ReadOptions(grayscale=True))
    assert grey.dtype == np.uint8 and grey.shape == (50, 60, 1)
    assert np.abs(grey[..., 0] - expected).max() <= 1
    assert (
        convert_image(np.full((1, 1, 3), 255, np.uint8), ReadOptions(grayscale=True)).item() == 255
    )


def test_resizing_agrees_with_pillow_and_takes_height_before_width():
    resized = convert_image(COLOUR, ReadOptions(resize=(5, 2)))
    expected = np.asarray(Image.fromarray(COLOUR).resize((2, 5), Image.Resampling.BILINEAR))
    assert resized.shape == (5, 2, 3)
    assert np.array_equal(resized, expected)


def test_floats_are_resized_and_made_grey_within_their_range():
    images = np.random.default_rng(0).random((3, 8, 9, 3), np.float32)
    converted = convert_images(images, ReadOptions(resize=(4, 4), grayscale=True))
    assert converted.dtype == np.float32 and converted.shape == (3, 4, 4, 1)
    assert converted.min() >= 0 and converted.max() <= 1
    assert np.allclose(converted.mean(), (images @ [0.299, 0.587, 0.114]).mean(), atol=0.05)


def test_images_of_the_right_kind_are_not_touched():
    assert np.shares_memory(convert_images(COLOUR[None], ReadOptions()), COLOUR)
    assert np.shares_memory(
        convert_image(GREY[..., None], ReadOptions(resize=(3, 4), grayscale=True)), GREY
    )


def test_four_channels_cannot_become_grey():
    with pytest.raises(DataError, match="4 channels cannot be made grey"):
        convert_image(np.zeros((2, 2, 4), np.uint8), ReadOptions(grayscale=True))


def test_a_large_picture_is_read_without_a_warning_of_the_decoder(tmp_path, monkeypatch):
    """Warnings are errors in these tests; a picture twice as large is refused."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    Image.new("L", (5, 6)).save(tmp_path / "large.png")
    Image.new("L", (6, 7)).save(tmp_path / "huge.png")
    assert read_image(tmp_path / "large.png").shape == (6, 5, 1)
    with pytest.raises(
        DataError, match=r"huge.png cannot be read: Image size \(42 pixels\) exceeds"
    ):
        read_image(tmp_path / "huge.png")
