"""Shapes, parameters and errors of single layers."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn.errors import NetworkError, SettingError, UnknownNameError
from minicnn.network.activations import (
    ELU,
    GELU,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minicnn.network.layers import (
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Dense,
    Dropout,
    Dropout2d,
    DropPath,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Layer,
    MaxPool2d,
    Multiply,
)
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm
from minicnn.network.tables import layer_from_dict, layer_to_dict

RULES = [ReLU(), ReLU6(), LeakyReLU(0.2), ELU(0.5), Sigmoid(), HardSigmoid(), Tanh(), SiLU()]
RULES += [HardSwish(), Mish(), Softplus(), GELU(), GELU("tanh")]
EVERY_LAYER = [
    Conv2d(6, 5),
    Conv2d(4, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False),
    Conv2d(4, 4, padding="same"),
    Conv2d(4, 3, padding=(0, 1, 2, 3), groups=2, name="grouped", inputs="input"),
    MaxPool2d(2, dilation=2, ceil_mode=True),
    AvgPool2d((3, 2), stride=1, padding=(1, 1), ceil_mode=True, count_include_pad=False),
    GlobalAvgPool2d(),
    GlobalMaxPool2d(),
    Flatten(),
    Dense(10, bias=False),
    BatchNorm2d(1e-3, 0.01),
    GroupNorm(4),
    LayerNorm(1e-6),
    Add(inputs=("conv1", "conv2")),
    Concat(inputs=["conv1", "input"]),
    Multiply(name="gate", inputs=("conv1", "hardsigmoid1")),
    Dropout(0.25),
    Dropout2d(0.25),
    DropPath(0.25),
    PReLU(),
    Softmax(),
    *RULES,
]


def positions(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> int:
    """Counts the places of a dilated kernel at which all that it reads lies within the padded
    axis."""
    axis = range(-before, size + after)
    starts = range(-before, size + after, stride)
    return sum(all(start + r * dilation in axis for r in range(kernel)) for start in starts)


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
images = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))


@given(
    images, pairs, pairs, st.tuples(st.integers(0, 3), st.integers(0, 3)), pairs, st.integers(1, 5)
)
def test_a_convolution_gives_as_many_rows_and_columns_as_its_kernel_has_places(
    image, kernel, stride, padding, dilation, filters
):
    layer = Conv2d(filters, kernel, stride, padding, dilation)
    expected = tuple(
        positions(image[i], padding[i], padding[i], kernel[i], stride[i], dilation[i])
        for i in range(2)
    )
    if 0 in expected:
        with pytest.raises(NetworkError, match="is larger than its input"):
            layer.output_shape(image)
    else:
        assert layer.output_shape(image) == (*expected, filters)
        multiply_adds = math.prod(expected) * filters * math.prod(kernel) * image[2]
        assert layer.multiply_adds(image) == multiply_adds


@given(images, pairs, pairs, st.sampled_from([MaxPool2d, AvgPool2d]), st.data())
def test_a_pooling_gives_as_many_rows_and_columns_as_its_window_has_places(
    image, kernel, stride, pooling, data
):
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    layer = pooling(kernel, stride, padding)
    expected = tuple(
        positions(image[i], padding[i], padding[i], kernel[i], stride[i], 1) for i in range(2)
    )
    if 0 in expected:
        with pytest.raises(NetworkError, match="is larger than its input"):
            layer.output_shape(image)
    else:
        assert layer.output_shape(image) == (*expected, image[2])


@given(images, pairs, pairs, pairs)
def test_same_padding_gives_the_input_divided_by_the_stride_with_as_little_as_will_do(
    image, kernel, stride, dilation
):
    layer = Conv2d(2, kernel, stride, "same", dilation)
    outputs = tuple(math.ceil(size / step) for size, step in zip(image[:2], stride, strict=True))
    assert layer.output_shape(image) == (*outputs, 2)
    top, bottom, left, right = layer.resolved_padding(image)
    for i, (before, after) in enumerate([(top, bottom), (left, right)]):
        assert 0 <= after - before <= 1  # an odd element is at the bottom or right
        if before + after > 0:  # with one element less there would be one output less
            assert (
                positions(image[i], before, after - 1, kernel[i], stride[i], dilation[i])
                < outputs[i]
            )


def test_same_padding_is_that_of_tensorflow():
    assert Conv2d(1, (4, 2), padding="same").resolved_padding((9, 9, 1)) == (1, 2, 0, 1)
    assert Conv2d(64, (10, 4), 2, "same").resolved_padding((49, 10, 1)) == (4, 5, 1, 1)
    assert Conv2d(8, 3, 2, "same").resolved_padding((96, 96, 3)) == (0, 1, 0, 1)
    assert Conv2d(8, 1, 2, "same").resolved_padding((96, 96, 3)) == (0, 0, 0, 0)


def test_padding_of_four_numbers_is_top_bottom_left_right():
    layer = Conv2d(2, 3, padding=(0, 1, 2, 3))
    assert layer.output_shape((8, 8, 1)) == (7, 11, 2)
    numbers = layer.attributes((8, 8, 1))
    assert (numbers["padding_top"], numbers["padding_left"]) == (0, 2)


def test_a_grouped_convolution_reads_the_channels_of_its_group_alone():
    layer = Conv2d(8, 3, groups=4)
    assert layer.parameter_shapes((5, 5, 12)) == {"weight": (3, 3, 3, 8), "bias": (8,)}
    assert layer.multiply_adds((5, 5, 12)) == 3 * 3 * 8 * 3 * 3 * 3
    assert layer.attributes((5, 5, 12))["groups"] == 4
    with pytest.raises(NetworkError, match="groups must divide its 6 input channels and its 8"):
        layer.output_shape((5, 5, 6))
    with pytest.raises(NetworkError, match="groups must divide its 12 input channels and its 6"):
        Conv2d(6, 3, groups=4).output_shape((5, 5, 12))


# Values of torch.nn.functional.max_pool2d on one axis: size, kernel, stride, padding, dilation.
@pytest.mark.parametrize(
    ("geometry", "floor", "ceil"),
    [
        ((5, 2, 2, 0, 1), 2, 3),
        ((6, 3, 2, 1, 1), 3, 4),
        ((7, 2, 3, 1, 1), 3, 3),
        ((8, 3, 2, 1, 2), 3, 4),
    ],
)
def test_ceil_mode_adds_a_last_window_that_begins_inside(geometry, floor, ceil):
    size, *fields = geometry
    kernel, stride, padding, dilation = ((one, 1) if one else (0, 0) for one in fields)
    shape = (size, 1, 3)
    for mode, expected in [(False, floor), (True, ceil)]:
        layer = MaxPool2d(kernel, stride, (padding[0], 0), dilation, mode)
        assert layer.output_shape(shape) == (expected, 1, 3)


def test_joins_say_which_shapes_do_not_fit_and_what_makes_them():
    assert Add().output_shape((4, 5, 6), (4, 5, 6), (4, 5, 6)) == (4, 5, 6)
    with pytest.raises(
        NetworkError, match=r"one shape, not \(4, 5, 6\) and \(4, 5, 7\): a 1×1 conv"
    ):
        Add().output_shape((4, 5, 6), (4, 5, 7))
    assert Concat().output_shape((4, 5, 6), (4, 5, 7)) == (4, 5, 13)
    assert Concat().output_shape((6,), (7,)) == (13,)
    for shapes in [((4, 5, 6), (3, 5, 6)), ((4, 5, 6), (6,))]:
        with pytest.raises(NetworkError, match=r"one height and width, not .*: pooling, a stride"):
            Concat().output_shape(*shapes)
    for gate in [(4, 5, 6), (1, 1, 6), (6,)]:
        assert Multiply().output_shape((4, 5, 6), gate) == (4, 5, 6)
    with pytest.raises(NetworkError, match=r"\(4, 5, 6\), \(1, 1, 6\), \(6,\), not \(5,\)"):
        Multiply().output_shape((4, 5, 6), (5,))


def test_normalizations_have_a_scale_and_a_shift_and_batch_normalization_a_state():
    for shape in [(4, 5, 6), (6,)]:
        assert BatchNorm2d().parameter_shapes(shape) == {"weight": (6,), "bias": (6,)}
        assert BatchNorm2d().state_shapes(shape) == {"running_mean": (6,), "running_var": (6,)}
        assert GroupNorm(3).parameter_shapes(shape) == {"weight": (6,), "bias": (6,)}
        assert LayerNorm().parameter_shapes(shape) == {"weight": shape, "bias": shape}
        for layer in (BatchNorm2d(), GroupNorm(3), LayerNorm()):
            assert layer.kinds == {"weight": "scale", "bias": "shift"}
            assert layer.output_shape(shape) == shape
    with pytest.raises(NetworkError, match="groups must divide its 6 channels"):
        GroupNorm(4).output_shape((4, 5, 6))


def test_the_numbers_that_kernels_read_are_the_fields():
    shape = (8, 8, 4)
    assert BatchNorm2d(1e-3, 0.2).attributes(shape) == {"f0": 1e-3, "f1": 0.2}
    assert GroupNorm(2, 1e-4).attributes(shape) == {"f0": 1e-4, "groups": 2}
    assert LayerNorm(1e-4).attributes(shape) == {"f0": 1e-4}
    assert (LeakyReLU(0.2).attributes(shape), ELU(2).attributes(shape)) == ({"f0": 0.2}, {"f0": 2})
    for dropout in (Dropout, Dropout2d, DropPath):
        assert dropout(0.3).attributes(shape) == {"f0": 0.3}
    pool = AvgPool2d((3, 2), (2, 1), (1, 0), count_include_pad=False).attributes(shape)
    assert (pool["kernel_height"], pool["stride_width"], pool["padding_top"]) == (3, 1, 1)
    assert (pool["a0"], AvgPool2d(2).attributes(shape)["a0"]) == (0, 1)
    whole = GlobalMaxPool2d().attributes((7, 9, 2))
    assert (whole["kernel_height"], whole["kernel_width"]) == (7, 9)


@given(images, pairs, pairs, st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_what_the_error_says_would_fit_does_fit_and_only_just(image, excess, dilation, padding):
    kernel = tuple(image[i] + 2 * padding[i] + excess[i] for i in range(2))
    layer = Conv2d(1, kernel, padding=padding, dilation=dilation)
    with pytest.raises(NetworkError) as caught:
        layer.output_shape(image)
    found = re.search(
        r"kernel_size of at most (\d+)×(\d+) would fit, or an input of at least (\d+)×(\d+)$",
        str(caught.value),
    )
    rows, columns, height, width = map(int, found.groups())
    assert (
        len(Conv2d(1, (rows, columns), padding=padding, dilation=dilation).output_shape(image)) == 3
    )
    for larger in [(rows + 1, columns), (rows, columns + 1)]:
        with pytest.raises(NetworkError):
            Conv2d(1, larger, padding=padding, dilation=dilation).output_shape(image)
    assert layer.output_shape((height, width, image[2])) == (1, 1, 1)


def test_numbers_become_pairs_and_valid_becomes_no_padding():
    assert Conv2d(6, 5) == Conv2d(
        filters=6, kernel_size=(5, 5), stride=(1, 1), padding="valid", dilation=[1, 1]
    )
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


@pytest.mark.parametrize("layer", [*RULES, Dropout(), Dropout2d(), DropPath()], ids=str)
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


@pytest.mark.parametrize(
    "layer", [Conv2d(6, 5), MaxPool2d(2), AvgPool2d(2), GlobalAvgPool2d()], ids=str
)
def test_an_image_layer_on_a_row_says_where_it_belongs(layer):
    with pytest.raises(
        NetworkError, match=r"needs an image .* but its input is \(84,\); put it before Flatten"
    ):
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
        (
            lambda: Conv2d(6, 3, padding=-1),
            "Conv2d: padding must be a whole number from 0 on or a pair",
        ),
        (
            lambda: Conv2d(6, 3, padding="full"),
            'Conv2d: padding must be .*"same" or "valid", not \'full\'',
        ),
        (lambda: Conv2d(6, 3, padding=(1, 1, 1)), "Conv2d: padding must be"),
        (lambda: Conv2d(6, 3, groups=0), "Conv2d: groups must be a whole number from 1 on, not 0"),
        (lambda: MaxPool2d(2, ceil_mode=1), "MaxPool2d: ceil_mode must be true or false, not 1"),
        (lambda: Conv2d(6, 3, bias=1), "Conv2d: bias must be true or false, not 1"),
        (lambda: Conv2d(True, 3), "Conv2d: filters must be a whole number"),
        (
            lambda: MaxPool2d(2, padding=2),
            "MaxPool2d: padding is at most half of the kernel_size, 1×1, not 2×2",
        ),
        (lambda: AvgPool2d(0), "AvgPool2d: kernel_size must be"),
        (lambda: AvgPool2d(2, count_include_pad=0), "AvgPool2d: count_include_pad must be true"),
        (
            lambda: BatchNorm2d(eps=-1),
            r"BatchNorm2d: eps must be a finite number from 0 on, not -1",
        ),
        (
            lambda: BatchNorm2d(momentum=2),
            r"BatchNorm2d: momentum must be a number in \[0, 1\], not 2",
        ),
        (lambda: BatchNorm2d(eps=10**400), "BatchNorm2d: eps must be a finite number from 0 on"),
        (lambda: BatchNorm2d(momentum=1.00000005), "BatchNorm2d: momentum must be"),
        (lambda: GroupNorm(0), "GroupNorm: groups must be a whole number from 1 on, not 0"),
        (lambda: GELU("erf"), 'GELU: approximate must be "none" or "tanh", not \'erf\''),
        (
            lambda: LeakyReLU(-0.1),
            r"LeakyReLU: negative_slope must be a number in \[0, inf\), not -0.1",
        ),
        (lambda: DropPath(1), r"DropPath: rate must be a number in \[0, 1\), not 1"),
        (
            lambda: ReLU(name="2nd"),
            "ReLU: name must be a letter with letters, digits, _ and - after it",
        ),
        (lambda: ReLU(name="input"), "ReLU: name must not be 'input'"),
        (lambda: Add(inputs=(1, 2)), r"Add: inputs must be names of layers, not \(1, 2\)"),
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


@pytest.mark.parametrize("layer", {type(layer): layer for layer in EVERY_LAYER}.values(), ids=str)
def test_every_layer_says_its_formula_and_its_source(layer):
    text = type(layer).__doc__
    assert re.search(r"``[^`]*[(·/=][^`]*``", text)
    assert re.search(r"\b(19|20)\d\d\b", text) or isinstance(layer, Flatten)


def test_every_layer_type_is_tried_here():
    import minicnn

    public = {getattr(minicnn, name) for name in minicnn.__all__}
    layers = {one for one in public if isinstance(one, type) and issubclass(one, Layer)}
    assert {type(layer) for layer in EVERY_LAYER} == layers - {Layer}


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


def test_an_unknown_layer_type_lists_near_matches_and_each_layer_once():
    with pytest.raises(
        UnknownNameError, match="unknown layer 'Conv3d'; did you mean 'Conv2d'"
    ) as caught:
        layer_from_dict({"type": "Conv3d"})
    assert "ReLU6" in str(caught.value) and "relu6" not in str(caught.value)


def test_an_unknown_field_lists_near_matches():
    with pytest.raises(
        UnknownNameError, match="unknown field of Conv2d 'kernel'; did you mean 'kernel_size'"
    ):
        layer_from_dict({"type": "Conv2d", "filters": 6, "kernel": 5})


def test_a_missing_field_is_named():
    with pytest.raises(SettingError, match="Conv2d: kernel_size is missing"):
        layer_from_dict({"type": "Conv2d", "filters": 6})


@pytest.mark.parametrize("table", ["ReLU", {}, {"type": 3}])
def test_what_is_no_table_with_a_type_is_refused(table):
    with pytest.raises(SettingError, match="a layer is a table with a type"):
        layer_from_dict(table)
