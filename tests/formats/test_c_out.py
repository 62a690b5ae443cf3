"""The C file compiles without a warning and gives what the model gives. ``cc`` must be there."""

import ctypes
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from minicnn import preset
from minicnn.cli import main
from minicnn.formats.c_out import EMITTERS, write_c
from minicnn.network.presets import PRESETS
from minicnn.program.operations import OPERATIONS
from tests.formats import NEVER
from tests.formats.test_onnx_out import model_of
from tests.graphs import graphs
from tests.networks import oracle_inference


def answers(path, images, outputs, optimize="-O1"):
    """What ``predict`` of the compiled file gives for each image."""
    library = path.with_suffix(".so")
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    command = ["cc", *warnings, optimize, "-fPIC", "-shared", str(path), "-lm", "-o", str(library)]
    subprocess.run(command, check=True)
    predict = ctypes.CDLL(str(library)).predict
    made = np.empty((len(images), outputs), np.float32)
    for image, row in zip(np.ascontiguousarray(images), made, strict=True):
        predict(ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(row.ctypes.data))
    return made


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=graphs())
def test_any_network_gives_the_same_as_the_oracle(network, tmp_path_factory):
    model, path = model_of(network), tmp_path_factory.mktemp("export") / "net.c"
    write_c(model, path)
    x = np.random.default_rng(1).random((2, *network.input_shape), np.float32)
    expected = oracle_inference(network, model.params, x)
    error = np.abs(answers(path, x, network.outputs, "-O0") - expected).max()
    assert error <= 1e-4 * max(1, np.abs(expected).max())  # normalization of few numbers cancels


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_the_logits_of_the_model(name, tmp_path):
    normalization = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    model = model_of(preset(name, (16, 16, 3), 10), normalization=normalization)
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    write_c(model, tmp_path / "net.c", preprocess=True)
    expected = model.logits(images)
    error = np.abs(answers(tmp_path / "net.c", images, 10) - expected).max()
    assert error <= 1e-5 * max(1, np.abs(expected).max())


def test_every_operation_has_an_emitter_or_never_leaves():
    assert set(EMITTERS) | set(NEVER) == set(OPERATIONS) and not set(EMITTERS) & set(NEVER)


@pytest.mark.parametrize("probabilities", ["softmax", "sigmoid"])
def test_the_command_writes_one_file_without_allocation(tmp_path, monkeypatch, probabilities):
    monkeypatch.chdir(tmp_path)
    model = model_of(preset("lenet5", (16, 16, 1), 3), probabilities=probabilities)
    model.save("m.safetensors")
    command = ["export", "m.safetensors", "net.c", "--format", "c", "--preprocess", "--softmax"]
    assert main(command) == 0
    assert "alloc(" not in (tmp_path / "net.c").read_text()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
    made = answers(tmp_path / "net.c", images, 3)
    np.testing.assert_allclose(made, model.predict_proba(images), atol=1e-6)
