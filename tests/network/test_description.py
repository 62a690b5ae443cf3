"""Networks as TOML files."""

import json

import pytest

from minicnn.errors import MinicnnError, NetworkError, SettingError, UnknownNameError
from minicnn.network.activations import LeakyReLU
from minicnn.network.description import __doc__ as example
from minicnn.network.description import network_from_toml
from minicnn.network.layers import AvgPool2d, Conv2d, Dense, Dropout, Flatten
from minicnn.network.network import Network
from minicnn.network.presets import PRESETS, preset

CONV = '[[layers]]\ntype = "Conv2d"\nfilters = 4\nkernel_size = 3\n'
HEAD = '[[layers]]\ntype = "Flatten"\n[[layers]]\ntype = "Dense"\nunits = "classes"\n'


@pytest.fixture
def read(tmp_path):
    def read(text, input_shape=(9, 12, 2), outputs=5):
        path = tmp_path / "net.toml"
        path.write_text(text, encoding="utf-8")
        return network_from_toml(path, input_shape, outputs)

    return read


def written(network):
    """The text of a file that describes ``network``."""
    lines = [f"name = {json.dumps(network.name, ensure_ascii=False)}"]
    for table in network.to_dict()[
        "layers"
    ]:  # JSON's numbers, booleans, lists and plain strings are TOML's too
        lines += [
            "",
            "[[layers]]",
            *(f"{key} = {json.dumps(value)}" for key, value in table.items()),
        ]
    return "\n".join(lines) + "\n"


def test_the_example_of_the_documentation_works(read):
    network = read(example.partition(".. code-block:: toml")[2])
    assert (network.name, network.outputs) == ("wide", 5)
    assert network.layers[0] == Conv2d(32, (3, 5), padding="same")


def test_types_are_read_in_any_case_and_the_name_is_optional(read):
    network = read(CONV.replace("Conv2d", "conv2D") + HEAD.replace("Dense", "DENSE"))
    assert network == Network((9, 12, 2), [Conv2d(4, 3), Flatten(), Dense(5)], name="net")


def test_a_number_of_units_that_is_the_number_of_classes_is_welcome(read):
    assert read(HEAD.replace('"classes"', "5")).outputs == 5


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            CONV + "kernel = 3\n" + HEAD,
            UnknownNameError,
            "layer 1: unknown field of Conv2d 'kernel'; did you mean 'kern",
        ),
        (
            HEAD.replace("Dense", "Dens"),
            UnknownNameError,
            "layer 2: unknown layer 'Dens'; did you mean 'Dense'",
        ),
        ("[[layer]]\n", UnknownNameError, "unknown key 'layer'; did you mean 'layers'"),
        (
            CONV.replace("= 4", "= 0") + HEAD,
            SettingError,
            "layer 1: Conv2d: filters must be a whole number from 1 on",
        ),
        (
            CONV.replace("= 4", '= "classes"') + HEAD,
            SettingError,
            "layer 1: Conv2d: filters must be",
        ),
        (
            '[[layers]]\ntype = "Conv2d"\nfilters = 4\n',
            SettingError,
            "layer 1: Conv2d: kernel_size is missing",
        ),
        ("[[layers]]\nunits = 3\n", SettingError, "layer 1: a layer is a table with a type"),
        ("layers = [3]\n", SettingError, "layer 1: a layer is a table with a type"),
        (
            'name = "empty"\n',
            SettingError,
            r"describes no layers; a layer is a \[\[layers\]\] table",
        ),
        ("[layers]\n", SettingError, "describes no layers"),
        ("name = 3\n" + HEAD, SettingError, "name must be a text, not 3"),
        ("[[layers]\n", SettingError, "is not valid TOML: .* line 1"),
        (
            CONV.replace("3", "11") + HEAD,
            NetworkError,
            r"layer 1 \(conv1\): Conv2d\(.*larger than its input \(9, 12, 2\)",
        ),
        (CONV, NetworkError, r"conv1 gives \(7, 10, 4\), not one row of logits"),
        (
            HEAD.replace('"classes"', "7"),
            NetworkError,
            "dense1 gives 7 outputs, but the data have 5 classes; write units",
        ),
        ("layers = []\n", NetworkError, "a network without layers"),
    ],
)
def test_every_error_is_one_line_that_names_the_file_and_the_place(
    read, tmp_path, text, kind, message
):
    with pytest.raises(kind, match=message) as caught:
        read(text)
    assert str(caught.value).startswith(f"{tmp_path / 'net.toml'}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path, message in [
        (tmp_path / "absent.toml", "cannot be read: No such file"),
        (tmp_path, "cannot be read: "),
        (tmp_path / "binary.toml", "is not valid TOML: "),
    ]:
        with pytest.raises(MinicnnError) as caught:
            network_from_toml(path, (8, 8, 1), 3)
        assert str(caught.value).startswith(f"{path} {message}")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_the_way_through_toml(read, name):
    network = preset(name, (17, 20, 3), 6)
    assert read(written(network), (17, 20, 3), 6) == network


def test_every_kind_of_value_survives_the_way_through_toml(read):
    layers = [
        *(Conv2d(4, (3, 2), padding="same", bias=False), LeakyReLU(1e-5), Dropout(0.25)),
        *(AvgPool2d((2, 3), stride=1), Flatten(), Dense(5)),
    ]
    network = Network((9, 12, 2), layers, name='größer "als" \\ x')
    assert read(written(network)) == network
