"""`lr-find`: the learning-rate range test."""

import csv
import json
from pathlib import Path

import pytest

from minicnn.report import plots
from tests.cli.conftest import SOFTMAX

RANGE = ("--from", 1e-4, "--to", 1e3, "--steps", 100)


def test_it_shows_a_curve_with_its_marks_and_says_what_to_try(place, minicnn):
    result = minicnn("lr-find", *SOFTMAX, *RANGE, "-b", 10)
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "network     softmax, adam"
    curve, marks = lines[3][12:], lines[4][12:]
    assert set(curve) <= set("▁▂▃▄▅▆▇█") and len(curve) == 60
    assert sorted(marks.replace(" ", "")) == ["^", "l", "s"] and marks.index("s") < marks.index(
        "^"
    ) < marks.index("l")
    assert "minicnn train --lr" in lines[-1]
    assert sorted(path.name for path in place.iterdir()) == ["tiny.npz"]


def test_the_figures_are_an_object_and_what_it_tells_to_try_trains(minicnn):
    shown = json.loads(minicnn("lr-find", *SOFTMAX, *RANGE, "-b", 10, "--json").out)
    assert shown["suggestion"] == pytest.approx((shown["steepest"] * shown["lowest"]) ** 0.5)
    assert len(shown["rates"]) == len(shown["losses"]) == len(shown["smoothed"]) <= 100
    trained = minicnn(
        "train",
        *SOFTMAX,
        "--epochs",
        5,
        "--lr",
        shown["suggestion"],
        "--json",
        "--output",
        "run",
        "--quiet",
    )
    assert json.loads(trained.out)["test"]["accuracy"] > 0.8


def test_the_picture_and_the_table_go_to_a_folder(place, minicnn, monkeypatch):
    result = minicnn("lr-find", *SOFTMAX, *RANGE, "--output", "found")
    assert "lr-find.csv, lr-find.png, lr-find.svg" in result.out
    with open(place / "found" / "lr-find.csv", encoding="utf-8", newline="") as file:
        header, first, *_ = csv.reader(file)
    assert header == ["learning_rate", "loss", "smoothed"] and float(first[0]) == 1e-4
    assert (place / "found" / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(plots, "available", lambda: False)
    result = minicnn("lr-find", *SOFTMAX, *RANGE, "--output", "bare")
    assert result.status == 0 and "minicnn-numba[plots]" in result.err
    assert [path.name for path in (place / "bare").iterdir()] == ["lr-find.csv"]


def test_rates_that_teach_nothing_suggest_nothing(minicnn):
    result = minicnn(
        "lr-find", *SOFTMAX, "--opt", "sgd", "--from", 1e4, "--to", 1e30, "--steps", 100
    )
    assert (
        result.status == 0
        and "the loss did not fall" in result.err
        and "minicnn train" not in result.out
    )


@pytest.mark.parametrize("wrong", [("--from", 1, "--to", 0.1), ("--steps", 3), ("--from", 0)])
def test_a_range_that_is_none_is_wrong_usage(minicnn, wrong):
    result = minicnn("lr-find", *SOFTMAX, *wrong)
    assert result.status == 2 and "the range must rise" in result.error


def test_what_has_no_meaning_here_is_no_option(minicnn):
    assert "--epochs" in minicnn("lr-find", *SOFTMAX, "--epochs", 3).error


def test_it_and_compare_begin_with_the_model_of_init(minicnn):
    """Which they once left aside without a word."""
    data = ("--data", "tiny.npz", "--threads", 1)
    minicnn("train", *data, "--model", "mlp", "--epochs", 1, "--output", "run", "--quiet")
    shown = minicnn("lr-find", *data, "--init", "run", *RANGE).out
    assert shown.splitlines()[0] == "network     mlp, adam"
    result = minicnn("compare", "run", "--opt", "sgd", *data, "--init", "run", "--output", "both")
    assert result.status == 0
    assert json.loads((Path("both") / "sgd" / "report.json").read_text())["network"] == "mlp"
