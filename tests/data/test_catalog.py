"""Names, places, and the set that comes with minicnn."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from minicnn.data import load_dataset
from minicnn.data.catalog import list_datasets, locate
from minicnn.data.known import EMBEDDED, KNOWN, cache_folder
from minicnn.errors import DataError, UnknownNameError
from tests.data.idx_files import write_idx_folder

FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home, a working folder and a cache with nothing in them."""
    for variable in ("MINICNN_DATA", "MINICNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    # A machine may have this one installed.
    monkeypatch.setitem(KNOWN, "fashion-mnist", replace(KNOWN["fashion-mnist"], elsewhere=()))
    return tmp_path / "home"


def save_npz(path, count=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=np.zeros((count, 4, 4), np.uint8), y_train=np.arange(count) % 10)


def test_the_embedded_set_holds_the_first_images_of_fashion_mnist():
    dataset = load_dataset("fashion-mnist-12k")
    digests = [
        hashlib.md5(array.tobytes()).hexdigest()
        for split in (dataset.train, dataset.test)
        for array in (split.images, split.labels.astype(np.uint8))
    ]
    assert digests == [
        "62c87171406e13c643c02120854111d4",
        "b5a5d39f65314486a2e2238f0f859f88",
        "c2966db507694f43ec3513c9e1f623a8",
        "ba7969dd4abe87fcb10a15a1dc2637ad",
    ]
    assert (len(dataset.train), len(dataset.test)) == (10_000, 2_000)
    assert dataset.image_shape == (28, 28, 1)
    assert dataset.train.images.dtype == np.uint8
    assert ", ".join(dataset.classes) == FASHION
    assert dataset.name == "fashion-mnist-12k"


def test_the_licence_lies_beside_the_embedded_set():
    text = (EMBEDDED / "fashion-mnist-LICENSE.txt").read_text()
    assert "Copyright (c) 2017 Zalando SE" in text
    assert "Permission is hereby granted, free of charge" in text


@pytest.mark.parametrize(
    ("place", "write"),
    [
        ("data/mnist", write_idx_folder),
        ("data/MNIST/raw", write_idx_folder),
        ("data/mnist.npz", save_npz),
        ("../home/.keras/datasets/mnist.npz", save_npz),
        ("../home/.cache/minicnn/datasets/mnist", write_idx_folder),
    ],
)
def test_a_known_set_is_found_where_people_have_it(tmp_path, place, write):
    write(tmp_path / "work" / place)
    dataset = load_dataset("mnist")
    assert len(dataset.train) == 20
    assert dataset.classes == tuple("0123456789")


def test_the_variables_name_further_places(tmp_path, monkeypatch):
    for variable, place in [
        ("MINICNN_DATA", "FashionMNIST/raw"),
        ("MINICNN_CACHE", "datasets/fashion-mnist"),
        ("XDG_CACHE_HOME", "minicnn/datasets/fashion-mnist"),
    ]:
        write_idx_folder(tmp_path / variable / place, suffix=".gz")
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(tmp_path / variable))
            assert str(locate("fashion-mnist")) == str(tmp_path / variable / place)
            assert ", ".join(load_dataset("fashion-mnist").classes) == FASHION
        with pytest.raises(DataError):
            load_dataset("fashion-mnist")


def test_a_place_with_something_else_is_passed_over(tmp_path):
    (tmp_path / "work" / "data" / "mnist" / "raw").mkdir(parents=True)
    write_idx_folder(cache_folder("mnist"))
    assert locate("mnist") == cache_folder("mnist")


def test_a_known_set_that_is_not_here_says_where_it_looked_and_how_to_get_it():
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10")
    text = str(caught.value)
    assert "minicnn data fetch cifar10" in text
    assert "data/cifar-10-batches-py" in text and str(cache_folder("cifar10")) in text
    assert "\n" not in text


def test_an_unknown_name_lists_near_ones_and_says_that_a_path_will_do():
    with pytest.raises(
        UnknownNameError, match=r"unknown data set 'fashion'.*did you mean 'fashion-mnist'.*path"
    ):
        load_dataset("fashion")


@pytest.mark.parametrize("path", ["no/such", "no.npz", "./mnist"])
def test_a_path_that_is_not_there_is_named(path):
    with pytest.raises(DataError, match=f"{path}: no such file or folder"):
        load_dataset(path)


def test_a_path_of_no_known_kind_says_what_was_expected(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(
        DataError, match=r"x\.txt is not a data set: expected .*IDX.*CIFAR-10.*class folders.*NPZ"
    ):
        load_dataset(tmp_path / "x.txt")


def test_a_run_on_arrays_says_that_no_file_holds_them():
    with pytest.raises(DataError, match=r"arrays of a Python program, .* with data="):
        load_dataset("arrays")


def test_the_list_tells_what_is_embedded_found_and_not_here(tmp_path):
    save_npz(tmp_path / "work" / "data" / "kmnist.npz")
    states = {state["name"]: state for state in list_datasets()}
    assert {name: state["state"] for name, state in states.items()} == {
        "fashion-mnist-12k": "embedded",
        "mnist": "not here",
        "fashion-mnist": "not here",
        "kmnist": "found",
        "cifar10": "not here",
    }
    assert states["kmnist"]["path"] == "data/kmnist.npz"
    assert states["mnist"]["path"] is None


def test_loading_arrays_imports_neither_pillow_nor_pooch_nor_numba():
    code = (
        "import sys; from minicnn.data import load_dataset; load_dataset('fashion-mnist-12k');"
        "import minicnn.data.fetch, minicnn.data.inputs;"
        "print(*{'PIL', 'pooch', 'requests', 'numba', 'rich'} & set(sys.modules))"
    )
    path = [entry for entry in sys.path if entry]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {code}"], capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == b""
