"""`summary`: the table of a network."""

import json

import pytest

from tests.cli.conftest import CONVOLUTIONAL, SOFTMAX, python


def test_the_table_of_a_preset_on_the_default_data(minicnn):
    result = minicnn("summary", "--model", "lenet5")
    assert result.status == 0
    for words in (
        "conv1",
        "24×24×6",
        "Dense(units=10)",
        "44,426",
        "multiply-adds",
        "bytes",
        "total",
    ):
        assert words in result.out


def test_without_arguments_it_is_the_default_network(minicnn):
    shown = json.loads(minicnn("summary", "--json").out)
    assert shown["input_shape"] == [28, 28, 1] and shown["total"]["output_shape"] == [10]


def test_json_has_every_layer_and_the_totals(minicnn):
    shown = json.loads(minicnn("summary", "--model", "lenet5", "--json").out)
    assert (shown["network"], len(shown["layers"])) == ("lenet5", 12)
    assert (
        shown["layers"][0]["output_shape"] == [24, 24, 6]
        and shown["layers"][0]["parameters"] == 156
    )
    assert (
        shown["total"]["parameters"]
        == 44_426
        == sum(layer["parameters"] for layer in shown["layers"])
    )
    assert shown["total"]["parameter_bytes"] == 4 * 44_426


def test_a_network_of_a_file_on_other_data(place, minicnn):
    (place / "net.toml").write_text(CONVOLUTIONAL)
    shown = json.loads(
        minicnn("summary", "--model", "net.toml", "--data", "tiny.npz", "--json").out
    )
    assert shown["input_shape"] == [8, 8, 1] and shown["total"]["output_shape"] == [3]


def test_a_model_file_and_a_run_folder_say_all_by_themselves(minicnn, model):
    file = minicnn("summary", f"{model}/model.safetensors")
    assert file.status == 0 and "softmax" in file.out and "195" in file.out
    assert minicnn("summary", model).out == file.out


def test_it_does_not_need_numba(minicnn, model):
    for argv in (["summary", model], ["summary", *SOFTMAX]):
        shown = python(
            f"import sys; from minicnn.cli import main; assert main({argv}) == 0; print(*sys.modules)"
        )
        modules = shown.splitlines()[-1].split()
        assert "numpy" in modules and "numba" not in modules


@pytest.mark.parametrize(
    "argv", [("model", "--model", "mlp"), ("model", "--data", "tiny.npz"), ("--model", "lenet")]
)
def test_wrong_usage_is_status_2(argv, minicnn):
    result = minicnn("summary", *argv)
    assert result.status == 2 and result.error
