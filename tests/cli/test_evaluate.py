"""`evaluate`: the figures of a model on labelled images."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import minicnn as api
from tests.cli.conftest import SOFTMAX, arrays, write_npz
from tests.data.idx_files import write_idx


def figures(minicnn, *argv) -> dict:
    result = minicnn("evaluate", *argv, "--json")
    assert (result.status, result.err) == (0, "")
    return json.loads(result.out)


def test_it_takes_the_test_split_of_the_data_that_the_model_was_trained_on(place, minicnn, model):
    shown = figures(minicnn, model)
    report = json.loads((place / model / "report.json").read_text())
    for key in ("loss", "accuracy", "precision", "recall", "confusion", "classes"):
        assert shown[key] == report["test"][key]
    assert (
        shown["images"] == 30
        and shown["classes"] == ["ant", "bee", "cat"]
        and shown["accuracy"] > 0.9
    )
    assert shown["images_per_second"] > 0 and shown["seconds"] > 0 and shown["compile_seconds"] > 0


def test_the_table_has_loss_accuracy_speed_classes_and_confusion(minicnn, model):
    result = minicnn("evaluate", f"{model}/model.safetensors")
    assert (result.status, result.err) == (0, "")
    for words in (
        "loss",
        "accuracy",
        "images/s",
        "precision %",
        "recall %",
        "confusion matrix",
        "ant",
        "bee",
        "cat",
    ):
        assert words in result.out


def test_it_agrees_with_the_python_interface(minicnn, model):
    images, labels = arrays(30, 1)
    loaded = api.load(model)
    evaluation = loaded.evaluate(images, labels)
    shown = figures(minicnn, model)
    assert (shown["loss"], shown["accuracy"], shown["confusion"]) == (
        evaluation.loss,
        evaluation.accuracy,
        evaluation.confusion,
    )


def test_other_data_are_scaled_as_they_say(place, minicnn, model):
    images, labels = arrays(30, 1)
    write_npz(
        place / "floats.npz",
        x_train=np.float32(images / 255),
        y_train=labels,
        x_test=np.float32(images / 255),
    )
    write_npz(
        place / "integers.npz",
        x_train=images.astype(int),
        y_train=labels,
        x_test=images.astype(int),
    )
    expected = figures(minicnn, model)
    for argv in (["--data", "floats.npz"], ["--data", "integers.npz", "--data-max", 255]):
        shown = figures(minicnn, model, *argv)
        assert shown["confusion"] == expected["confusion"]
        assert shown["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_declared_maximum_is_remembered(place, minicnn):
    write_npz(
        place / "tiny.npz",
        x_train=arrays(60, 0)[0].astype(int),
        x_test=arrays(30, 1)[0].astype(int),
    )
    trained = minicnn(
        "train", *SOFTMAX, "--data-max", 300, "--epochs", 2, "--output", "run", "--json"
    )
    assert figures(minicnn, "run")["loss"] == json.loads(trained.out)["test"]["loss"]


def test_classes_that_differ_in_number_are_an_error(minicnn, model):
    result = minicnn("evaluate", model, "--data", "fashion-mnist-12k")
    assert result.status == 1 and "10 classes" in result.error


def test_classes_with_other_names_are_refused(place, minicnn, model):
    write_npz(place / "other.npz", class_names=np.array(["ant", "b", "c"]))
    result = minicnn("evaluate", model, "--data", "other.npz")
    assert result.status == 1 and "does not know b, c; it knows 3: ant, bee, cat" in result.error


def test_classes_in_another_order_are_matched_by_name_and_some_may_be_missing(
    place, minicnn, model
):
    expected = figures(minicnn, model)
    (x, y), (x_test, y_test) = arrays(60, 0), arrays(30, 1)
    write_npz(
        place / "turned.npz",
        y_train=2 - y,
        y_test=2 - y_test,
        class_names=np.array(["cat", "bee", "ant"]),
    )
    assert figures(minicnn, model, "--data", "turned.npz")["confusion"] == expected["confusion"]
    words = np.array(["ant", "bee", "cat"])[y_test]
    write_npz(place / "words.npz", x_train=None, y_train=None, y_test=words, class_names=None)
    assert figures(minicnn, model, "--data", "words.npz")["confusion"] == expected["confusion"]
    write_npz(
        place / "two.npz",
        x_test=x_test[y_test > 0],
        y_test=y_test[y_test > 0] - 1,
        x_train=x[y > 0],
        y_train=y[y > 0] - 1,
        class_names=np.array(["bee", "cat"]),
    )
    assert figures(minicnn, model, "--data", "two.npz")["confusion"] == [
        [0, 0, 0],
        *expected["confusion"][1:],
    ]


def write_folders(folder, images: int, seed: int, names=("ant", "bee", "cat")):
    """Images of the three classes as PNG files in class folders."""
    for i, (image, label) in enumerate(zip(*arrays(images, seed), strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / names[label] / f"{seed}-{i}.png")


def test_all_of_a_set_that_is_only_for_testing_is_judged(place, minicnn, model):
    x, y = arrays(30, 1)
    expected = figures(minicnn, model)
    write_folders(place / "late", 30, 1)
    write_folders(place / "only" / "test", 30, 1)
    write_npz(place / "only.npz", x_train=None, y_train=None, class_names=None)
    (place / "idx").mkdir()
    write_idx(place / "idx" / "t10k-images-idx3-ubyte", x)
    write_idx(place / "idx" / "t10k-labels-idx1-ubyte", y.astype(np.uint8))
    for data in ("late", "only", "only.npz", "idx"):
        shown = figures(minicnn, model, "--data", data)
        assert (shown["images"], shown["confusion"]) == (30, expected["confusion"]), data


def test_the_test_images_of_class_folders_stay_when_images_are_added_and_that_is_said(
    place, minicnn
):
    write_folders(place / "set", 60, 3)
    assert (
        minicnn(
            "train",
            "--data",
            "set",
            "--model",
            "softmax",
            "--epochs",
            3,
            "--output",
            "run",
            "--quiet",
        ).status
        == 0
    )
    before = figures(minicnn, "run", "--data", "set")
    assert before["images"] < 30 and figures(minicnn, "run")["confusion"] == before["confusion"]
    write_folders(place / "set", 9, 4)
    result = minicnn("evaluate", "run", "--json")
    assert result.status == 0 and "not those that the model was trained on" in result.err
    shown = json.loads(result.out)
    assert before["images"] <= shown["images"] <= before["images"] + 9


def test_images_of_another_shape_are_an_error_that_says_what_is_wanted(place, minicnn, model):
    write_npz(
        place / "other.npz",
        x_train=np.zeros((60, 9, 8), np.uint8),
        x_test=np.zeros((30, 9, 8), np.uint8),
    )
    result = minicnn("evaluate", model, "--data", "other.npz")
    assert result.status == 1 and "8, 8, 1" in result.error


def test_a_loss_whose_plugin_is_gone_is_null_with_a_warning(place, minicnn, model):
    loaded = api.load(model)
    gone = {
        **loaded.training,
        "loss": {"name": "gone", "hyperparameters": {}, "class_weights": None},
    }
    replace(loaded, training=gone).save(place / "gone.safetensors")
    result = minicnn("evaluate", "gone.safetensors", "--json")
    assert (
        result.status == 0
        and "'gone'" in result.err
        and result.err.startswith("minicnn: warning: ")
    )
    shown = json.loads(result.out)
    assert shown["loss"] is None and shown["accuracy"] == figures(minicnn, model)["accuracy"]


def test_a_model_that_does_not_say_its_data_needs_them_named(place, minicnn, model):
    replace(api.load(model), training={}).save(place / "bare.safetensors")
    result = minicnn("evaluate", "bare.safetensors")
    assert result.status == 2 and "--data" in result.error
    assert figures(minicnn, "bare.safetensors", "--data", "tiny.npz")["loss"] is None


def test_more_threads_than_cores_are_wrong_usage(minicnn, model):
    result = minicnn("evaluate", model, "--threads", 3)
    assert result.status == 2 and "--threads" in result.error


def test_channels_first_and_the_limit_of_memory_are_options_of_every_verb(place, minicnn):
    x, x_test = arrays(60, 0)[0], arrays(30, 1)[0]
    first = [np.repeat(images[:, None], 3, axis=1) for images in (x, x_test)]
    write_npz(place / "first.npz", x_train=first[0], x_test=first[1])
    argv = ("--data", "first.npz", "--channels", "first")
    assert (
        minicnn(
            "train", *argv, "--model", "softmax", "--epochs", 2, "--output", "run", "--quiet"
        ).status
        == 0
    )
    assert api.load("run").network.input_shape == (8, 8, 3)
    assert figures(minicnn, "run")["images"] == 30
    said = minicnn("data", "info", "first.npz").err
    assert (
        said.startswith("minicnn: first.npz: images [60, 3, 8, 8]")
        and "say --channels first" in said
    )
    for verb in (("train",), ("evaluate", "run"), ("gradcheck",)):
        result = minicnn(*verb, "--data", "first.npz", "--data-gb", 1e-6)
        assert (
            result.status == 1
            and "above the limit of 1e-06 GB; allow more with --data-gb" in result.error
        )
    assert "--data-gb" in minicnn("predict", "run", "first.npz", "--data-gb", 1e-6).error


@pytest.mark.parametrize(("argv", "tta"), [((), "auto"), (("flip",), "flip")])
def test_it_averages_over_views(argv, tta, minicnn, model):
    evaluation = api.load(model).evaluate(*arrays(30, 1), tta=tta)
    shown = figures(minicnn, model, "--tta", *argv)
    assert (shown["loss"], shown["confusion"]) == (evaluation.loss, evaluation.confusion)
    assert shown["loss"] != figures(minicnn, model)["loss"]


def test_views_of_another_name_are_refused(minicnn, model):
    result = minicnn("evaluate", "--tta", model)
    assert result.status == 2 and "argument --tta: invalid choice" in result.err
