"""What `predict` reads."""

import gzip
import sys

import numpy as np
import pytest
from PIL import Image

from minicnn.data.inputs import load_inputs
from minicnn.data.reading import ReadOptions
from minicnn.errors import DataError
from tests.data.idx_files import write_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        load_inputs(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def test_one_image_file(tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    names, images = load_inputs(tmp_path / "a.png")
    assert names == [str(tmp_path / "a.png")]
    assert np.array_equal(images, IMAGES[:1, ..., None])


def test_an_image_file_is_resized_when_asked_to(tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    assert load_inputs(tmp_path / "a.png", ReadOptions(resize=(2, 3)))[1].shape == (1, 2, 3, 1)


@pytest.mark.parametrize("name", ["set.npy", "set-images-idx3-ubyte", "set.gz"])
def test_arrays_are_told_by_their_content_and_numbered(tmp_path, name):
    if name.endswith("npy"):
        np.save(tmp_path / name, IMAGES)
    else:
        write_idx(tmp_path / name, IMAGES)
    names, images = load_inputs(tmp_path / name)
    assert names == [f"{tmp_path / name}[{i}]" for i in range(3)]
    assert np.array_equal(images, IMAGES[..., None])


@pytest.mark.parametrize(
    "keys",
    [
        ["x_train", "x_test", "x"],
        ["x_train", "x", "y"],
        ["images", "labels"],
        ["x_train", "y_train"],
        ["abc"],
    ],
)
def test_an_npz_gives_its_test_images_first(tmp_path, keys):
    order = ["x_test", "x", "images", "x_train", "abc"]
    arrays = {key: np.full((2, 3, 3), i, np.uint8) for i, key in enumerate(order) if key in keys}
    wanted = next(iter(arrays.values()))
    np.savez(tmp_path / "x.npz", **{key: arrays.get(key, np.arange(2)) for key in keys})
    assert np.array_equal(load_inputs(tmp_path / "x.npz")[1][..., 0], wanted)


def test_an_npz_of_unknown_keys_lists_them(tmp_path):
    np.savez(tmp_path / "x.npz", a=IMAGES, b=IMAGES)
    assert "x_test, x, images, x_train (found: a, b)" in refusal(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("stored", "read"), [(np.int64, np.int64), (np.uint16, np.uint16), (float, np.float32)]
)
def test_whole_numbers_keep_their_dtype_by_which_they_are_scaled(stored, read, tmp_path):
    np.save(tmp_path / "x.npy", IMAGES.astype(stored))
    images = load_inputs(tmp_path / "x.npy")[1]
    assert images.dtype == read and np.array_equal(images[..., 0], IMAGES)


def test_arrays_are_resized_and_made_grey_when_asked_to(tmp_path):
    np.save(tmp_path / "x.npy", np.repeat(IMAGES[..., None], 3, axis=-1))
    assert load_inputs(tmp_path / "x.npy")[1].shape == (3, 4, 5, 3)
    assert np.array_equal(
        load_inputs(tmp_path / "x.npy", ReadOptions(grayscale=True))[1][..., 0], IMAGES
    )
    assert load_inputs(tmp_path / "x.npy", ReadOptions(resize=(8, 9)))[1].shape == (3, 8, 9, 3)


def test_arrays_need_no_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    np.save(tmp_path / "x.npy", IMAGES)
    assert len(load_inputs(tmp_path / "x.npy")[1]) == 3


def test_what_holds_no_image_is_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello")
    np.save(tmp_path / "none.npy", IMAGES[:0])
    np.save(tmp_path / "flat.npy", IMAGES[0, 0])
    np.save(tmp_path / "object.npy", np.array([IMAGES, None], object))
    np.save(tmp_path / "nan.npy", np.full((1, 2, 2), np.nan))
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"hello"))
    assert "is not an NPY, NPZ, IDX, PNG" in refusal(tmp_path / "empty")
    assert "is not an NPY, NPZ, IDX, PNG" in refusal(tmp_path / "text")
    assert "holds no image" in refusal(tmp_path / "none.npy")
    assert "[N, H, W] or [N, H, W, C], not [5]" in refusal(tmp_path / "flat.npy")
    assert "Object arrays cannot be loaded" in refusal(tmp_path / "object.npy")
    assert "not a finite number" in refusal(tmp_path / "nan.npy")
    assert "is not an IDX file" in refusal(tmp_path / "text.gz")
    assert "No such file" in refusal(tmp_path / "missing.npy")


def test_images_of_emnist_are_set_upright_as_in_training(tmp_path, caplog):
    file = tmp_path / "emnist-letters-test-images-idx3-ubyte.gz"
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6), np.uint8)
    write_idx(file, images)
    np.testing.assert_array_equal(load_inputs(file)[1][..., 0], images.transpose(0, 2, 1))
    assert caplog.messages == [
        f"{file}: EMNIST's images, which its files hold transposed, are set upright"
    ]
