"""`gradcheck`: any network, batch and loss; exit status 1 for a gradient that is wrong."""

import json
import re

import numpy as np
import pytest

from minicnn.backends import cpu
from tests.cli.conftest import CONVOLUTIONAL

TINY = ("--data", "tiny.npz")


@pytest.fixture
def network(place):
    (place / "net.toml").write_text('name = "net"\n' + CONVOLUTIONAL)
    return "net.toml"


def test_a_network_with_new_weights_passes(minicnn, network):
    result = minicnn("gradcheck", *TINY, "--model", network)
    assert result.status == 0 and result.err == ""
    title, header, *rows = result.out.splitlines()
    assert re.fullmatch(r"net, 8 images, cross_entropy \d\.\d{4}, in float64", title)
    assert header.split() == ["tensor", "checked", "kinks", "error", "at", "explicit", "numeric"]
    assert [row.split()[0] for row in rows] == [
        "conv1.weight",
        "conv1.bias",
        "dense1.weight",
        "dense1.bias",
    ]
    assert all(row.endswith(" ok") for row in rows)
    assert max(map(len, result.out.splitlines())) <= 80


def test_a_trained_model_brings_its_data_and_its_loss(minicnn):
    options = (
        "--model",
        "mlp",
        "--loss",
        "huber",
        "--loss-kwargs",
        "delta=0.5",
        "--epochs",
        2,
        "--output",
        "run",
    )
    assert minicnn("train", *TINY, *options).status == 0
    result = minicnn("gradcheck", "run")
    assert result.status == 0 and result.out.startswith("mlp, 8 images, huber ")
    other = minicnn("gradcheck", "run", "--loss", "huber")
    assert (
        other.status == 0 and other.out.splitlines()[0] != result.out.splitlines()[0]
    )  # with the default delta


@pytest.mark.parametrize(
    "options",
    [
        (
            "--loss",
            "cross_entropy",
            "--class-weights",
            1,
            2,
            3,
            "--loss-kwargs",
            "label_smoothing=0.2",
        ),
        ("--class-weights", "bee=3"),
        ("--loss", "multi_margin"),
        ("-b", 1),
        ("--seed", 3),
        ("--samples", 2),
    ],
)
def test_options_change_the_figures_and_pass(options, minicnn, network):
    usual, changed = (
        minicnn("gradcheck", *TINY, "--model", network, *given) for given in ((), options)
    )
    assert changed.status == 0 and changed.out != usual.out


def test_json_has_every_figure(minicnn, network):
    result = minicnn("gradcheck", *TINY, "--model", network, "--json")
    found = json.loads(result.out)
    assert (found["network"], found["loss"], found["images"], found["passed"]) == (
        "net",
        "cross_entropy",
        8,
        True,
    )
    assert (found["seed"], found["steps"][0], found["tolerance"]) == (0, 1e-5, 1e-5)
    assert [tensor["weights"] for tensor in found["tensors"]] == [36, 4, 432, 3]
    for tensor in found["tensors"]:
        assert tensor["passed"] and tensor["checked"] + tensor["kinks"] == min(
            100, tensor["weights"]
        )
        assert tensor["error"] <= 1e-5


def test_the_loss_of_a_plugin_is_checked_as_any_other(minicnn, network):
    assert minicnn("plugins", "new", "mine", "--kind", "loss").status == 0
    result = minicnn(
        "gradcheck",
        *TINY,
        "--model",
        network,
        "--plugin",
        "minicnn-mine/minicnn_mine.py",
        "--loss",
        "mine",
    )
    assert result.status == 0 and ", mine " in result.out


def test_a_tensor_that_cannot_move_the_loss_is_no_more_than_zero(minicnn, place):
    """Black images make no filter without bias matter."""
    (place / "net.toml").write_text(
        CONVOLUTIONAL.replace("kernel_size = 3", "kernel_size = 3\nbias = false")
    )
    arrays = dict(np.load("tiny.npz"))
    np.savez("black.npz", **arrays | {"x_train": 0 * arrays["x_train"]})
    result = minicnn("gradcheck", "--data", "black.npz", "--model", "net.toml")
    assert result.status == 0
    assert [line.split()[-1] for line in result.out.splitlines()[2:]] == ["zero", "zero", "ok"]


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_a_wrong_gradient_is_an_error_after_the_table(output, minicnn, network, monkeypatch):
    right = cpu.Passes.backward
    monkeypatch.setattr(
        cpu.Passes, "backward", lambda self, *arguments: 1.01 * right(self, *arguments)
    )
    result = minicnn("gradcheck", *TINY, "--model", network, *output)
    assert result.status == 1
    assert result.error == (
        "minicnn: error: the explicit gradient differs from the numeric one by more than 1e-05 in "
        "conv1.weight, conv1.bias, dense1.weight, dense1.bias\n"
    )
    assert "WRONG" in result.out if not output else json.loads(result.out)["passed"] is False


def test_a_trace_ends_with_the_explicit_beside_the_numeric_derivative(minicnn, network):
    result = minicnn("gradcheck", *TINY, "--model", network, "--trace", "conv1.weight[0,2,0,3]")
    assert result.status == 0 and "∂dropout1/∂relu1 " in result.out
    lines = result.out.splitlines()
    assert lines[-3].startswith("∂C/∂conv1.weight[0,2,0,3] at ")
    explicit, numeric = (float(line.split()[1].rstrip(",")) for line in lines[-2:])
    assert explicit == pytest.approx(numeric, rel=1e-5)
    last = next(line for line in lines if line.startswith("∂conv1/∂conv1.weight[0,2,0,3]"))
    assert (
        float(last.split()[-1])
        == pytest.approx(explicit, rel=1e-5)
        == pytest.approx(float(last.split()[-2]), rel=1e-5)
    )
    traced = json.loads(
        minicnn(
            "gradcheck", *TINY, "--model", network, "--trace", "conv1.weight[0,2,0,3]", "--json"
        ).out
    )
    assert traced["trace"]["explicit"] == pytest.approx(explicit)
    assert traced["trace"]["factors"][0]["of"] == "C"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (
            ("--model", "mlp", "--trace", "conv1.weight[0]"),
            2,
            "unknown tensor of mlp 'conv1.weight'",
        ),
        (
            ("--model", "mlp", "--trace", "dense1.weight"),
            2,
            "names no single weight: write dense1.weight",
        ),
        (
            ("--model", "mlp", "--trace", "dense1.bias[128]"),
            2,
            "index 1 of dense1.bias must be from 0 to 127, not 128",
        ),
        (("--model", "mlp", "-b", 1000), 1, "has 60 images, fewer than --batch-size 1000"),
        (("--model", "mlp", "-b", 0), 2, "must be a whole number from 1 on"),
        (("--model", "mlp", "--seed", -1), 2, "--seed must be a whole number from 0 on"),
        (
            ("--model", "mlp", "--loss", "huber", "--loss-kwargs", "delt=1"),
            2,
            "unknown hyperparameter of loss huber 'delt'",
        ),
        (("--model", "nothing"), 2, "unknown network 'nothing'"),
        (("run", "--model", "mlp"), 2, "MODEL and --model exclude each other"),
        (("nowhere",), 1, "nowhere: no such file"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(options, status, message, minicnn):
    result = minicnn(
        "gradcheck", *(() if "run" in options or "nowhere" in options else TINY), *options
    )
    assert result.status == status and message in result.error
