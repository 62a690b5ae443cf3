"""IDX files, plain and packed, whole and damaged."""

import gzip
import tracemalloc

import numpy as np
import pytest

from minicnn.data import load_dataset
from minicnn.data.idx import read_idx
from minicnn.errors import DataError
from tests.data.idx_files import CODES, idx_bytes, write_idx, write_idx_folder

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def message(path) -> str:
    with pytest.raises(DataError) as caught:
        read_idx(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


@pytest.mark.parametrize("name", ["plain", "packed.gz"])
@pytest.mark.parametrize("dtype", CODES)
def test_every_type_is_read_in_native_order(tmp_path, name, dtype):
    array = (ARRAY.astype(dtype) - np.array(3, dtype)) * np.array(5, dtype)
    read = read_idx(write_idx(tmp_path / name, array))
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read, array)


def test_the_content_tells_whether_a_file_is_packed(tmp_path):
    (tmp_path / "a.gz").write_bytes(idx_bytes(ARRAY))
    (tmp_path / "b").write_bytes(gzip.compress(idx_bytes(ARRAY)))
    assert np.array_equal(read_idx(tmp_path / "a.gz"), ARRAY)
    assert np.array_equal(read_idx(tmp_path / "b"), ARRAY)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keep", [0, 2, 10, 16, 39])
def test_a_truncated_file_names_itself(tmp_path, packed, keep):
    data = idx_bytes(ARRAY)[:keep]
    (tmp_path / "x").write_bytes(gzip.compress(data) if packed else data)
    assert "ends early" in message(tmp_path / "x")


@pytest.mark.parametrize("lost", [1, 4, 8, 20])
def test_a_gz_that_ends_early_names_itself(tmp_path, lost):
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx_bytes(ARRAY))[:-lost])
    assert "ends early" in message(tmp_path / "x.gz")


def test_a_gz_with_a_flipped_byte_is_refused(tmp_path):
    data = bytearray(gzip.compress(idx_bytes(ARRAY)))
    data[-6] ^= 1  # in the check sum
    (tmp_path / "x.gz").write_bytes(data)
    assert "CRC check failed" in message(tmp_path / "x.gz")


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_after_the_values_are_refused(tmp_path, packed):
    data = idx_bytes(ARRAY) + b"x"
    (tmp_path / "x").write_bytes(gzip.compress(data) if packed else data)
    assert "goes on after" in message(tmp_path / "x")


@pytest.mark.parametrize(
    "start", [b"\x01\x00\x08\x03", b"\x00\x00\x07\x03", b"PK\x03\x04", b"\x89PNG"]
)
def test_a_wrong_magic_number_is_shown(tmp_path, start):
    (tmp_path / "x").write_bytes(start + idx_bytes(ARRAY)[4:])
    assert f"is not an IDX file: it starts with {start.hex(' ')}" in message(tmp_path / "x")


def test_a_header_that_promises_the_moon_asks_for_no_memory(tmp_path):
    data = b"\0\0\x08\x03" + b"\xff" * 12 + b"values"
    (tmp_path / "x").write_bytes(data)
    (tmp_path / "x.gz").write_bytes(gzip.compress(data))
    assert "ends early" in message(tmp_path / "x")
    assert "ends early" in message(tmp_path / "x.gz")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "No such file" in message(tmp_path / "x")
    assert "directory" in message(tmp_path)


@pytest.mark.parametrize("name", ["plain", "packed.gz"])
def test_reading_needs_hardly_more_memory_than_the_array(tmp_path, name):
    path = write_idx(
        tmp_path / name, np.random.default_rng(0).integers(0, 256, (2000, 64, 64), np.uint8)
    )
    tracemalloc.start()
    try:
        array = read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert array.nbytes <= peak < 1.5 * array.nbytes  # a second copy would make it 2


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize(("shape", "image_shape"), [((4, 5), (4, 5, 1)), ((4, 5, 3), (4, 5, 3))])
def test_a_folder_is_loaded_in_both_spellings_grey_and_in_colour(
    tmp_path, dot, suffix, shape, image_shape
):
    dataset = load_dataset(write_idx_folder(tmp_path / "set", dot, suffix, shape))
    assert dataset.image_shape == image_shape
    assert (len(dataset.train), len(dataset.test)) == (20, 10)
    assert dataset.classes == tuple("0123456789")
    assert dataset.train.labels.tolist() == [*range(10), *range(10)]


def test_a_folder_may_lack_the_test_files_but_not_the_labels(tmp_path):
    folder = write_idx_folder(tmp_path)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError, match=r"t10k-images-idx3-ubyte has no companion with the labels.*t10k-labels"
    ):
        load_dataset(folder)
    (folder / "t10k-images-idx3-ubyte").unlink()
    assert load_dataset(folder).test is None
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte has no companion with the labels"):
        load_dataset(folder)


def test_a_packed_file_has_a_limit_that_can_be_raised(tmp_path):
    path = tmp_path / "images-idx3-ubyte.gz"
    write_idx(path, np.zeros((1000, 40, 50), np.uint8))
    with pytest.raises(
        DataError, match=r"would take 0\.002 GB unpacked, above the limit of 0\.001 GB"
    ):
        read_idx(path, data_gb=0.001)
    assert read_idx(path, data_gb=0.002).shape == (1000, 40, 50)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_emnists_names_are_found_its_images_upright_its_labels_from_1(tmp_path, suffix, caplog):
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 5), np.uint8)
    labels = (1 + np.arange(12) % 3).astype(np.uint8)
    for part in ("train", "test"):
        write_idx(tmp_path / f"emnist-letters-{part}-images-idx3-ubyte{suffix}", images)
        write_idx(tmp_path / f"emnist-letters-{part}-labels-idx1-ubyte{suffix}", labels)
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("1", "2", "3")
    assert np.array_equal(dataset.train.labels, labels - 1) and len(dataset.test) == 12
    np.testing.assert_array_equal(dataset.train.images[..., 0], images.transpose(0, 2, 1))
    np.testing.assert_array_equal(dataset.test.images, dataset.train.images)
    assert caplog.messages == [
        f"{tmp_path}: EMNIST's images, which its files hold transposed, are set upright",
        f"{tmp_path}: the labels 1, 2, 3 are the classes 0 to 2",
    ]
    write_idx(tmp_path / f"emnist-digits-train-images-idx3-ubyte{suffix}", images)
    with pytest.raises(DataError, match=r"holds several sets \(emnist-digits, emnist-letters\)"):
        load_dataset(tmp_path)
