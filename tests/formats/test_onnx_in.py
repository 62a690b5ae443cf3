"""ONNX in: what minicnn writes, what others made, onnx's own node tests, and files that are wrong."""

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

import minicnn
from minicnn import Loss, from_onnx, load, preset
from minicnn.backends import backend
from minicnn.cli import main
from minicnn.errors import MinicnnError, ModelFileError, NetworkError
from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.gradient_check import gradcheck
from minicnn.network.normalization import GroupNorm
from minicnn.network.presets import PRESETS
from tests.formats.test_onnx_out import model_of
from tests.graphs import graphs


def logits(model, x):
    """What the network gives for [N, H, W, C], of any range."""
    x = np.ascontiguousarray(x, np.float32)
    return backend("cpu").Inference(model.network, model.params, None).logits(x, 1.0)


def graph_of(nodes, constants=(), dims=(2, 3, 4), output=(None, None), opset=17, **model):
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *dims])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **model)


def refused_pads(error):
    assert "(Pad): no layer computes it" in str(error) or ": pads" in str(error)


def one_line(error):
    assert "\n" not in str(error)


def read(made, tmp_path, **options):
    path = tmp_path / "net.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return from_onnx(path, **options)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=graphs())
def test_what_goes_out_comes_in_again(network, tmp_path_factory):
    if any(isinstance(one, GroupNorm) for one in network.layers):
        return  # it goes out as five operators
    model = model_of(network)
    x = np.random.default_rng(1).random((2, *network.input_shape), np.float32)
    try:
        back = read(model.to_onnx(training=True), tmp_path_factory.mktemp("net"))
    except NetworkError as error:  # padding as a node, where runtimes take none of that size
        refused_pads(error)
        return
    expected = logits(model, x)
    if isinstance(network.layers[-1], type(back.network.layers[-1])):
        assert np.abs(logits(back, x) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    else:  # the softmax at the end is the model's
        np.testing.assert_allclose(back.predict_proba(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_as_it_was(name, tmp_path):
    model = model_of(preset(name, (32, 32, 3), 10), maximum=200.0, labels=tuple(range(5, 15)))
    images = np.random.default_rng(1).integers(0, 200, (3, 32, 32, 3), np.uint8)
    for options in ({}, {"layout": "nhwc", "preprocess": True, "softmax": True}):
        back = read(model.to_onnx(training=True, **options), tmp_path)
        assert back.network.layer_names == model.network.layer_names
        assert (back.classes, back.labels, back.maximum) == (
            model.classes,
            model.labels,
            model.maximum,
        )
        assert {name: one.shape for name, one in back.weights.items()} == {
            name: one.shape for name, one in model.weights.items()
        }
        np.testing.assert_allclose(back.logits(images), model.logits(images), rtol=1e-4, atol=1e-4)


def test_an_imported_network_is_one_like_any_other(tmp_path):
    model = model_of(preset("resnet8", (8, 8, 3), 4))
    back = read(model.to_onnx(), tmp_path)
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    plan, params, work = back.njit_arguments(batch_size=2)
    found = np.empty((2, 4), np.float32)
    minicnn.forward(plan, params, work, images * np.float32(back.scale), found)
    np.testing.assert_array_equal(found, back.logits(images))
    loss = BatchLoss.of(back, images, np.array([0, 3]), Loss("cross_entropy", 4))
    assert all(check.passed for check in gradcheck(loss))
    direction = np.zeros(back.network.flat_size, np.float32)
    (here,) = loss.along(direction, np.zeros(1))
    assert here == pytest.approx(loss.gradient(back.params)[0], rel=1e-5)


# --- onnx's node tests ----------------------------------------------------------------------------

NAMED = [
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Mul",
    "MaxPool",
    "AveragePool",
    "BatchNormalization",
    "Concat",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "ReduceMean",
    "Flatten",
    "Reshape",
    "Dropout",
    "Identity",
    "Softmax",
    "Transpose",
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Elu",
    "Sigmoid",
    "HardSigmoid",
    "Tanh",
    "Softplus",
    "HardSwish",
    "Mish",
    "Gelu",
    "Clip",
    "InstanceNormalization",
    "LayerNormalization",
    "Sum",
    "Sub",
    "Div",
    "Squeeze",
    "Unsqueeze",
    "Constant",
    "LRN",
]

ACTIVATIONS = """Relu LeakyRelu Elu Sigmoid HardSigmoid Tanh Softplus HardSwish Mish Gelu Clip"""
ELEMENTWISE = {*ACTIVATIONS.split(), "Identity", "Dropout"}


def as_network(case):
    """(model, x, y) of a node test: what it reads but for its first input becomes constants, and an
    image that comes out a row, in minicnn's order. Opset 22 at most."""
    inputs, outputs = case.data_sets[0]
    arrays = [numpy_helper.to_array(one) if hasattr(one, "dims") else one for one in inputs]
    y = numpy_helper.to_array(outputs[0]) if hasattr(outputs[0], "dims") else outputs[0]
    made = onnx.ModelProto()
    made.CopyFrom(case.model)
    if case.model.graph.node[0].op_type in ELEMENTWISE and getattr(arrays[0], "ndim", 0) in (1, 3):
        arrays[0], y = (np.expand_dims(array, 1) for array in (arrays[0], y))
        made.graph.input[0].CopyFrom(
            helper.make_tensor_value_info(made.graph.input[0].name, 1, arrays[0].shape)
        )
    names = [one.name for one in made.graph.input]
    for name, array in list(zip(names, arrays, strict=True))[1:]:
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    last = made.graph.output[0].name
    if np.ndim(y) == 4:
        made.graph.node.append(helper.make_node("Transpose", [last], ["nhwc"], perm=[0, 2, 3, 1]))
        made.graph.node.append(helper.make_node("Flatten", ["nhwc"], ["end"]))
        made.graph.output[0].name = "end"
        y = np.transpose(y, (0, 2, 3, 1)).reshape(len(y), -1)
    del made.graph.output[1:]
    made.opset_import[0].version = min(22, made.opset_import[0].version)
    return made, arrays[0] if arrays else None, y


@pytest.mark.filterwarnings("ignore")  # of the cases, as they are made
def test_onnx_node_tests_pass_or_are_refused_in_words(tmp_path):
    counts = {name: Counter() for name in NAMED}
    wrong = []
    for case in collect_testcases():
        nodes = case.model.graph.node if case.model is not None else ()
        if len(nodes) != 1 or nodes[0].op_type not in counts or not case.data_sets[0][0]:
            continue
        made, x, y = as_network(case)
        operator = nodes[0].op_type
        try:
            model = read(made, tmp_path)
        except NetworkError as error:
            one_line(error)
            counts[operator]["refused"] += 1
            continue
        images = x.reshape(len(x), 1, 1, -1) if x.ndim == 2 else np.transpose(x, (0, 2, 3, 1))
        if x.dtype == np.uint8:
            images = images / np.float32(255)
        result = logits(model, images)
        if operator == "Sigmoid" and model.probabilities == "sigmoid":
            result = 1 / (1 + np.exp(-result))
        if operator == "Softmax":  # which is left to the model
            powers = np.exp(result - result.max(axis=1, keepdims=True))
            result = powers / powers.sum(axis=1, keepdims=True)
        same = result.shape == y.shape and np.allclose(result, y, rtol=case.rtol, atol=1e-5)
        counts[operator]["passed" if same else "wrong"] += 1
        wrong += [] if same else [case.name]
    assert wrong == []
    passed = sum(found["passed"] for found in counts.values())
    assert passed >= 70, counts
    for operator in ("Conv", "MaxPool", "AveragePool", "BatchNormalization", "Relu", "Gemm"):
        assert counts[operator]["passed"], operator


# --- files of others ------------------------------------------------------------------------------


def test_constants_in_every_form_and_the_shape_of_a_row(tmp_path):
    """What PyTorch writes for ``x.view(x.size(0), -1)``, and weights as nodes; compared with onnx's
    evaluator."""
    weight = np.arange(48, dtype=np.float64).reshape(2, 24).astype(np.float16) / 10
    nodes = [
        helper.make_node("Constant", [], ["first"], value_int=0),
        helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["batch"]),
        helper.make_node("Constant", [], ["axis"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["batch1"]),
        helper.make_node("Concat", ["batch1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["row"]),
        helper.make_node("Cast", ["half"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["weights"], ["moved"], perm=[1, 0]),
        helper.make_node("MatMul", ["row", "moved"], ["product"]),
        helper.make_node("Constant", [], ["bias"], value_floats=[1.0, -2.0]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    made = graph_of(nodes, [("half", weight)])
    x = np.random.default_rng(0).random((3, 2, 3, 4), np.float32)
    (expected,) = ReferenceEvaluator(made).run(None, {"x": x})
    model = read(made, tmp_path)
    np.testing.assert_allclose(logits(model, np.transpose(x, (0, 2, 3, 1))), expected, rtol=1e-5)
    assert [one.type_name for one in model.network.layers] == ["Flatten", "Dense"]


def pooled(*nodes):
    return [
        *nodes,
        helper.make_node("GlobalAveragePool", ["v"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]


def test_constants_that_scale_are_layers_of_their_own_or_go_into_the_weights(tmp_path):
    constants = [
        ("w", np.ones((3, 2, 1, 1), np.float32)),
        ("s", np.float32([[[[2.0]], [[3.0]]]])),
        ("t", np.float32([[[1.0]], [[-1.0]], [[4.0]]])),
    ]
    nodes = pooled(
        helper.make_node("Mul", ["s", "x"], ["a"], name="scale"),
        helper.make_node("Conv", ["a", "w"], ["b"], auto_pad="SAME_LOWER", name="conv"),
        helper.make_node("Sub", ["t", "b"], ["v"]),
    )
    made = graph_of(nodes, constants)
    x = np.random.default_rng(0).random((3, 2, 3, 4), np.float32)
    (expected,) = ReferenceEvaluator(made).run(None, {"x": x})
    for mean, std in ((0.0, 1.0), ([0.5, 0.25], 0.5)):
        model = read(made, tmp_path, mean=mean, std=std)
        given = np.transpose(x, (0, 2, 3, 1)) * np.float32(std) + np.float32(mean)
        np.testing.assert_allclose(logits(model, given), expected, rtol=1e-5)
    assert model.network.layer_names == ("conv1", "scale", "conv", "avgpool1")


def test_a_network_like_those_that_converters_write(tmp_path):
    """Zero padding at the end alone, a pooling of the whole image, Gemm with transB, Softmax."""
    rng = np.random.default_rng(0)
    constants = [
        ("w0", rng.normal(size=(4, 2, 3, 3)).astype(np.float32)),
        ("b0", rng.normal(size=4).astype(np.float32)),
        ("w1", rng.normal(size=(5, 4)).astype(np.float32)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c"], pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "c"], ["a"]),
        helper.make_node("AveragePool", ["a"], ["p"], kernel_shape=[4, 4], count_include_pad=0),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w1"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    made = graph_of(nodes, constants, (2, 8, 8))
    x = rng.random((3, 2, 8, 8), np.float32)
    (expected,) = ReferenceEvaluator(made).run(None, {"x": x})
    model = read(made, tmp_path)
    images = np.transpose(x, (0, 2, 3, 1))
    np.testing.assert_allclose(model.predict_proba(images), expected, atol=1e-6)


REFUSED = [
    (
        [helper.make_node("LRN", ["x"], ["y"], size=3, name="norm")],
        r"node 'norm' \(LRN\): no layer",
    ),
    ([helper.make_node("Relu", ["y"], ["y"])], r"reads 'y', which no node before it writes"),
    ([helper.make_node("Relu", ["x"], ["y"], domain="other")], r"of the domain 'other'"),
    ([helper.make_node("Relu", ["x"], ["y"], strange=1)], r"the attribute strange is not known"),
    ([helper.make_node("Relu", ["x"], ["y"])], r"the output 'y' is \['N', 2, 3, 4\]"),
    ([helper.make_node("Relu", [], ["y"])], r"is malformed"),
    ([helper.make_node("Conv", ["x", "x"], ["y"])], r"'x' is no constant"),
    ([helper.make_node("HardSigmoid", ["x"], ["y"])], r"alpha 0.2 and beta 0.5; 1/6 and 1/2"),
    ([helper.make_node("Clip", ["x"], ["y"])], r"from -inf to inf; 0 to 6"),
    ([helper.make_node("Softmax", ["x"], ["y"], axis=1)], r"at the end of it would fit"),
    ([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2])], r"has 1 numbers, and 2"),
    ([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[2] * 4)], "pads"),
    ([helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], "the output 'y'"),
    ([helper.make_node("ConstantOfShape", ["huge"], ["y"])], "has the shape"),
    ([helper.make_node("Reshape", ["x", "huge"], ["y"])], r"a row, \[0, -1\], would fit"),
]


@pytest.mark.parametrize(("nodes", "said"), REFUSED)
def test_what_cannot_be_taken_is_one_line_that_names_the_node(nodes, said, tmp_path):
    made = graph_of(nodes, [("huge", np.array([2**20, 2**20]))])
    with pytest.raises(NetworkError, match=said) as caught:
        read(made, tmp_path)
    assert "\n" not in str(caught.value) and "net.onnx: " in str(caught.value)


def test_tensors_outside_the_folder_and_beyond_their_file_are_refused(tmp_path):
    weight = np.random.default_rng(0).random((3, 24), np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
    ]
    made = graph_of(nodes, [("w", weight)])
    (tmp_path / "secret").write_bytes(weight.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(weight.tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for location, more, good in (
        ("weights", {}, True),
        ("weights", {"offset": "0", "length": "288"}, True),
        ("weights", {"offset": "4"}, False),
        ("weights", {"length": "9999"}, False),
        ("weights", {"offset": "-8"}, False),
        ("weights", {"offset": "x"}, False),
        ("../secret", {}, False),
        (str(tmp_path / "secret"), {}, False),
        ("link", {}, False),
        ("none", {}, False),
        ("", {}, False),
    ):
        del tensor.external_data[:]
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=value)
        if good:
            assert len(read(made, folder).weights) == 1
        else:
            with pytest.raises(NetworkError) as caught:
                read(made, folder)
            assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_in_a_line_wherever_it_is_damaged(tmp_path):
    whole = model_of(preset("lenet5", (16, 16, 1), 3)).to_onnx().SerializeToString()
    rng = np.random.default_rng(0)
    counts = Counter()
    damaged = [whole[:length] for length in (0, 1, 10, 200, len(whole) // 2, len(whole) - 1)]
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole) if rng.random() < 0.3 else 600, 3):
            content[place] = rng.integers(256)
        for place in rng.integers(len(whole) - 700, len(whole), 3):
            content[place] = rng.integers(256)
        damaged.append(bytes(content))
    for content in [*damaged, b"no model", rng.bytes(500)]:
        try:
            read(content, tmp_path)
            counts["read"] += 1
        except MinicnnError as error:
            one_line(error)
            counts["refused"] += 1
    assert counts["refused"] > 50, counts
    with pytest.raises(ModelFileError, match="no such file"):
        from_onnx(tmp_path / "none.onnx")


def test_the_command_writes_a_model_that_can_be_used(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = model_of(preset("lenet5", (28, 28, 1), 10))
    onnx.save(model.to_onnx(), "net.onnx")
    names = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
    ]
    command = ["import", "net.onnx", "-o", "m.safetensors", "--classes", *names]
    assert main(command) == 1
    assert "9 classes" in capsys.readouterr().err
    assert main([*command, "Ankle boot"]) == 0
    words = "m.safetensors: 12 layers, 44,426 parameters, classes T-shirt/top, Trouser, "
    assert capsys.readouterr().out.startswith(words)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(load("m.safetensors").logits(images), model.logits(images))
    train = ["train", "--init", "m.safetensors", "--limit", "200", "--epochs", "1", "--quiet"]
    assert main([*train, "--output", "run"]) == 0
    assert main(["import", "m.safetensors"]) == 2
    assert "say of which network, --model" in capsys.readouterr().err
    (tmp_path / "other.onnx").write_bytes((tmp_path / "m.safetensors").read_bytes())
    assert main(["import", "other.onnx"]) == 1
    assert "is damaged, cut off, or not an ONNX file" in capsys.readouterr().err
