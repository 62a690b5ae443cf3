"""Every bad input that reaches the command line: its exit status, one line that names it, and
nothing lost or left."""

import errno
import gzip
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from minicnn import load
from tests.cli.conftest import CONVOLUTIONAL, SOFTMAX, arrays, write_npz
from tests.data.idx_files import idx_bytes, write_idx_folder

IMAGES, LABELS = arrays(60, 0)


def idx(place, **files):
    """An IDX folder in which ``files`` replace the bytes of some."""
    folder = write_idx_folder(place / "set", shape=(8, 8))
    for name, data in files.items():
        (
            folder
            / {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"}[name]
        ).write_bytes(data)
    return folder


def gz_that_ends_early(place):
    folder = write_idx_folder(place / "set", shape=(8, 8), suffix=".gz")
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(idx_bytes(np.zeros((20, 8, 8), np.uint8)))[:-12])
    return folder


def class_folders(place, *sizes, empty_class=False):
    for name in ("ant", "bee"):
        (place / "set" / name).mkdir(parents=True)
        for i, size in enumerate(() if empty_class and name == "bee" else sizes):
            Image.fromarray(np.full(size, i, np.uint8)).save(place / "set" / name / f"{i}.png")
    return place / "set"


def empty_folder(place):
    (place / "set").mkdir()
    return place / "set"


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def pickle_that_acts(place):
    folder = empty_folder(place)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    return folder


BAD_DATA = {
    "a truncated IDX file": (lambda place: idx(place, images=idx_bytes(IMAGES)[:-1]), "ends early"),
    "an IDX file with a wrong magic": (
        lambda place: idx(place, images=b"\x01" + idx_bytes(IMAGES)[1:]),
        "not an IDX file",
    ),
    "a gz file that ends early": (gz_that_ends_early, "train-images-idx3-ubyte.gz"),
    "more images than labels": (
        lambda place: idx(place, labels=idx_bytes(np.arange(19, dtype="u1") % 3)),
        "19 labels",
    ),
    "a label outside the classes": (
        lambda place: write_npz(place / "bad.npz", y_test=LABELS[:30] + 1),
        "label 3",
    ),
    "an NPZ file without the keys": (
        lambda place: write_npz(place / "bad.npz", y_train=None),
        "y_train",
    ),
    "an NPZ file with objects": (
        lambda place: write_npz(place / "bad.npz", x_train=np.array([None])),
        "bad.npz",
    ),
    "floats beyond the scale": (
        lambda place: write_npz(place / "bad.npz", x_train=IMAGES * 0.5),
        "--data-max",
    ),
    "NaN in the data": (
        lambda place: write_npz(place / "bad.npz", x_train=np.full((60, 8, 8), np.nan)),
        "NaN",
    ),
    "images of mixed sizes": (lambda place: class_folders(place, (8, 8), (8, 9)), "8x9"),
    "an empty folder": (empty_folder, "is not a data set"),
    "a class with no image": (
        lambda place: class_folders(place, (8, 8), (8, 8), empty_class=True),
        "bee",
    ),
    "a pickle that does more than hold data": (pickle_that_acts, "data_batch_1"),
    "a file that is not there": (lambda place: place / "set", "no such file"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_are_status_1_and_one_line_with_the_name_of_what_is_bad(name, place, minicnn):
    make, words = BAD_DATA[name]
    path = make(place)
    before = sorted(place.rglob("*"))
    result = minicnn("train", "--model", "softmax", "--data", path)
    assert result.status == 1
    assert words in result.error and str(path) in result.error
    assert sorted(place.rglob("*")) == before


UNKNOWN = [
    (("--opt", "adm"), "'adam'"),
    (("--loss", "crossentropy"), "'cross_entropy'"),
    (("--sched", "cosin"), "'cosine'"),
    (("--model", "lenet"), "'lenet5'"),
    (("--data", "fashion-mnist-12"), "'fashion-mnist-12k'"),
    (("--opt-kwargs", "beta_1=0.9"), "'beta1'"),
    (("--sched", "step", "--sched-kwargs", "gama=1"), "'gamma'"),
    (("--loss-kwargs", "label_smooting=0.1"), "'label_smoothing'"),
    (("--momentum", "0.9"), "optimizer adam 'momentum'"),
    (("--config", "unknown.toml"), "'epochs'"),
    (("--model", "unknown_layer.toml"), "'Conv2d'"),
]


@pytest.mark.parametrize(("options", "near"), UNKNOWN)
def test_an_unknown_name_is_status_2_and_lists_the_near_matches(options, near, place, minicnn):
    (place / "unknown.toml").write_text("epoch = 3\n")
    (place / "unknown_layer.toml").write_text(CONVOLUTIONAL.replace("Conv2d", "Conv3d"))
    result = minicnn("train", *SOFTMAX, *options)
    assert result.status == 2
    assert "unknown" in result.error and near in result.error
    if options[0] in ("--opt", "--loss", "--sched") and len(options) == 2:
        assert "pip install" in result.error


VALUES = """--lr 0, --lr -1, --lr nan, --lr inf, --lr fast, --batch-size 61, --batch-size 0, --epochs 0, --epochs 1.5,
    --seed -1, --threads 0, --threads 3, --device tpu, --val-split 1, --clip-grad 0,
    --clip-grad-value -1, --tol 0, --patience 0, --warmup-epochs -1, --data-max 0, --limit 0, --log-interval
    0, --min-delta nan, --opt-kwargs beta1, --opt-kwargs beta1=high, --class-weights heavy"""


@pytest.mark.parametrize(("option", "value"), [pair.split() for pair in VALUES.split(",")])
def test_a_value_outside_its_range_is_status_2_and_names_the_option(option, value, place, minicnn):
    before = sorted(place.iterdir())
    result = minicnn("train", *SOFTMAX, option, value)
    assert result.status == 2 and option in result.error
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    "argv",
    [
        ("--class-weights", "1", "2"),
        ("--class-weights", "1", "2", "-3"),
        ("--class-weights", "ant=2", "3"),
        ("--class-weights", "ant=2", "ant=3"),
        ("--class-weights", "wasp=2"),
        ("--class-weights", "balanced", "1"),
        ("--loss-kwargs", "class_weights=2"),
        ("--loss", "mse", "--class-weights", "1", "2", "3"),
        ("--loss", "mse", "--class-weights", "balanced"),
        ("--opt-kwargs", "beta1=2"),
        ("--opt-kwargs", "beta1=0.8", "beta1=0.9"),
        ("--lr-factors", "bias=2", "bias=3"),
        ("--lr-factors", "bias=-1"),
        ("--lr-factors", "biases=2"),
        ("--decay-factors", "conv9.*=2"),
        ("--decay-factors", "bias=2", "--opt", "gd"),
        ("--opt", "gd", "-b", "5"),
        ("--opt", "momentum", "--momentum", "0.5", "--opt-kwargs", "momentum=0.5"),
        ("--config", "nowhere.toml"),
        ("--config", "tiny.npz"),
        ("--config", "wrong.toml"),
        ("--model", "nowhere.toml"),
    ],
)
def test_settings_that_contradict_each_other_are_status_2(argv, place, minicnn):
    (place / "wrong.toml").write_text('optimizer_kwargs = "fast"\n')
    result = minicnn("train", *SOFTMAX, *argv)
    assert result.status == 2 and result.error


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (CONVOLUTIONAL.replace("kernel_size = 3", "kernel_size = 9"), "larger than its input"),
        (CONVOLUTIONAL.replace('units = "classes"', "units = 4"), "3 classes"),
    ],
)
def test_a_network_that_does_not_fit_the_data_names_its_file(network, words, place, minicnn):
    (place / "net.toml").write_text(network)
    result = minicnn("train", "--data", "tiny.npz", "--model", "net.toml")
    assert result.status == 1 and "net.toml" in result.error and words in result.error


def test_a_run_folder_that_cannot_be_made_is_status_1(place, minicnn):
    (place / "file").write_text("")
    result = minicnn("train", *SOFTMAX, "--output", "file/run")
    assert result.status == 1 and "file/run" in result.error


@pytest.fixture
def full_disk(monkeypatch):
    """Make the disk full from the ``count``th write of the file ``name`` on."""

    def fill(name: str, count: int = 1) -> None:
        replace, seen = os.replace, []

        def fail(source, target):
            seen.extend([target] if str(target).endswith(name) else [])
            if len(seen) >= count:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)

    yield fill
    monkeypatch.undo()


@pytest.mark.parametrize("output", [(), ("--output", "a/b")])
def test_a_disk_that_is_full_from_the_start_leaves_no_folder_behind(
    output, place, minicnn, full_disk
):
    before = sorted(place.iterdir())
    full_disk("config.toml")
    result = minicnn("train", *SOFTMAX, "--quiet", *output)
    assert result.status == 1 and "config.toml" in result.error and "No space left" in result.error
    assert sorted(place.iterdir()) == before


def test_a_disk_that_gets_full_leaves_the_last_good_checkpoint_to_go_on_from(
    place, minicnn, full_disk, monkeypatch
):
    run = ("train", *SOFTMAX, "-b", 9, "--epochs", 4)
    assert minicnn(*run, "--output", "whole").status == 0
    full_disk("last.safetensors", 3)
    result = minicnn(*run, "--output", "run", "--quiet")
    assert result.status == 1 and "run/last.safetensors" in result.error
    assert [
        path.name for path in place.joinpath("run").iterdir() if path.name.startswith(".")
    ] == []
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert minicnn("evaluate", "run").status == 0
    assert minicnn("train", "--resume", "run").status == 0
    assert np.array_equal(load("run").params, load("whole").params)


@pytest.mark.parametrize("verb", ["evaluate", "summary", "predict"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "a checkpoint"])
def test_a_model_file_that_is_none_is_status_1_and_named(verb, damage, place, minicnn, model):
    file = place / "bad.safetensors"
    whole = (place / model / "model.safetensors").read_bytes()
    if damage != "missing":
        checkpoint = (place / model / "last.safetensors").read_bytes()
        file.write_bytes(
            {"truncated": whole[:-5], "foreign": b"hello", "a checkpoint": checkpoint}[damage]
        )
    result = minicnn(verb, file, *(["tiny.npz"] if verb == "predict" else []))
    assert result.status == 1 and str(file) in result.error
