"""PyTorch's state_dict in and out, against figures that PyTorch gave (`torch_modules.py`): it is
not needed here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from minicnn import (
    GELU,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    LayerNorm,
    MaxPool2d,
    Network,
    PReLU,
    ReLU,
    SiLU,
    Tanh,
    load,
    preset,
)
from minicnn.cli import main
from minicnn.errors import ModelFileError, NetworkError
from minicnn.formats.state_dict import from_state_dict, save_state_dict, to_state_dict
from minicnn.inference import Model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "torch.npz"
NETWORKS = {
    "lenet": Network(
        (8, 8, 1),
        [
            Conv2d(3, 3),
            ReLU(),
            MaxPool2d(2),
            Conv2d(5, 3, padding="same"),
            Tanh(),
            AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            Flatten(),
            Dense(7),
            GELU(),
            Dropout(0.3),
            Dense(4),
        ],
    ),
    "named": Network(
        (6, 8, 2),
        [
            Conv2d(4, (3, 2), (1, 2), (1, 0), bias=False, name="stem"),
            BatchNorm2d(name="norm"),
            ReLU(name="relu"),
            Conv2d(4, 3, padding=1, groups=4, name="body_0"),
            PReLU(name="body_1"),
            Conv2d(4, 1, groups=2, name="body_2"),
            Add(inputs=("body_2", "relu")),
            MaxPool2d((2, 1)),
            Flatten(),
            BatchNorm2d(name="row"),
            Dense(3, name="head"),
        ],
    ),
    "normalized": Network(
        (6, 5, 3),
        [
            Conv2d(4, 2, dilation=2),
            GroupNorm(2),
            LayerNorm(),
            SiLU(),
            GlobalAvgPool2d(),
            Dense(3),
        ],
    ),
}


def case_of(name):
    """(state_dict in PyTorch's order, images, outputs)."""
    with np.load(FIXTURE) as stored:
        state = {
            key.removeprefix(f"{name}/state/"): stored[key]
            for key in stored.files
            if key.startswith(f"{name}/state/")
        }
        return state, stored[f"{name}/images"], stored[f"{name}/outputs"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict_gives_the_outputs_of_pytorch(name):
    state, images, outputs = case_of(name)
    model = from_state_dict(state, NETWORKS[name])
    np.testing.assert_allclose(model.logits(images), outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_and_goes_back_to_the_bit(name):
    state, _, _ = case_of(name)
    back = to_state_dict(from_state_dict(state, NETWORKS[name]), state)
    wanted = {key: one for key, one in state.items() if not key.endswith("num_batches_tracked")}
    assert list(back) == list(wanted)
    for key, tensor in wanted.items():
        expected = np.broadcast_to(tensor, back[key].shape) if key == "body.1.weight" else tensor
        np.testing.assert_array_equal(back[key], expected, err_msg=key)


@pytest.mark.parametrize("name", ["lenet", "named"])
def test_a_file_of_one_by_its_numbers_or_by_its_names(name, tmp_path):
    state, images, outputs = case_of(name)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.numpy.save(state, {"format": "pt"}))
    model = from_state_dict(path, NETWORKS[name])
    np.testing.assert_allclose(model.logits(images), outputs, rtol=1e-5, atol=1e-5)
    save_state_dict(model, tmp_path / "back.safetensors", state)
    again = from_state_dict(tmp_path / "back.safetensors", NETWORKS[name])
    np.testing.assert_array_equal(again.params, model.params)


def test_layers_from_ten_on_come_after_the_ninth(tmp_path):
    """Their names are sorted as text in a file."""
    network = Network((2, 2, 1), [Flatten(), *[Dense(4) for _ in range(12)]])
    model = Model(network, network.initialize(np.random.default_rng(0)), tuple("abcd"))
    names = [f"{i}.{kind}" for i in range(12) for kind in ("weight", "bias")]
    save_state_dict(model, tmp_path / "w.safetensors", names)
    again = from_state_dict(tmp_path / "w.safetensors", network, "abcd")
    np.testing.assert_array_equal(again.params, model.params)


def test_by_name_the_order_does_not_matter():
    state, _, _ = case_of("named")
    one = from_state_dict(state, NETWORKS["named"])
    other = from_state_dict(dict(reversed(state.items())), NETWORKS["named"])
    np.testing.assert_array_equal(one.params, other.params)


def test_mean_and_deviation_are_those_of_the_images():
    state, images, _ = case_of("normalized")
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    plain = from_state_dict(state, NETWORKS["normalized"])
    model = from_state_dict(state, NETWORKS["normalized"], "abc", mean, std)
    assert model.classes == ("a", "b", "c")
    x = ((images - mean) / std).astype(np.float32)
    expected = plain.__class__(
        plain.network, plain.params, plain.classes, 1.0, seen=(-9.0, 9.0)
    ).logits(x)
    np.testing.assert_allclose(model.logits(images), expected, rtol=1e-5, atol=1e-5)


def wrong(change):
    state, _, _ = case_of("lenet")
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("10.bias"), "has 8 tensors, and 7 are given"),
        (lambda s: s.pop("7.bias"), "in order '10.weight' comes where dense1.bias .* is wanted"),
        (lambda s: s.update({"11.weight": s["0.weight"]}), "has 8 tensors, and 9 are given"),
        (
            lambda s: s.update({"7.weight": s["7.weight"].T}),
            r"'7.weight' has the shape \(20, 7\), and for dense1.weight .* \(7, 20\) would fit",
        ),
        (lambda s: s.update({"0.bias": s["0.bias"] * np.nan}), "'0.bias' holds what is no finite"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(NetworkError, match=words):
        from_state_dict(wrong(change), NETWORKS["lenet"])


def test_files_that_cannot_be_used_are_named(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    for path in (broken, tmp_path / "missing.safetensors"):
        with pytest.raises(ModelFileError, match=f"{path.name} cannot be read as safetensors"):
            from_state_dict(path, NETWORKS["lenet"])
    state, _, _ = case_of("named")
    path = tmp_path / "named.safetensors"
    path.write_bytes(safetensors.numpy.save({f"other.{name}": one for name, one in state.items()}))
    with pytest.raises(NetworkError, match=r"a file has no order, and its names .* are not those"):
        from_state_dict(path, NETWORKS["named"])


def test_on_the_command_line(tmp_path, capsys):
    network = preset("lenet5", (28, 28, 1), 10)
    model = Model(network, network.initialize(np.random.default_rng(1)), tuple("0123456789"))
    weights, out = tmp_path / "weights.safetensors", tmp_path / "model.safetensors"
    save_state_dict(model, weights)
    command = ["import", str(weights), "-o", str(out), "--json"]
    assert main([*command, "--model", "lenet5"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 44_426
    np.testing.assert_array_equal(load(out).params, model.params)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "--model" in error and error.count("\n") == 1
    assert main([*command, "--model", "mlp"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_pytorch_is_not_loaded():
    code = "import sys, minicnn.formats.torch; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_pytorch_the_error_says_what_to_install(monkeypatch):
    from minicnn.errors import MissingExtraError
    from minicnn.formats.torch import from_torch

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        MissingExtraError, match=r"needs the package torch: pip install .*\[torch\]"
    ):
        from_torch(None, (8, 8, 1))
