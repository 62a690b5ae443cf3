"""Networks by name."""

import pytest

from minicnn.errors import NetworkError, UnknownNameError
from minicnn.network.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    ("shape", "outputs"), [((28, 28, 1), 10), ((17, 40, 3), 1), ((32, 32), 100)]
)
def test_every_preset_fits_grey_and_colour_any_shape_and_any_number_of_classes(
    name, shape, outputs
):
    network = preset(name, shape, outputs)
    assert (network.name, network.outputs) == (name, outputs)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("softmax", 7_850),
        ("mlp", 784 * 128 + 128 + 1_290),
        ("lenet5", 44_426),
        ("vgg-small", 320 + 18_496 + 3_136 * 128 + 128 + 1_290),
    ],
)
def test_presets_have_their_known_numbers_of_parameters(name, parameters):
    assert preset(name, (28, 28, 1), 10).parameter_count == parameters


# Banbury et al.: MLPerf Tiny benchmark, 2021.
@pytest.mark.parametrize(
    ("name", "shape", "outputs", "weights"),
    [
        ("resnet8", (32, 32, 3), 10, 77_706),
        ("mobilenet-v1-025", (96, 96, 3), 2, 210_850),
        ("ds-cnn", (49, 10, 1), 12, 22_604),
    ],
)
def test_presets_of_mlperf_tiny_have_its_weights_when_normalization_is_folded(
    name, shape, outputs, weights
):
    """What is folded leaves the convolution before it a bias: as many numbers as the normalization
    shifts by."""
    specs = preset(name, shape, outputs).parameters
    assert sum(spec.size for spec in specs if spec.kind in ("weight", "bias", "shift")) == weights


def test_resnet20_has_twenty_layers_with_weights_on_its_longest_way():
    network = preset("resnet20", (32, 32, 3), 10)
    kernels = [spec.shape for spec in network.parameters if spec.kind == "weight"]
    assert sum(shape[:2] != (1, 1) for shape in kernels) == 20
    assert [shape for shape in kernels if shape[:2] == (1, 1)] == [(1, 1, 16, 32), (1, 1, 32, 64)]


def test_fast_pools_before_it_normalizes():
    assert preset("fast", (32, 32, 3), 10).layer_names[:9] == (
        *("conv1", "gelu1", "conv2", "maxpool1", "batchnorm1", "gelu2"),
        *("conv3", "batchnorm2", "gelu3"),
    )


def test_the_layers_of_lenet5_are_those_of_the_text():
    assert preset("lenet5", (28, 28, 1), 10).layer_names == (
        *("conv1", "relu1", "maxpool1", "conv2", "relu2", "maxpool2"),
        *("flatten1", "dense1", "relu3", "dense2", "relu4", "dense3"),
    )


def test_an_unknown_network_lists_near_matches_and_the_way_out():
    with pytest.raises(UnknownNameError) as caught:
        preset("lenet", (28, 28, 1), 10)
    assert "unknown network 'lenet'; did you mean 'lenet5'" in str(caught.value)
    assert str(caught.value).endswith("; a FILE.toml describes any other")


@pytest.mark.parametrize(
    ("name", "smallest", "layer"),
    [
        ("lenet5", 16, "6 (maxpool2)"),
        ("vgg-small", 4, "6 (maxpool2)"),
        ("fast", 9, "18 (maxpool3)"),
    ],
)
def test_images_too_small_for_a_preset_name_the_preset_the_layer_and_what_takes_them(
    name, smallest, layer
):
    assert preset(name, (smallest, smallest, 1), 10).outputs == 10
    too_small = (smallest - 1, smallest, 1)
    with pytest.raises(NetworkError) as caught:
        preset(name, too_small, 10)
    text = str(caught.value)
    assert text.startswith(f"{name} does not fit images of {too_small}: layer {layer}: MaxPool2d(")
    assert text.endswith("; softmax and mlp take images of any size")
