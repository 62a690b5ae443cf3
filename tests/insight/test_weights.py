"""Single weights by name."""

import re

import pytest

from minicnn.errors import SettingError, UnknownNameError
from minicnn.insight.weights import name, parse
from minicnn.network.presets import preset

LENET = preset("lenet5", (28, 28, 1), 10)


@pytest.mark.parametrize(
    "text", ["conv1.weight[0,0,0,3]", "conv2.weight[4,4,5,15]", "dense1.bias[119]", "conv1.bias[0]"]
)
def test_a_name_and_a_place_are_each_others_inverse(text):
    flat = LENET.initialize(__import__("numpy").random.default_rng(0))
    place = parse(LENET, text)
    assert name(LENET, place) == text
    tensor, inside = text.rstrip("]").split("[")
    flat[place] = 42
    assert LENET.unflatten(flat)[tensor][tuple(map(int, inside.split(",")))] == 42


def test_spaces_do_not_matter():
    assert parse(LENET, " conv1.weight[0, 0, 0, 3] ") == parse(LENET, "conv1.weight[0,0,0,3]")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("conv1.wieght[0,0,0,3]", UnknownNameError, "did you mean 'conv1.weight'"),
        ("conv1.weight", SettingError, "names no single weight: write conv1.weight[0,0,0,0]"),
        ("conv1.weight[0,0,0,-1]", SettingError, "names no single weight"),
        ("conv1.weight[0,0,0,3", SettingError, "names no single weight"),
        ("conv1.weight[0,3]", SettingError, "write 4 indices, as conv1.weight[0,0,0,0]"),
        (
            "conv1.weight[0,0,0,6]",
            SettingError,
            "index 4 of conv1.weight must be from 0 to 5, not 6",
        ),
    ],
)
def test_a_wrong_name_says_what_would_be_right(text, error, says):
    with pytest.raises(error, match=re.escape(says)):
        parse(LENET, text)


def test_a_gap_between_two_tensors_has_no_name():
    with pytest.raises(SettingError, match="no weight at place 150"):
        name(LENET, 150)
