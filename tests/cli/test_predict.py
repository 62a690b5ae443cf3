"""`predict`: labels with probabilities for images of every kind."""

import csv
import json
import subprocess

import numpy as np
import pytest
from PIL import Image

import minicnn as api
from minicnn.cli import predict
from minicnn.data.tta import TTA
from tests.cli.conftest import arrays, command, write_npz
from tests.data.idx_files import write_idx

IMAGES = arrays(6, 2)[0]


@pytest.fixture
def inputs(place):
    """The same six images in every form."""
    np.save(place / "images.npy", IMAGES)
    np.savez(place / "images.npz", x=IMAGES)
    write_idx(place / "images-idx3-ubyte.gz", IMAGES)
    (place / "pictures").mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(place / "pictures" / f"{i}.png")
    return place


def predictions(minicnn, *argv) -> list[dict]:
    result = minicnn("predict", *argv, "--json")
    assert result.status == 0, result.err
    shown = json.loads(result.out)
    assert shown["images_per_second"] > 0
    return shown["predictions"]


@pytest.mark.parametrize("name", ["images.npy", "images.npz", "images-idx3-ubyte.gz", "pictures"])
def test_every_form_gives_what_the_python_interface_gives(name, inputs, minicnn, model):
    probabilities = api.load(model).predict_proba(IMAGES)
    shown = predictions(minicnn, model, name)
    assert len(shown) == 6
    for row, prediction in zip(probabilities.tolist(), shown, strict=True):
        assert prediction["probabilities"] == dict(zip(("ant", "bee", "cat"), row, strict=True))
        assert prediction["probability"] == max(row) and prediction["index"] == row.index(max(row))
        assert prediction["label"] == ("ant", "bee", "cat")[prediction["index"]]
        assert prediction["name"].startswith(name)


def test_inputs_of_several_kinds_come_in_their_order(inputs, minicnn, model):
    np.save(inputs / "floats.npy", np.float32(IMAGES / 255))
    np.save(inputs / "integers.npy", IMAGES.astype(int))
    shown = predictions(
        minicnn, model, "pictures/3.png", "floats.npy", "images.npz", "integers.npy", "pictures"
    )
    assert [prediction["name"] for prediction in shown[:3]] == [
        "pictures/3.png",
        "floats.npy[0]",
        "floats.npy[1]",
    ]
    labels = [prediction["label"] for prediction in shown]
    assert labels[1:] == labels[1:7] * 4 and labels[0] == labels[4]


def test_the_table_names_each_image_with_its_label_and_the_runners_up(inputs, minicnn, model):
    result = minicnn("predict", model, "images.npy")
    header, first, *_ = lines = result.out.splitlines()
    assert len(lines) == 7 and header.startswith("image") and "runners-up" in header
    assert first.startswith("images.npy[0]  ant ") and "bee" in first and "cat" in first
    assert result.err.startswith("6 images, ") and "images/s" in result.err
    one = minicnn("predict", model, "images.npy", "--top", 1)
    assert "runners-up" not in one.out and "bee" not in one.out.splitlines()[1]


def test_another_shape_is_an_error_that_names_the_options(place, minicnn, model):
    np.save(place / "large.npy", np.zeros((2, 16, 12, 3), np.uint8))
    assert "--resize and --grayscale" in minicnn("predict", model, "large.npy").error
    assert "--grayscale" in minicnn("predict", model, "large.npy", "--resize").error
    assert minicnn("predict", model, "large.npy", "--resize", "--grayscale").status == 0


def test_a_folder_of_mixed_sizes_needs_resize(inputs, minicnn, model):
    Image.fromarray(np.zeros((20, 10), np.uint8)).save(inputs / "pictures" / "odd.png")
    result = minicnn("predict", model, "pictures")
    assert result.status == 1
    assert all(
        word in result.error for word in ("pictures/odd.png", "20×10×1", "8×8×1", "--resize")
    )
    assert len(predictions(minicnn, model, "pictures", "--resize")) == 7


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((1, 8, 8), 2.0), "from 0 to 1"),
        (np.full((1, 8, 8), np.nan), "NaN"),
        (np.zeros((0, 8, 8)), "no image"),
        (np.zeros(5), "shape"),
    ],
)
def test_images_that_cannot_be_meant_name_the_file(array, words, place, minicnn, model):
    np.save(place / "bad.npy", array)
    result = minicnn("predict", model, "bad.npy")
    assert result.status == 1 and "bad.npy" in result.error and words in result.error


def test_nothing_is_printed_when_one_of_the_inputs_is_bad(inputs, minicnn, model):
    result = minicnn("predict", model, "images.npy", "nowhere.png")
    assert result.status == 1 and "nowhere.png" in result.error and result.out == ""


def test_a_reader_of_many_predictions_may_stop_reading(place, minicnn, model):
    write_idx(place / "many-idx3-ubyte", np.tile(IMAGES, (5000, 1, 1)))
    assert len(predictions(minicnn, model, "many-idx3-ubyte")) == 30_000
    argv = command("predict", model, "many-idx3-ubyte")
    with subprocess.Popen(
        argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout.readline().startswith(
            "image"
        ) and running.stdout.readline().startswith("many")
        running.stdout.close()  # as `head` does
        assert running.stderr.read() == ""
    assert running.returncode == 1


@pytest.mark.parametrize(
    ("stored", "options"), [(np.uint16, ()), (np.float32, ("--data-max", 65535)), (np.uint8, ())]
)
def test_an_image_file_is_scaled_by_its_own_bits_whatever_the_training_images_had(
    place, minicnn, stored, options
):
    deep, y = arrays(60, 0)[0].astype(np.uint16) * 257, arrays(60, 0)[1]
    write_npz(
        place / "deep.npz",
        x_train=(deep // 257 if stored == np.uint8 else deep).astype(stored),
        y_train=y,
        x_test=None,
        y_test=None,
    )
    minicnn(
        "train",
        "--data",
        "deep.npz",
        "--model",
        "softmax",
        "--epochs",
        5,
        "--output",
        "run",
        "--quiet",
        *options,
    )
    Image.fromarray(deep[0]).save("16.png")
    Image.fromarray((deep[0] // 257).astype(np.uint8)).save("8.png")
    found = [
        prediction["probability"] for prediction in predictions(minicnn, "run", "16.png", "8.png")
    ]
    expected = api.load("run").predict_proba(deep[:1] / 257 / 255, maximum=1.0).max()
    assert found == pytest.approx([expected, expected], rel=1e-5)


def test_an_array_file_is_scaled_as_the_same_array(place, minicnn):
    """Dark images of 16 bits, whose values would fit 8."""
    deep = arrays(60, 0)[0].astype(np.uint16)
    write_npz(place / "deep.npz", x_train=deep * 257, x_test=None, y_test=None)
    minicnn("train", "--data", "deep.npz", "--model", "softmax", "--output", "run", "--quiet")
    model = api.load("run")
    for dtype in (np.uint16, np.int64, np.uint8):
        np.save("dark.npy", deep[:1].astype(dtype))
        found = predictions(minicnn, "run", "dark.npy")[0]["probability"]
        assert found == pytest.approx(model.predict_proba(np.load("dark.npy")).max(), rel=1e-6)


def test_a_closed_standard_input_is_one_line(model):
    argv = ["sh", "-c", '"$@" <&-', "sh", *command("predict", model, "-")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "minicnn: error: the input - is standard input, which is closed\n",
    )


def test_csv_has_the_most_probable_classes_in_columns(inputs, minicnn, model):
    proba = api.load(model).predict_proba(IMAGES)
    shown = minicnn("predict", model, "pictures", "--format", "csv", "--top", 2)
    header, *rows = csv.reader(shown.out.splitlines())
    assert header == ["image", "label", "probability", "label_2", "probability_2"]
    for i, (name, *cells) in enumerate(rows):
        best = np.argsort(-proba[i], kind="stable")[:2]
        assert name == f"pictures/{i}.png" and len(rows) == 6
        assert cells[::2] == [("ant", "bee", "cat")[k] for k in best]
        assert [float(cell) for cell in cells[1::2]] == proba[i][best].tolist()
    written = minicnn("predict", model, "pictures", "--output", "out.csv", "--top", 2)
    assert written.status == 0 and written.out == ""
    assert (inputs / "out.csv").read_text() == shown.out


def test_json_lines_have_the_most_probable_classes_in_their_order(inputs, minicnn, model):
    proba = api.load(model).predict_proba(IMAGES)
    out = minicnn("predict", model, "images.npy", "--format", "jsonl", "--top", 2).out
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["name"] for line in lines] == [f"images.npy[{i}]" for i in range(6)]
    for line, row in zip(lines, proba.tolist(), strict=True):
        assert list(line["probabilities"].values()) == sorted(row, reverse=True)[:2]
        assert line["label"] == next(iter(line["probabilities"]))


@pytest.mark.parametrize(
    "options", [["--output", "out.txt"], ["--json", "--format", "csv", "--output", "out.csv"]]
)
def test_a_format_that_is_not_clear_is_an_error(options, inputs, minicnn, model):
    result = minicnn("predict", model, "images.npy", *options)
    assert result.status == 2 and "--format" in result.error


def test_no_part_of_a_file_is_left_when_an_image_is_bad(inputs, minicnn, model, monkeypatch):
    monkeypatch.setattr(predict, "_VALUES", 128)
    (inputs / "pictures" / "5.png").write_bytes(b"\x89PNG")
    result = minicnn("predict", model, "pictures", "--output", "out.csv")
    assert result.status == 1 and "5.png" in result.error
    assert not [path for path in inputs.iterdir() if "out.csv" in path.name]


def test_images_are_read_while_others_are_printed(inputs, minicnn, model, monkeypatch):
    whole = {form: predict_text(minicnn, model, form) for form in ("table", "csv", "jsonl")}
    read = []
    original = predict._read_file
    monkeypatch.setattr(
        predict, "_read_file", lambda path, *rest: read.append(path) or original(path, *rest)
    )
    monkeypatch.setattr(predict, "_VALUES", 128)  # two images of 8×8
    sizes = []
    monkeypatch.setattr(
        api.Model,
        "predict_proba",
        lambda self, images, ask=api.Model.predict_proba, **how: (
            sizes.append((len(images), len(read))) or ask(self, images, **how)
        ),
    )
    for form, text in whole.items():
        assert predict_text(minicnn, model, form) == text
    assert sizes[:4] == [(1, 3), (2, 3), (2, 5), (2, 6)]


def predict_text(minicnn, model, form) -> str:
    return minicnn("predict", model, "pictures", "--format", form).out


def test_resize_says_how_many_images_it_changed(inputs, minicnn, model):
    Image.fromarray(np.zeros((20, 10), np.uint8)).save(inputs / "pictures" / "odd.png")
    result = minicnn("predict", model, "pictures", "--resize")
    assert "1 images were resized to 8×8" in result.err and "7 images, " in result.err
    assert "resized" not in minicnn("predict", model, "images.npy", "--resize").err


@pytest.mark.parametrize("name", ["pictures/2.png", "images.npy"])
def test_standard_input_is_a_file_like_another(name, inputs, model):
    argv = command("predict", model, "-", "--format", "csv")
    piped = subprocess.run(argv, input=(inputs / name).read_bytes(), capture_output=True)
    assert piped.returncode == 0, piped.stderr
    direct = subprocess.run([*argv[:-3], name, *argv[-2:]], capture_output=True)
    assert piped.stdout.decode().replace("standard input", name) == direct.stdout.decode()
    bad = subprocess.run(argv, input=b"no image", capture_output=True)
    assert bad.returncode == 1
    assert bad.stderr.startswith(b"minicnn: error: standard input is not an NPY")


def test_it_averages_over_views(inputs, minicnn, model):
    for tta in TTA:
        expected = api.load(model).predict_proba(IMAGES, tta=tta).max(axis=1).tolist()
        shown = predictions(minicnn, model, "images.npy", "--tta", tta)
        assert [prediction["probability"] for prediction in shown] == expected
