"""ONNX out and in beside onnxruntime, where it is installed: presets, random graphs, and the model
zoo's graphs that the package onnx carries, with random weights in place of constant ones."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import numpy_helper

from minicnn import from_onnx, load_dataset, preset
from minicnn.errors import NetworkError
from minicnn.network.presets import PRESETS
from tests.formats.test_onnx_in import logits
from tests.formats.test_onnx_out import channels_first, model_of
from tests.graphs import graphs

onnxruntime = pytest.importorskip("onnxruntime")
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
RESNET8 = Path(__file__).parents[3] / "shared" / "models" / "resnet8.onnx"  # beside a checkout


def answers(content, x):
    """What onnxruntime gives for ``x``, as its input takes it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})[0]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_any_network_gives_the_same(network):
    model = model_of(network)
    x = np.random.default_rng(1).random((2, *network.input_shape), np.float32)
    expected = logits(model, x)
    for training in (False, True):
        made = model.to_onnx(training=training).SerializeToString()
        error = np.abs(answers(made, channels_first(x)) - expected).max()
        assert error <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_the_logits_of_the_model(name):
    model = model_of(preset(name, (32, 32, 3), 10))
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    expected = model.logits(images)
    for layout in ("nchw", "nhwc"):
        made = model.to_onnx(layout=layout, preprocess=True).SerializeToString()
        found = answers(made, images if layout == "nhwc" else channels_first(images))
        assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", ["lenet5", "vgg-bn-tiny"])
def test_the_same_class_is_the_most_probable_of_2000_images(name):
    model, images = (
        model_of(preset(name, (28, 28, 1), 10)),
        load_dataset("fashion-mnist-12k").test.images,
    )
    made = model.to_onnx(preprocess=True, softmax=True).SerializeToString()
    found, expected = answers(made, channels_first(images)), model.predict_proba(images)
    assert len(images) == 2000
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


# --- graphs of others -----------------------------------------------------------------------------


def with_random_weights(path):
    """The graph whose constant weights are random ones, of about as large outputs as inputs."""
    made, rng = onnx.load(path), np.random.default_rng(0)
    shapes = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    positive = {
        node.input[4] for node in made.graph.node if node.op_type == "BatchNormalization"
    }  # variances
    kept = []
    for node in made.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        (name,), shape = node.output, tuple(shapes[node.input[0]])
        array = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])) / 2)
        array = rng.uniform(0.5, 1.5, shape) if name in positive else array
        made.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("inception_v2", "resnet50", "densenet121", "vgg19")
        ),
    ],
)
def test_graphs_of_the_model_zoo_give_the_same(name, tmp_path):
    made = with_random_weights(LIGHT / f"light_{name}.onnx")
    content, path = made.SerializeToString(), tmp_path / "net.onnx"
    path.write_bytes(content)
    model = from_onnx(path)
    x = np.random.default_rng(1).random((1, *model.network.input_shape), np.float32)
    found = answers(content, channels_first(x)).reshape(1, -1)
    softmax = made.graph.node[-1].op_type == "Softmax"
    expected = model.predict_proba(x) if softmax else logits(model, x)
    assert np.ptp(found) > 1e-4  # the outputs are not all the same
    np.testing.assert_allclose(expected, found, atol=1e-5 * np.abs(found).max())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bvlc_alexnet", r"\(LRN\): no layer computes it \(batch normalization in its place"),
        ("zfnet512", r"\(LRN\): no layer computes it"),
        ("inception_v1", r"\(LRN\): no layer computes it"),
        ("shufflenet", r"\(Reshape\): of .* a row, \[0, -1\], would fit"),
    ],
)
def test_graphs_of_the_model_zoo_that_are_refused_say_why(name, words):
    with pytest.raises(NetworkError, match=words):
        from_onnx(LIGHT / f"light_{name}.onnx")


@pytest.mark.skipif(not RESNET8.exists(), reason="lies beside the project's own checkout")
def test_the_pretrained_resnet8_of_mlperf_tiny_gives_its_outputs():
    model = from_onnx(RESNET8, std=1 / 255)
    with np.load(RESNET8.with_name("resnet8-cases.npz")) as cases:
        images, outputs = cases["images"], cases["outputs"]
    scaled = (images / np.float32(255)).astype(np.float32)
    np.testing.assert_allclose(model.predict_proba(scaled), outputs, atol=1e-5)
