"""Shapes, names and the flat parameter vector of whole networks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn.errors import MinicnnError, NetworkError, SettingError, UnknownNameError
from minicnn.network.activations import ReLU
from minicnn.network.blocks import Residual
from minicnn.network.layers import (
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
)
from minicnn.network.network import Network
from minicnn.network.presets import preset
from minicnn.network.summary import summary_rows

SMALL = Network(
    (9, 7, 2),
    [
        Conv2d(3, (3, 2)),
        ReLU(),
        AvgPool2d(2),
        Conv2d(5, 2, bias=False),
        ReLU(),
        Dropout(),
        Flatten(),
        Dense(1),
    ],
    name="small",
)


@st.composite
def networks(draw):
    image = draw(st.tuples(st.integers(3, 12), st.integers(3, 12), st.integers(1, 3)))
    layers = [
        Conv2d(draw(st.integers(1, 20)), draw(st.integers(1, 3)), bias=draw(st.booleans()))
        for _ in range(draw(st.integers(0, 1)))
    ]
    layers.append(draw(st.sampled_from([Flatten(), GlobalAvgPool2d()])))
    for _ in range(draw(st.integers(1, 3))):
        layers.append(Dense(draw(st.integers(1, 40)), bias=draw(st.booleans())))
    return Network(image, layers)


def test_layers_are_numbered_by_kind():
    assert SMALL.layer_names == (
        *("conv1", "relu1", "avgpool1"),
        *("conv2", "relu2", "dropout1", "flatten1", "dense1"),
    )
    named = Network((8, 8), [MaxPool2d(2), GlobalAvgPool2d()]).layer_names
    assert named == ("maxpool1", "globalavgpool1")


def test_shapes_follow_from_layer_to_layer_for_images_that_are_not_square():
    assert SMALL.shapes == [
        *[(9, 7, 2), (7, 6, 3), (7, 6, 3), (3, 3, 3)],
        *[(2, 2, 5), (2, 2, 5), (2, 2, 5), (20,), (1,)],
    ]
    assert (SMALL.output_shape, SMALL.outputs) == ((1,), 1)


def test_height_and_width_alone_mean_one_channel():
    assert Network((8, 6), [Flatten(), Dense(3)]).input_shape == (8, 6, 1)


def test_a_list_of_layers_is_stored_as_a_tuple_and_equal_networks_are_equal():
    one, other = (Network([8, 6], [Flatten(), Dense(3)]) for _ in range(2))
    assert isinstance(one.layers, tuple)
    assert (one, hash(one)) == (other, hash(other))
    assert one != Network([8, 6], [Flatten(), Dense(4)])


@pytest.mark.parametrize("shape", [(8,), (8, 8, 1, 1), None, 8])
def test_an_input_shape_that_is_no_image_is_refused(shape):
    with pytest.raises(NetworkError, match="an image's shape is"):
        Network(shape, [Flatten(), Dense(3)])


@pytest.mark.parametrize("shape", [(0, 8, 1), (8, 2.5), "ab"])
def test_an_image_without_whole_positive_sides_is_refused(shape):
    with pytest.raises(SettingError, match=r"image: .* must be a whole number from 1 on"):
        Network(shape, [Flatten(), Dense(3)])


@pytest.mark.parametrize("name", [3, None, ["a"]])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(SettingError, match="name must be a text, not"):
        Network((8, 8), [Flatten(), Dense(3)], name)


def test_layers_that_do_not_fit_name_the_layer_its_place_its_input_and_what_would_fit():
    with pytest.raises(NetworkError) as caught:
        Network((8, 8), [Conv2d(6, 5), ReLU(), MaxPool2d(2), Conv2d(16, 5), Flatten(), Dense(10)])
    assert str(caught.value) == (
        "layer 4 (conv2): Conv2d(filters=16, kernel_size=5×5) is larger than its input (2, 2, 6): "
        "a kernel_size of at most 2×2 would fit, or an input of at least 5×5"
    )


def test_a_dense_layer_on_an_image_names_its_place():
    with pytest.raises(
        NetworkError, match=r"^layer 2 \(dense1\): .* put Flatten or GlobalAvgPool2d before it$"
    ):
        Network((8, 8), [Conv2d(6, 5), Dense(10)])


def test_a_network_that_does_not_end_in_a_row_says_how_to_end_it():
    with pytest.raises(
        NetworkError, match=r"^conv1 gives \(4, 4, 6\), not one row of logits: end with Flatten or"
    ):
        Network((8, 8), [Conv2d(6, 5)])
    with pytest.raises(NetworkError, match="a network without layers"):
        Network((8, 8), [])


def test_a_layer_class_without_its_call_is_caught():
    with pytest.raises(
        NetworkError, match=r"layer 2 is .*ReLU.*, not a layer; write ReLU\(\.\.\.\)"
    ):
        Network((8, 8), [Flatten(), ReLU, Dense(10)])


def test_a_class_that_no_operation_computes_is_refused_at_once():
    class MyReLU(ReLU):
        """Says that it is derived, and not what computes it."""

    class Squared(ReLU):
        """Has a rule that is not built in."""

        rule = replace(ReLU.rule, name="squared")

    for kind in (MyReLU, Squared):
        layers = [Conv2d(2, 3), kind(), Flatten(), Dense(3)]
        for wrong in (layers, [Residual([kind()]), Flatten()]):
            with pytest.raises(
                NetworkError,
                match=rf"layer \d \({kind.__name__.lower()}1\): no operation computes a layer of the "
                f"class {kind.__name__}; write a rule",
            ):
                Network((5, 5, 1), wrong)
        with pytest.raises(MinicnnError, match=f"unknown layer '{kind.__name__}'"):
            Network.from_dict(
                {"name": "n", "input_shape": [5, 5, 1], "layers": [{"type": kind.__name__}]}
            )


def test_parameters_lie_one_after_the_other_weight_before_bias_at_multiples_of_sixteen():
    assert [
        (spec.name, spec.layer, spec.shape, spec.offset, spec.size) for spec in SMALL.parameters
    ] == [
        ("conv1.weight", 0, (3, 2, 2, 3), 0, 36),
        ("conv1.bias", 0, (3,), 48, 3),
        ("conv2.weight", 3, (2, 2, 3, 5), 64, 60),
        ("dense1.weight", 7, (20, 1), 128, 20),
        ("dense1.bias", 7, (1,), 160, 1),
    ]
    assert (SMALL.parameter_count, SMALL.flat_size) == (120, 176)


@given(networks())
def test_parameters_never_overlap_and_start_aligned(network):
    end = 0
    for spec in network.parameters:
        assert spec.offset % 16 == 0
        assert 0 <= spec.offset - end < 16
        assert spec.size == np.prod(spec.shape)
        end = spec.offset + spec.size
    assert 0 <= network.flat_size - end < 16
    assert network.parameter_count == sum(spec.size for spec in network.parameters)


@given(networks(), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32))
def test_flatten_and_unflatten_undo_each_other(network, dtype, seed):
    rng = np.random.default_rng(seed)
    tensors = {spec.name: rng.normal(size=spec.shape).astype(dtype) for spec in network.parameters}
    flat = network.flatten(tensors, dtype)
    assert (flat.shape, flat.dtype) == ((network.flat_size,), np.dtype(dtype))
    back = network.unflatten(flat)
    assert list(back) == [spec.name for spec in network.parameters]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)
    assert np.count_nonzero(flat) == sum(np.count_nonzero(tensor) for tensor in tensors.values())


def test_unflatten_gives_views():
    flat = np.zeros(SMALL.flat_size, np.float32)
    SMALL.unflatten(flat)["conv1.bias"][:] = 7
    assert flat.sum() == 21
    assert flat[48:51].tolist() == [7, 7, 7]


def test_a_flat_vector_of_another_length_is_refused():
    with pytest.raises(
        NetworkError, match=r"the flat vector of 'small' has the shape \(176,\), not \(175,\)"
    ):
        SMALL.unflatten(np.zeros(175, np.float32))


def test_tensors_that_are_missing_foreign_or_of_another_shape_are_named():
    tensors = SMALL.unflatten(np.zeros(SMALL.flat_size, np.float32))
    missing = {name: tensor for name, tensor in tensors.items() if name != "conv2.weight"}
    with pytest.raises(
        NetworkError,
        match=r"the parameter 'conv2.weight' of 'small', shape \(2, 2, 3, 5\), is missing",
    ):
        SMALL.flatten(missing)
    with pytest.raises(
        NetworkError,
        match=r"'conv2\.bias' is no parameter of 'small', which has conv1.weight, conv1.bias",
    ):
        SMALL.flatten(tensors | {"conv2.bias": np.zeros(5)})
    with pytest.raises(
        NetworkError, match=r"'dense1.weight' of 'small' has the shape \(20, 1\), not \(1, 20\)"
    ):
        SMALL.flatten(tensors | {"dense1.weight": np.zeros((1, 20))})


def test_lenet5_has_the_parameters_and_multiply_adds_of_the_texts():
    network = preset("lenet5", (28, 28, 1), 10)
    assert network.parameter_count == 44_426
    assert network.multiply_adds == 281_640


@pytest.mark.parametrize(
    "network", [SMALL, preset("vgg-small", (32, 20, 3), 7)], ids=lambda network: network.name
)
def test_a_network_survives_the_way_through_json(network):
    assert Network.from_dict(json.loads(json.dumps(network.to_dict()))) == network


def test_a_described_network_with_something_unknown_or_missing_says_so():
    described = SMALL.to_dict()
    with pytest.raises(UnknownNameError, match="unknown layer 'Dens'; did you mean 'Dense'"):
        Network.from_dict(described | {"layers": [{"type": "Dens"}]})
    with pytest.raises(
        UnknownNameError, match="unknown field of Dense 'unit'; did you mean 'units'"
    ):
        Network.from_dict(described | {"layers": [{"type": "Dense", "unit": 3}]})
    with pytest.raises(
        UnknownNameError, match="unknown key of a network 'layer'; did you mean 'layers'"
    ):
        Network.from_dict(described | {"layer": []})
    with pytest.raises(NetworkError, match="a network needs name, input_shape"):
        Network.from_dict({"layers": []})
    with pytest.raises(NetworkError, match="a network needs layers as a list"):
        Network.from_dict(described | {"layers": "many"})


def test_the_summary_has_a_row_a_layer_and_adds_up():
    *rows, total = summary_rows(SMALL)
    assert [row.name for row in rows] == list(SMALL.layer_names)
    conv = rows[0]
    assert (conv.layer, conv.output_shape) == ("Conv2d(filters=3, kernel_size=3×2)", (7, 6, 3))
    assert (conv.parameters, conv.parameter_bytes) == (39, 156)
    assert (conv.multiply_adds, conv.activation_bytes) == (7 * 6 * 3 * 12, 7 * 6 * 3 * 4)
    assert (total.parameters, total.multiply_adds) == (SMALL.parameter_count, SMALL.multiply_adds)
    assert (total.parameter_bytes, total.output_shape, total.layer) == (480, (1,), "small")
    assert total.activation_bytes == sum(row.activation_bytes for row in rows)
