"""The folder of NumPy alone gives what the model gives, without minicnn."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from minicnn import Dense, Flatten, Network, preset
from minicnn.cli import main
from minicnn.formats.numpy_out import EMITTERS, source, write_numpy
from minicnn.formats.program import program_of
from minicnn.network.presets import PRESETS
from minicnn.program.operations import OPERATIONS
from tests.formats import NEVER
from tests.formats.test_onnx_out import model_of
from tests.graphs import graphs
from tests.networks import oracle_inference


def predict_of(folder):
    """The function in the folder's file."""
    path = folder / "predict.py"
    names = {"__file__": str(path), "__name__": "predict"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names["predict"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=graphs())
def test_any_network_gives_the_same_as_the_oracle(network, tmp_path_factory):
    model = model_of(network)
    folder = tmp_path_factory.mktemp("export") / "net"
    write_numpy(model, folder)
    x = np.random.default_rng(1).random((2, *network.input_shape), np.float32)
    expected = oracle_inference(network, model.params, x)
    error = np.abs(predict_of(folder)(x) - expected).max()
    assert error <= 1e-4 * max(1, np.abs(expected).max())  # normalization of few numbers cancels


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_the_logits_of_the_model(name, tmp_path):
    normalization = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    model = model_of(preset(name, (32, 32, 3), 10), normalization=normalization)
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    write_numpy(model, tmp_path / "net", preprocess=True)
    expected = model.logits(images)
    error = np.abs(predict_of(tmp_path / "net")(images) - expected).max()
    assert error <= 1e-5 * max(1, np.abs(expected).max())


def test_every_operation_has_an_emitter_or_never_leaves():
    assert set(EMITTERS) | set(NEVER) == set(OPERATIONS) and not set(EMITTERS) & set(NEVER)


def test_the_command_writes_a_folder_that_needs_numpy_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = model_of(preset("lenet5", (16, 16, 1), 3))
    model.save("m.safetensors")
    command = ["export", "m.safetensors", "net", "--format", "numpy", "--preprocess", "--softmax"]
    assert main(command) == 0
    assert main(command) == 2 and "net is there" in capsys.readouterr().err
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
    np.save("images.npy", images)
    code = (
        "import sys; sys.modules['minicnn'] = sys.modules['numba'] = None; sys.path.insert(0, 'net')\n"
        "import numpy as np, predict; np.save('made.npy', predict.predict(np.load('images.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_allclose(np.load("made.npy"), model.predict_proba(images), atol=1e-6)
    done = subprocess.run(
        [sys.executable, "net/predict.py", "images.npy"], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("class ") and done.stdout.count("\n") == 2
    assert main([*command, "--training"]) == 2


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    model = model_of(Network((2, 2), [Flatten(), Dense(2)]))

    def full(*arguments, **tensors):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(Exception, match=r"cannot write .*: No space left"):
        write_numpy(model, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
    assert "def dense" in source(model, program_of(model), False, False)
