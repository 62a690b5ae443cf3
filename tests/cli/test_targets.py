"""Values, several labels an image, images brought together and trained weights, by the command
line."""

import json

import numpy as np
import pytest
from PIL import Image

from minicnn import Trainer, load
from tests.cli.conftest import SOFTMAX, write_npz
from tests.training import small


def values(path, **arrays):
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    rows = (x[:, :2, 0] > 127).astype(np.uint8)
    y = rows if arrays else x.mean(axis=(1, 2)) / 255
    return write_npz(path, x_train=x, y_train=y, x_test=x[:9], y_test=y[:9], class_names=None)


def folders(place):
    """Class folders of pictures of several sizes, one of them in colours."""
    for name, value in (("ant", 20), ("bee", 200)):
        (place / "set" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8 + i, 8), value).save(place / "set" / name / f"{i}.png")
    Image.new("RGB", (9, 9), (20, 20, 20)).save(place / "set" / "ant" / "colour.png")


def test_values_are_trained_evaluated_and_predicted(place, minicnn):
    values(place / "v.npz")
    train = ("train", "--data", "v.npz", "--model", "softmax", "--loss", "mse", "--epochs", "2")
    trained = minicnn(*train, "--output", "run")
    assert trained.status == 0 and "R² " in trained.out
    figures = json.loads(minicnn("evaluate", "run", "--json").out)
    assert figures["accuracy"] is None and figures["errors"][0]["name"] == "output 0"
    shown = minicnn("evaluate", "run").out
    assert "mean absolute error" in shown and "accuracy" not in shown
    predicted = json.loads(minicnn("predict", "run", "v.npz", "--json").out)["predictions"]
    x = np.load(place / "v.npz")["x_test"]
    found = [each["values"]["output 0"] for each in predicted]
    np.testing.assert_allclose(found, load("run").predict(x), rtol=1e-5)
    assert minicnn("predict", "run", "v.npz").out.splitlines()[0].split() == [
        "image",
        "output",
        "0",
    ]
    report = minicnn("evaluate", "run", "--report")
    assert report.status == 2 and "--report shows classes" in report.err


def test_several_labels_have_a_precision_and_a_recall_each(place, minicnn):
    values(place / "m.npz", several=True)
    minicnn("train", "--data", "m.npz", "--model", "softmax", "--loss", "binary_cross_entropy",
        "--epochs", "2", "--output", "run")  # fmt: skip
    shown = minicnn("evaluate", "run")
    assert shown.status == 0 and "label 1" in shown.out and "confusion" not in shown.out


def test_pictures_are_brought_together_by_options_that_the_error_names(place, minicnn):
    folders(place)
    train = ("train", "--data", "set", "--model", "softmax", "--epochs", "1", "--output", "run")
    refused = minicnn(*train)
    assert refused.status == 1 and "together with --resize" in refused.err
    assert "--grayscale or --rgb" in minicnn("data", "info", "set", "--resize", "8").err
    for option, channels in (("--grayscale", 1), ("--rgb", 3)):
        info = json.loads(minicnn("data", "info", "set", "--resize", "6x4", option, "--json").out)
        assert info["image_shape"] == [6, 4, channels]
    assert minicnn(*train, "--resize", "6x4", "--rgb").status == 0
    assert load("run").network.input_shape == (6, 4, 3)
    assert minicnn("evaluate", "run").status == 0  # as the model was trained
    assert "--rgb would convert them" in minicnn("predict", "run", "set/bee/0.png", "--resize").err
    assert minicnn("predict", "run", "set/bee/0.png", "--resize", "--rgb").status == 0
    assert "height x width" in minicnn(*train, "--resize", "6x").err


def test_init_goes_on_from_trained_weights(place, minicnn):
    train = ("train", "--data", "tiny.npz", "--epochs", "1", "--quiet")
    minicnn(*train, "--model", "softmax", "--output", "first")
    minicnn(*train, "--init", "first", "--lr", "1e-9", "--output", "then")
    first, then = load("first"), load("then")
    np.testing.assert_allclose(then.params, first.params, atol=1e-6)
    assert then.network == first.network and then.training["settings"]["init"] == "first"
    values(place / "m.npz", several=True)
    other = minicnn("train", "--init", "first", "--data", "m.npz", "--loss", "binary_cross_entropy")
    assert other.status == 1 and "has 3 outputs" in other.err and "has 2 classes" in other.err


@pytest.mark.parametrize(("verb", "more"), [("evaluate", ()), ("train", ("--resume",))])
def test_a_run_of_python_asks_for_its_data(place, minicnn, verb, more):
    trainer = Trainer(small.network(), epochs=1)
    trainer.fit(*small.arrays(50), test=small.arrays(9), output=place / "python")
    said = minicnn(verb, *more, "python", *(("--epochs", "2") if more else ()))
    assert said.status == 1 and "arrays of a Python program" in said.err and "--data" in said.err


def test_a_model_to_go_on_from_brings_its_network(place, minicnn):
    assert minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run").status == 0
    both = minicnn("train", "--data", "tiny.npz", "--init", "run", "--model", "mlp")
    assert both.status == 2 and "--init and --model exclude each other" in both.error
    data = "--data", "tiny.npz"
    assert minicnn("warmup", *data, "--init", "run").out.startswith("softmax: compiled or found")
    assert "nowhere: no such file" in minicnn("warmup", *data, "--init", "nowhere").error
    none = minicnn("train", *SOFTMAX, "--augment", "none", "flip")
    assert none.status == 2 and "--augment none excludes all others" in none.error
    own = minicnn("import", "run/model.safetensors", "--model", "softmax", *data)
    assert own.status == 1 and "minicnn.load reads it" in own.error
    assert not (place / "model.safetensors").exists()
