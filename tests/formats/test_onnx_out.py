"""ONNX out, against onnx's own evaluator and the oracle."""

import json
import sys

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from minicnn import Conv2d, Dense, Flatten, Model, Network, from_onnx, layer, load, preset
from minicnn.errors import DataError, MissingExtraError, NetworkError, SettingError
from minicnn.formats.onnx_out import EMITTERS
from minicnn.network.presets import PRESETS
from minicnn.program.operations import OPERATIONS
from minicnn.rules import ActivationRule
from tests.formats import NEVER
from tests.graphs import graphs
from tests.networks import oracle_inference, random_params


def model_of(network, seed=0, **more):
    params = random_params(network, np.random.default_rng(seed), np.float32)
    return Model(network, params, tuple(f"class {i}" for i in range(network.outputs)), **more)


class MaxPool(OpRun):
    """Takes pads as (top, left, bottom, right), as ONNX says; the evaluator's own takes them in
    another order where strides and dilations are 1."""

    op_domain = ""

    def _run(self, x, kernel_shape, pads=(0, 0, 0, 0), strides=(1, 1), dilations=(1, 1), **options):
        assert not options.pop("ceil_mode", 0) and not options.pop("storage_order", 0)
        assert set(options) <= {"auto_pad"}
        top, left, bottom, right = pads
        around = (0, 0), (0, 0), (top, bottom), (left, right)
        extent = [(taps - 1) * by + 1 for taps, by in zip(kernel_shape, dilations, strict=True)]
        padded = np.pad(x, around, constant_values=-np.inf)
        windows = sliding_window_view(padded, extent, axis=(2, 3))
        step = [slice(None, None, by) for by in (*strides, *dilations)]
        return (windows[:, :, *step].max(axis=(4, 5)),)


def answers(made, x):
    """What the graph gives for ``x`` as its input takes it."""
    evaluator = ReferenceEvaluator(made, new_ops=[MaxPool])
    (result,) = evaluator.run(None, {"input": np.ascontiguousarray(x)})
    return result


def channels_first(x):
    return x.transpose(0, 3, 1, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_any_network_gives_the_same_as_the_oracle(network):
    model = model_of(network)
    x = np.random.default_rng(1).random((2, *network.input_shape), np.float32)
    expected = oracle_inference(network, model.params, x)
    for training in (False, True):
        made = model.to_onnx(training=training)
        onnx.checker.check_model(made, full_check=True)
        error = np.abs(answers(made, channels_first(x)) - expected).max()
        assert error <= 1e-4 * max(
            1, np.abs(expected).max()
        )  # normalization of few numbers cancels


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_the_logits_of_the_model(name):
    model = model_of(preset(name, (32, 32, 3), 10))
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    made, expected = model.to_onnx(), model.logits(images)
    onnx.checker.check_model(made, full_check=True)
    result = answers(made, channels_first(images) * np.float32(1 / 255))
    assert np.abs(result - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    assert (made.opset_import[0].version, made.ir_version) == (20 if name == "fast" else 17, 9)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_images_go_in_as_they_are_and_probabilities_come_out(kind, layout):
    network = Network((5, 4, 2), [Conv2d(3, 2, name="first"), Flatten(), Dense(3, name="last")])
    for probabilities in ("softmax", "sigmoid"):
        model = model_of(
            network, maximum=200.0, image_dtype=kind, probabilities=probabilities, labels=(4, 5, 7)
        )
        made = model.to_onnx(layout=layout, preprocess=True, softmax=True)
        images = np.random.default_rng(1).integers(0, 200, (3, 5, 4, 2)).astype(kind)
        given = images if layout == "nhwc" else channels_first(images)
        np.testing.assert_allclose(answers(made, given), model.predict_proba(images), atol=1e-6)
    assert {"first", "last"} <= {node.name for node in made.graph.node}
    assert {"first.weight", "last.bias"} <= {one.name for one in made.graph.initializer}
    (metadata,) = made.metadata_props
    said = json.loads(metadata.value)
    assert said["classes"] == list(model.classes) and said["labels"] == [4, 5, 7]
    assert (said["maximum"], said["image_dtype"], said["preprocess"]) == (200.0, kind, True)


def test_the_normalization_of_channels_leaves_and_comes_back(tmp_path):
    network = Network((5, 4, 2), [Conv2d(3, 2), Flatten(), Dense(3)])
    model = model_of(network, normalization=((0.25, 0.5), (0.125, 0.75)))
    images = np.random.default_rng(1).integers(0, 256, (3, 5, 4, 2), np.uint8)
    expected = model.logits(images)
    for layout in ("nchw", "nhwc"):
        made = model.to_onnx(layout=layout, preprocess=True)
        given = images if layout == "nhwc" else channels_first(images)
        np.testing.assert_allclose(answers(made, given), expected, rtol=1e-5, atol=1e-5)
        onnx.save(made, tmp_path / "net.onnx")
        back = from_onnx(tmp_path / "net.onnx")
        np.testing.assert_allclose(back.logits(images), expected, rtol=1e-5, atol=1e-5)


def test_normalization_is_folded_unless_it_is_for_training():
    model = model_of(preset("resnet8", (8, 8, 3), 4))
    folded, kept = (
        [node.op_type for node in model.to_onnx(training=training).graph.node]
        for training in (False, True)
    )
    assert "BatchNormalization" not in folded and kept.count("BatchNormalization") == 7


def test_every_operation_has_a_mapping_or_never_leaves():
    assert set(EMITTERS) | set(NEVER) == set(OPERATIONS) and not set(EMITTERS) & set(NEVER)


def square(x):
    return x * x


def square_derivative(x):
    return 2.0 * x


def test_what_has_no_mapping_is_named():
    rule = ActivationRule("square", square, square_derivative, equation="y = x²", source="none")
    model = model_of(Network((2, 2), [Flatten(), layer(rule, name="odd"), Dense(2)]))
    with pytest.raises(NetworkError, match=r"layer 'odd': ONNX has nothing for .*'layer\.square'"):
        model.to_onnx()


def test_wrong_options_and_a_missing_package_are_said(monkeypatch):
    network = Network((2, 2), [Flatten(), Dense(2)])
    with pytest.raises(SettingError, match="layout must be nchw or nhwc, not 'hwc'"):
        model_of(network).to_onnx(layout="hwc")
    with pytest.raises(DataError, match="no probabilities"):
        model_of(network, task="regression").to_onnx(softmax=True)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minicnn-numba\[onnx\]'"):
        model_of(network).to_onnx()


def test_the_command_writes_a_whole_file_or_none(tmp_path, capsys, monkeypatch):
    from minicnn.cli import main

    monkeypatch.chdir(tmp_path)
    model = model_of(Network((4, 4), [Flatten(), Dense(2)]))
    model.save("m.safetensors")
    assert main(["export", "m.safetensors", "net.onnx", "--layout", "nhwc", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written == {"output": "net.onnx", "format": "onnx", "bytes": written["bytes"]}
    made = onnx.load("net.onnx")
    x = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)
    np.testing.assert_allclose(answers(made, x), load("m.safetensors").logits(x), atol=1e-5)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["export", "m.safetensors", "other.onnx"]) == 1
    assert "cannot write other.onnx: No space left" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "net.onnx"]
