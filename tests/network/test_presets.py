"""Networks by name."""

import pytest

from minicnn.errors import NetworkError, UnknownNameError
from minicnn.network.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("shape", "outputs"), [((28, 28, 1), 10), ((17, 40, 3), 1), ((32, 32), 100)])
def test_every_preset_fits_grey_and_colour_any_shape_and_any_number_of_classes(name, shape, outputs):
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


@pytest.mark.parametrize(("name", "smallest"), [("lenet5", 16), ("vgg-small", 4)])
def test_images_too_small_for_a_preset_name_the_preset_the_layer_and_what_takes_them(name, smallest):
    assert preset(name, (smallest, smallest, 1), 10).outputs == 10
    too_small = (smallest - 1, smallest, 1)
    with pytest.raises(NetworkError) as caught:
        preset(name, too_small, 10)
    text = str(caught.value)
    assert text.startswith(f"{name} does not fit images of {too_small}: layer 6 (maxpool2): MaxPool2d(")
    assert text.endswith("; softmax and mlp take images of any size")
