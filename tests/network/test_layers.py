"""Shapes, parameters and errors of single layers."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn.errors import NetworkError, SettingError, UnknownNameError
from minicnn.network.activations import GELU, LeakyReLU, ReLU, SiLU, Sigmoid, Tanh
from minicnn.network.layers import LAYERS, AvgPool2d, Conv2d, Dense, Dropout, Flatten, GlobalAvgPool2d, Layer, MaxPool2d,
layer_from_dict, layer_to_dict

EVERY_LAYER = [
    Conv2d(6, 5),
    Conv2d(4, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False),
    Conv2d(4, 4, padding="same"),
    MaxPool2d(2),
    AvgPool2d((3, 2), stride=1, padding=(1, 1)),
    GlobalAvgPool2d(),
    Flatten(),
    Dense(10, bias=False),
    Dropout(0.25),
    ReLU(),
    LeakyReLU(0.2),
    Sigmoid(),
    Tanh(),
    SiLU(),
    GELU(),
]


def positions(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> int:
    """Counts the places of a dilated kernel at which all that it reads lies within the padded axis."""
    axis = range(-before, size + after)
    starts = range(-before, size + after, stride)
    return sum(all(start + r * dilation in axis for r in range(kernel)) for start in starts)


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
images = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))


@given(images, pairs, pairs, st.tuples(st.integers(0, 3), st.integers(0, 3)), pairs, st.integers(1, 5))
def test_a_convolution_gives_as_many_rows_and_columns_as_its_kernel_has_places(
    image, kernel, stride, padding, dilation, filters
):
    layer = Conv2d(filters, kernel, stride, padding, dilation)
    expected = tuple(positions(image[i], padding[i], padding[i], kernel[i], stride[i], dilation[i]) for i in range(2))
    if 0 in expected:
        with pytest.raises(NetworkError, match="is larger than its input"):
            layer.output_shape(image)
    else:
        assert layer.output_shape(image) == (*expected, filters)
        multiply_adds = math.prod(expected) * filters * math.prod(kernel) * image[2]
        assert layer.multiply_adds(image) == multiply_adds


@given(images, pairs, pairs, st.sampled_from([MaxPool2d, AvgPool2d]), st.data())
def test_a_pooling_gives_as_many_rows_and_columns_as_its_window_has_places(image, kernel, stride, pooling, data):
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    layer = pooling(kernel, stride, padding)
    expected = tuple(positions(image[i], padding[i], padding[i], kernel[i], stride[i], 1) for i in range(2))
    if 0 in expected:
        with pytest.raises(NetworkError, match="is larger than its input"):
            layer.output_shape(image)
    else:
        assert layer.output_shape(image) == (*expected, image[2])


@given(images, pairs, pairs)
def test_same_padding_keeps_height_and_width_whatever_the_kernel(image, kernel, dilation):
    layer = Conv2d(2, kernel, padding="same", dilation=dilation)
    assert layer.output_shape(image) == (*image[:2], 2)
    top, bottom, left, right = layer.resolved_padding(image)
    assert (top + bottom, left + right) == tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    assert 0 <= bottom - top <= 1
    assert 0 <= right - left <= 1


def test_an_even_kernel_pads_the_extra_element_at_the_bottom_and_right():
    assert Conv2d(1, (4, 2), padding="same").resolved_padding((9, 9, 1)) == (1, 2, 0, 1)


@given(images, pairs, pairs, st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_what_the_error_says_would_fit_does_fit_and_only_just(image, excess, dilation, padding):
    kernel = tuple(image[i] + 2 * padding[i] + excess[i] for i in range(2))
    layer = Conv2d(1, kernel, padding=padding, dilation=dilation)
    with pytest.raises(NetworkError) as caught:
        layer.output_shape(image)
    found = re.search(
        r"kernel_size of at most (\d+)×(\d+) would fit, or an input of at least (\d+)×(\d+)$", str(caught.value)
    )
    rows, columns, height, width = map(int, found.groups())
    assert len(Conv2d(1, (rows, columns), padding=padding, dilation=dilation).output_shape(image)) == 3
    for larger in [(rows + 1, columns), (rows, columns + 1)]:
        with pytest.raises(NetworkError):
            Conv2d(1, larger, padding=padding, dilation=dilation).output_shape(image)
    assert layer.output_shape((height, width, image[2])) == (1, 1, 1)


def test_numbers_become_pairs_and_valid_becomes_no_padding():
    assert Conv2d(6, 5) == Conv2d(filters=6, kernel_size=(5, 5), stride=(1, 1), padding="valid", dilation=[1, 1])
    assert Conv2d(6, 5).kernel_size == (5, 5)
    assert Conv2d(6, 5, padding="valid").padding == (0, 0)


def test_a_pooling_steps_by_its_kernel_unless_told_otherwise():
    assert MaxPool2d((2, 3)).stride == (2, 3)
    assert AvgPool2d(3, stride=2).stride == (2, 2)


def test_shapes_of_parameters_are_rows_columns_channels_filters_and_inputs_units():
    assert Conv2d(8, (3, 5)).parameter_shapes((9, 9, 2)) == {"weight": (3, 5, 2, 8), "bias": (8,)}
    assert Conv2d(8, (3, 5), bias=False).parameter_shapes((9, 9, 2)) == {"weight": (3, 5, 2, 8)}
    assert Dense(10).parameter_shapes((84,)) == {"weight": (84, 10), "bias": (10,)}
    assert Dense(10, bias=False).parameter_shapes((84,)) == {"weight": (84, 10)}
    assert list(Dense(10).parameter_shapes((84,))) == ["weight", "bias"]


@pytest.mark.parametrize("layer", [ReLU(), LeakyReLU(), Sigmoid(), Tanh(), SiLU(), GELU(), Dropout()], ids=str)
def test_an_elementwise_layer_keeps_any_shape_and_has_no_parameters(layer):
    for shape in [(5, 7, 3), (11,)]:
        assert layer.output_shape(shape) == shape
        assert layer.parameter_shapes(shape) == {}
        assert layer.multiply_adds(shape) == 0


def test_flatten_and_global_pooling_end_in_one_row():
    assert Flatten().output_shape((4, 5, 6)) == (120,)
    assert Flatten().output_shape((7,)) == (7,)
    assert GlobalAvgPool2d().output_shape((4, 5, 6)) == (6,)


def test_dense_on_an_image_says_what_to_put_before_it():
    with pytest.raises(NetworkError) as caught:
        Dense(10).output_shape((4, 4, 16))
    assert str(caught.value) == (
        "Dense(units=10) needs one row of features, but its input is (4, 4, 16); "
        "put Flatten or GlobalAvgPool2d before it"
    )


@pytest.mark.parametrize("layer", [Conv2d(6, 5), MaxPool2d(2), AvgPool2d(2), GlobalAvgPool2d()], ids=str)
def test_an_image_layer_on_a_row_says_where_it_belongs(layer):
    with pytest.raises(NetworkError, match=r"needs an image .* but its input is \(84,\); put it before Flatten"):
        layer.output_shape((84,))


def test_a_kernel_larger_than_its_input_names_the_layer_its_input_and_what_would_fit():
    with pytest.raises(NetworkError) as caught:
        Conv2d(6, (5, 3), padding=(0, 1), dilation=2).output_shape((4, 9, 2))
    assert str(caught.value) == (
        "Conv2d(filters=6, kernel_size=5×3, padding=0×1, dilation=2×2) is larger than its input (4, 9, 2): "
        "a kernel_size of at most 2×6 would fit, or an input of at least 9×3"
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Conv2d(0, 3), "Conv2d: filters must be a whole number from 1 on, not 0"),
        (lambda: Conv2d(6, 3.0), "Conv2d: kernel_size must be a whole number from 1 on or a pair"),
        (lambda: Conv2d(6, (3, 3, 3)), "Conv2d: kernel_size must be"),
        (lambda: Conv2d(6, 3, stride=(1, 0)), "Conv2d: stride must be"),
        (lambda: Conv2d(6, 3, dilation=-1), "Conv2d: dilation must be"),
        (lambda: Conv2d(6, 3, padding=-1), "Conv2d: padding must be a whole number from 0 on or a pair"),
        (lambda: Conv2d(6, 3, padding="full"), 'Conv2d: padding must be .*"same" or "valid", not \'full\''),
        (lambda: Conv2d(6, 3, stride=2, padding="same"), 'Conv2d: padding "same" goes with stride 1 only, not 2×2'),
        (lambda: Conv2d(6, 3, bias=1), "Conv2d: bias must be true or false, not 1"),
        (lambda: Conv2d(True, 3), "Conv2d: filters must be a whole number"),
        (lambda: MaxPool2d(2, padding=2), "MaxPool2d: padding is at most half of the kernel_size, 1×1, not 2×2"),
        (lambda: AvgPool2d(0), "AvgPool2d: kernel_size must be"),
        (lambda: AvgPool2d(2, padding="same"), 'AvgPool2d: padding "same" goes with stride 1 only, not 2×2'),
        (lambda: Dense(-1), "Dense: units must be a whole number from 1 on, not -1"),
        (lambda: Dense(10, bias="no"), "Dense: bias must be true or false, not 'no'"),
        (lambda: Dropout(1), r"Dropout: rate must be a number in \[0, 1\), not 1"),
        (lambda: Dropout(math.nan), "Dropout: rate must be"),
        (lambda: Dropout("0.5"), "Dropout: rate must be"),
        (lambda: LeakyReLU(math.inf), "LeakyReLU: negative_slope must be a finite number, not inf"),
    ],
)
def test_a_value_that_a_field_does_not_admit_names_layer_and_field(make, text):
    with pytest.raises(SettingError, match=text):
        make()


def test_every_layer_type_is_tried_here():
    assert {type(layer).__name__ for layer in EVERY_LAYER} == set(LAYERS)


@pytest.mark.parametrize("layer", EVERY_LAYER, ids=str)
def test_a_layer_is_frozen_hashable_and_survives_the_way_through_a_dict(layer: Layer):
    assert layer_from_dict(layer_to_dict(layer)) == layer
    assert hash(layer_from_dict(layer_to_dict(layer))) == hash(layer)
    for field in layer_to_dict(layer):
        if field != "type":
            with pytest.raises(AttributeError):
                setattr(layer, field, 1)


def test_poolings_of_one_window_but_another_kind_differ():
    assert MaxPool2d(2) != AvgPool2d(2)


def test_an_unknown_layer_type_lists_near_matches():
    with pytest.raises(UnknownNameError, match="unknown layer 'Conv3d'; did you mean 'Conv2d'"):
        layer_from_dict({"type": "Conv3d"})


def test_an_unknown_field_lists_near_matches():
    with pytest.raises(UnknownNameError, match="unknown field of Conv2d 'kernel'; did you mean 'kernel_size'"):
        layer_from_dict({"type": "Conv2d", "filters": 6, "kernel": 5})


def test_a_missing_field_is_named():
    with pytest.raises(SettingError, match="Conv2d: kernel_size is missing"):
        layer_from_dict({"type": "Conv2d", "filters": 6})


@pytest.mark.parametrize("table", ["ReLU", {}, {"type": 3}])
def test_what_is_no_table_with_a_type_is_refused(table):
    with pytest.raises(SettingError, match="a layer is a table with a type"):
        layer_from_dict(table)
