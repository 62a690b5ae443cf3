"""Networks whose layers name what they read, and blocks that expand into them."""

import json

import numpy as np
import pytest

from minicnn.errors import MinicnnError, NetworkError, SettingError, UnknownNameError
from minicnn.network.activations import PReLU, ReLU, Softmax, Tanh
from minicnn.network.blocks import Branches, Residual
from minicnn.network.description import network_from_toml
from minicnn.network.layers import (
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    Multiply,
)
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm
from minicnn.network.presets import preset
from minicnn.network.summary import summary_rows

HEAD = [GlobalAvgPool2d(), Dense(3)]
GATED = Network(
    (8, 6, 4),
    [
        Conv2d(4, 3, padding="same", name="stem"),
        Residual([Conv2d(4, 3, padding="same", bias=False), BatchNorm2d()]),
        ReLU(name="joined"),
        GlobalAvgPool2d(),
        Dense(4),
        Multiply(inputs=("joined", "dense1")),
        *HEAD,
    ],
    "gated",
)


def test_a_layer_reads_the_one_before_or_those_that_it_names():
    assert GATED.layer_names == (
        *("stem", "conv1", "batchnorm1", "add1", "joined"),
        *("globalavgpool1", "dense1", "multiply1", "globalavgpool2", "dense2"),
    )
    assert GATED.reads == ((0,), (1,), (2,), (3, 1), (4,), (5,), (6,), (5, 7), (8,), (9,))
    assert GATED.shapes[4:9] == [(8, 6, 4), (8, 6, 4), (4,), (4,), (8, 6, 4)]
    assert GATED.multiply_adds == 2 * 8 * 6 * 4 * 9 * 4 + 4 * 4 + 4 * 3


def test_the_image_is_called_input_and_one_name_needs_no_tuple():
    network = Network((4, 4), [ReLU(), Tanh(inputs="input"), Add(inputs=["relu1", "tanh1"]), *HEAD])
    assert network.reads[:3] == ((0,), (0,), (1, 2))


def test_numbers_skip_the_names_that_the_user_gave():
    names = Network((4, 4), [ReLU(), ReLU(name="relu3"), ReLU(), ReLU(), *HEAD]).layer_names
    assert names[:4] == ("relu1", "relu3", "relu2", "relu4")


def test_a_branch_without_layers_hands_the_value_on_and_blocks_nest():
    inner = Residual([Conv2d(2, 1)])
    outer = Branches([inner, ReLU()], [], [AvgPool2d(3, 1, 1), Conv2d(3, 1)])
    network = Network((4, 4, 2), [outer, *HEAD])
    assert network.layer_names[:6] == ("conv1", "add1", "relu1", "avgpool1", "conv2", "concat1")
    assert network.reads[:6] == ((0,), (1, 0), (2,), (0,), (4,), (3, 0, 5))
    assert network.shapes[6] == (4, 4, 2 + 2 + 3)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            [ReLU(inputs="relu2"), ReLU()],
            r"^layer 1 \(relu1\) reads 'relu2', which does not come before it",
        ),
        ([ReLU(name="a", inputs="a")], r"^layer 1 \(a\) reads 'a', .* that would be a cycle"),
        (
            [Conv2d(2, 1), ReLU(inputs="conv")],
            r"^layer 2 \(relu1\): unknown input 'conv'; did you mean 'conv1'",
        ),
        (
            [ReLU(name="a"), Tanh(name="a")],
            r"^layer 2 \(a\): the name is used twice, for layer 1 as well",
        ),
        (
            [Add()],
            r"^layer 1 \(add1\): Add\(\) reads 2 or more values, not 1: give inputs=\(name, ...\)",
        ),
        (
            [ReLU(), Tanh(), Multiply(inputs=("input", "relu1", "tanh1"))],
            r"^layer 3 \(multiply1\): Multiply\(\) reads 2 values, not 3",
        ),
        (
            [ReLU(), Tanh(inputs=("input", "relu1"))],
            r"^layer 2 \(tanh1\): Tanh\(\) reads 1 value, not 2",
        ),
        (
            [Residual([Conv2d(7, 1)])],
            r"^layer 2 \(add1\): Add\(\) needs inputs of one shape, not \(8, 8, 7\) and \(8, 8, 1\)",
        ),
        (
            [Branches([MaxPool2d(2)], [])],
            r"^layer 2 \(concat1\): Concat\(\) needs inputs of one height and width, not \(4, 4, 1\)",
        ),
        (
            [ReLU(), Tanh(inputs="input")],
            r"^layer 1 \(relu1\): nobody reads its output; name it in",
        ),
        (
            [GlobalAvgPool2d(), Softmax(), Dense(3), Softmax()],
            r"^layer 2 \(softmax1\): Softmax must be the last",
        ),
        ([Residual([ReLU()], [ReLU, ReLU()])], r"not a layer; write ReLU\(\.\.\.\)"),
        (
            [Residual([ReLU(name="a")]), Residual([ReLU(name="a")])],
            r"^layer 3 \(a\): the name is used twice, for layer 1 as well",
        ),
    ],
)
def test_what_does_not_fit_names_the_layer_and_says_what_would(layers, text):
    with pytest.raises(NetworkError, match=text):
        Network((8, 8), [*layers, *([] if isinstance(layers[-1], Softmax) else HEAD)])


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (lambda: Branches([ReLU()]), "Branches needs at least two branches, not 1"),
        (lambda: Branches(ReLU(), []), r"Branches needs lists of layers, not ReLU\(name=None"),
        (lambda: Residual(ReLU()), "Residual needs lists of layers, not ReLU"),
        (lambda: Residual([ReLU()], None), "Residual needs lists of layers, not None"),
        (lambda: Branches([ReLU()], [], join=Add), "Branches: join must be a layer without inputs"),
        (lambda: Branches([ReLU()], [], join="add"), "join must be a layer .*, not 'add'"),
        (
            lambda: Branches([ReLU()], [], join=Add(inputs=("a", "b"))),
            "join must be a layer without inputs, since it reads the ends of the branches, not Add",
        ),
    ],
)
def test_a_block_says_what_it_is_made_of(block, text):
    with pytest.raises(NetworkError, match=text):
        block()


def test_softmax_may_be_the_last_layer():
    assert Network((8, 8), [*HEAD, Softmax()]).outputs == 3


def test_state_lies_behind_all_that_is_trained_and_every_tensor_has_its_kind():
    kinds = {spec.name: spec.kind for spec in GATED.parameters}
    assert kinds == {
        **{"stem.weight": "weight", "stem.bias": "bias", "conv1.weight": "weight"},
        **{"batchnorm1.weight": "scale", "batchnorm1.bias": "shift"},
        **{"dense1.weight": "weight", "dense1.bias": "bias"},
        **{"dense2.weight": "weight", "dense2.bias": "bias"},
        **{"batchnorm1.running_mean": "state", "batchnorm1.running_var": "state"},
    }
    offsets = {spec.name: spec.offset for spec in GATED.parameters}
    assert GATED.trainable_size == offsets["batchnorm1.running_mean"]
    assert GATED.flat_size == GATED.trainable_size + 2 * 16
    assert GATED.parameter_count == (144 + 4) + 144 + (4 + 4) + (16 + 4) + (12 + 3)


def test_scales_and_running_variances_begin_at_one_and_a_prelu_at_a_quarter():
    layers = [Conv2d(4, 1), BatchNorm2d(), PReLU(), Conv2d(4, 1), GroupNorm(2), LayerNorm(), *HEAD]
    network = Network((8, 8), layers)
    tensors = network.unflatten(network.initialize(np.random.default_rng(0)))
    first = {"batchnorm1.weight": 1, "batchnorm1.bias": 0, "prelu1.weight": 0.25}
    first |= {"batchnorm1.running_mean": 0, "batchnorm1.running_var": 1}
    first |= {
        f"{name}.{one}": value
        for name in ("groupnorm1", "layernorm1")
        for one, value in [("weight", 1), ("bias", 0)]
    }
    assert all((tensors[name] == value).all() for name, value in first.items())


def test_the_activation_is_found_past_normalization_and_joins():
    layers = [
        Residual([Conv2d(200, (3, 5), bias=False), BatchNorm2d()], [Conv2d(200, (3, 5))]),
        ReLU(),
        *HEAD,
    ]
    network = Network((3, 5, 8), layers)
    tensors = network.unflatten(network.initialize(np.random.default_rng(3), np.float64))
    for name in ("conv1.weight", "conv2.weight"):
        assert tensors[name].var() == pytest.approx(2 / (3 * 5 * 8), rel=0.04)


def test_a_filter_of_a_grouped_convolution_has_as_many_inputs_as_it_reads():
    network = Network((5, 5, 1000), [Conv2d(1000, (3, 5), groups=1000), ReLU(), *HEAD])
    tensors = network.unflatten(network.initialize(np.random.default_rng(3), np.float64))
    assert tensors["conv1.weight"].var() == pytest.approx(2 / (3 * 5), rel=0.05)


# Written by the version that knew chains alone: offsets, and Σ i·p[i] over the first 1,000 of seed
# 7.
@pytest.mark.parametrize(
    ("name", "shape", "offsets", "mark"),
    [
        ("softmax", (28, 28), [0, 7840], -1095.2733007727948),
        ("mlp", (28, 28), [0, 100352, 100480, 101760], -832.6808760895801),
        (
            *("lenet5", (28, 28)),
            [0, 160, 176, 2576, 2592, 33312, 33440, 43520, 43616, 44464],
            -2094.4637780315825,
        ),
        (
            *("vgg-small", (32, 20, 3)),
            [0, 864, 896, 19328, 19392, 347072, 347200, 348480],
            -7616.562650870124,
        ),
    ],
)
def test_chains_begin_with_the_parameters_that_they_always_had(name, shape, offsets, mark):
    network = preset(name, shape, 10)
    flat = network.initialize(np.random.default_rng(7))
    assert [spec.offset for spec in network.parameters] == offsets
    assert flat[:1000].astype(float) @ np.arange(1000) == pytest.approx(mark, rel=1e-9)


@pytest.mark.parametrize(
    "network", [GATED, preset("resnet8", (16, 16, 3), 7)], ids=lambda one: one.name
)
def test_a_graph_survives_the_way_through_json(network):
    again = Network.from_dict(json.loads(json.dumps(network.to_dict())))
    assert (again, again.layer_names, again.reads) == (network, network.layer_names, network.reads)


def test_a_chain_is_described_without_names_and_inputs():
    described = preset("lenet5", (28, 28), 10).to_dict()["layers"]
    assert not any({"name", "inputs"} & set(layer) for layer in described)


def read(tmp_path, text):
    (tmp_path / "net.toml").write_text(
        text + '[[layers]]\ntype = "GlobalAvgPool2d"\n'
        '[[layers]]\ntype = "Dense"\nunits = "classes"\n'
    )
    return network_from_toml(tmp_path / "net.toml", (8, 6, 4), 3)


def test_blocks_are_nested_tables_of_toml(tmp_path):
    network = read(
        tmp_path,
        """
        [[layers]]
        type = "residual"
        layers = [{type = "Conv2d", filters = 4, kernel_size = 1}, {type = "BatchNorm2d"}]
        [[layers]]
        type = "Branches"
        branches = [[{type = "Conv2d", filters = 4, kernel_size = 1}], []]
        join = {type = "Multiply", name = "gate"}
        [[layers]]
        type = "Residual"
        [[layers.layers]]
        type = "Tanh"
        [[layers.shortcut]]
        type = "ReLU"
        [[layers]]
        type = "Concat"
        inputs = ["gate", "add2"]
        """,
    )
    layers = [
        Residual([Conv2d(4, 1), BatchNorm2d()]),
        Branches([Conv2d(4, 1)], [], join=Multiply(name="gate")),
        Residual([Tanh()], [ReLU()]),
        Concat(inputs=("gate", "add2")),
        *HEAD,
    ]
    assert network == Network((8, 6, 4), layers, "net")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            'type = "Residual"\nlayer = []',
            UnknownNameError,
            "layer 1: unknown field of Residual 'layer'",
        ),
        (
            'type = "Residual"\nlayers = 3',
            SettingError,
            "layer 1: Residual: layers must be lists of layers",
        ),
        ('type = "Residual"', SettingError, "layer 1: Residual: layers must be lists of layers"),
        (
            'type = "Branches"\nbranches = [3]',
            SettingError,
            "layer 1: Branches: branches must be a list of lists",
        ),
        (
            'type = "Branches"\nbranches = 3',
            SettingError,
            "layer 1: Branches: branches must be a list of lists",
        ),
        (
            'type = "Residual"\nlayers = [{type = "Flatten"}, {type = "Dens"}]',
            UnknownNameError,
            "layer 1: layer 2: unknown layer 'Dens'; did you mean 'Dense'",
        ),
    ],
)
def test_an_error_in_a_block_says_where(tmp_path, text, error, message):
    with pytest.raises(MinicnnError, match=message) as caught:
        read(tmp_path, f"[[layers]]\n{text}\n")
    assert isinstance(caught.value, error)


def test_the_summary_says_what_a_layer_reads_where_that_is_not_the_one_before():
    rows = {row.name: row for row in summary_rows(GATED)}
    assert {name: row.reads for name, row in rows.items() if row.reads} == {
        "add1": ("batchnorm1", "stem"),
        "multiply1": ("joined", "dense1"),
    }
    assert (rows["batchnorm1"].parameters, rows["batchnorm1"].state) == (8, 8)
    assert (rows["total"].parameters, rows["total"].state) == (GATED.parameter_count, 8)
    assert rows["total"].multiply_adds == GATED.multiply_adds


def test_the_summary_of_a_branch_from_the_image_calls_it_input():
    network = Network((8, 8), [Residual([Conv2d(1, 1)]), Flatten()])
    assert [row.reads for row in summary_rows(network)] == [(), ("conv1", "input"), (), ()]
