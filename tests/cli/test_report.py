"""`evaluate --report` and `train --report`: mistakes, filters, pictures, and one page."""

import csv
import json
import re

import pytest

from minicnn.report import plots
from tests.cli.conftest import SOFTMAX, arrays, write_npz

PICTURES = [
    f"{name}.{kind}"
    for name in ("curves", "confusion", "mistakes", "filters")
    for kind in ("png", "svg")
]


@pytest.fixture
def model(minicnn):
    """The run folder of a model that is trained so little that it makes mistakes."""
    assert (
        minicnn(
            "train", *SOFTMAX, "--epochs", 1, "--lr", 0.0005, "--output", "model", "--quiet"
        ).status
        == 0
    )
    return "model"


def test_the_report_goes_beside_the_model_and_the_page_holds_all_pictures(place, minicnn, model):
    result = minicnn("evaluate", model, "--report", "--json")
    assert (result.status, result.err) == (0, "")
    shown = json.loads(result.out)
    assert shown["files"] == ["report.html", "evaluation.csv", *PICTURES]
    assert all((place / model / name).stat().st_size for name in shown["files"])
    page = (place / model / "report.html").read_text("utf-8")
    assert (
        page.count('src="data:image/svg+xml;base64,') == 4
        and "http:" not in page
        and "https:" not in page
    )
    for words in (
        "model: softmax",
        "Confusion",
        "Classes",
        "ant",
        "Settings",
        "learning_rate",
        "Machine",
        "Versions",
    ):
        assert words in page
    assert f"{100 * shown['accuracy']:.2f} %" in page


def test_the_mistakes_are_those_of_the_figures(minicnn, model):
    shown = json.loads(minicnn("evaluate", model, "--report", "--json").out)
    wrong = 30 - sum(shown["confusion"][i][i] for i in range(3))
    assert len(shown["mistakes"]) == min(wrong, 16) > 0
    _, labels = arrays(30, 1)
    for mistake in shown["mistakes"]:
        assert labels[mistake["index"]] == mistake["label"] != mistake["predicted"]


def test_the_csv_has_the_figures_of_each_class_and_the_confusion_matrix(place, minicnn, model):
    shown = json.loads(minicnn("evaluate", model, "--report", "--json").out)
    with open(place / model / "evaluation.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "images", "precision", "recall", "f1", "as ant", "as bee", "as cat"]
    assert [[int(count) for count in row[5:]] for row in rows] == shown["confusion"]
    assert [float(row[4]) for row in rows] == pytest.approx(shown["f1"])
    assert [int(row[1]) for row in rows] == [10, 10, 10]


def test_the_terminal_shows_mistakes_and_filters_as_pictures_of_characters(minicnn, model):
    out = minicnn("evaluate", model, "--report").out
    assert re.search(r"^(ant|bee|cat) \d+\.\d %", out, re.MULTILINE)
    assert re.search(r"^not (ant|bee|cat) \(#\d+\)", out, re.MULTILINE)
    assert "dense1.weight" in out and "%%" in out and "F1 %" in out and "\x1b" not in out
    assert "report.html, evaluation.csv" in out.splitlines()[-1]
    assert max(map(len, out[out.index("the most confident mistakes") :].splitlines()[:-1])) <= 80


def test_the_report_can_go_elsewhere_and_be_of_other_data(place, minicnn, model):
    images, labels = arrays(12, 5)
    write_npz(place / "other.npz", x_test=images, y_test=(labels + 1) % 3)
    result = minicnn(
        "evaluate",
        f"{model}/model.safetensors",
        "--data",
        "other.npz",
        "--report",
        "--output",
        "a/b",
    )
    assert result.status == 0 and (place / "a" / "b" / "report.html").exists()
    assert (
        not (place / model / "report.html").exists()
        and "on 12 images" in (place / "a/b/report.html").read_text()
    )


def test_a_model_file_alone_has_a_page_without_curves(place, minicnn, model):
    (place / "alone").mkdir()
    (place / "alone" / "m.safetensors").write_bytes(
        (place / model / "model.safetensors").read_bytes()
    )
    shown = json.loads(minicnn("evaluate", "alone/m.safetensors", "--report", "--json").out)
    assert "curves.png" not in shown["files"] and "confusion.png" in shown["files"]


def test_a_landscape_beside_the_model_is_on_the_page(place, minicnn, model):
    (place / model / "landscape-slice.png").write_bytes(b"\x89PNG")
    assert minicnn("evaluate", model, "--report").status == 0
    page = (place / model / "report.html").read_text("utf-8")
    assert "<h2>Landscape slice</h2>" in page and "data:image/png;base64," in page


def test_a_link_in_a_run_folder_is_not_followed_into_the_page(place, minicnn, model):
    (place / "secret.txt").write_bytes(b"secret of another file")
    (place / model / "landscape-x.png").symlink_to(place / "secret.txt")
    assert minicnn("evaluate", model, "--report").status == 0
    assert "c2VjcmV0IG9mIGFub3RoZXIgZmlsZQ" not in (place / model / "report.html").read_text(
        "utf-8"
    )


def test_without_matplotlib_the_figures_are_there_and_a_warning_says_what_is_missing(
    place, minicnn, model, monkeypatch
):
    monkeypatch.setattr(plots, "available", lambda: False)
    result = minicnn("evaluate", model, "--report", "--json")
    assert result.status == 0 and json.loads(result.out)["files"] == ["evaluation.csv"]
    assert result.err.startswith("minicnn: warning: ") and "minicnn-numba[plots]" in result.err
    assert not (place / model / "report.html").exists()


def test_a_place_without_a_report_is_wrong_usage(minicnn, model):
    result = minicnn("evaluate", model, "--output", "there")
    assert result.status == 2 and "--report" in result.error


def test_a_folder_that_cannot_be_made_is_named(place, minicnn, model):
    result = minicnn("evaluate", model, "--report", "--output", "tiny.npz/x")
    assert result.status == 1 and "tiny.npz/x" in result.error


def test_train_writes_the_same_page(place, minicnn):
    result = minicnn(
        "train", *SOFTMAX, "--epochs", 2, "--lr", 0.0005, "--output", "run", "--report"
    )
    assert result.status == 0 and "report.html" in result.out
    page = (place / "run" / "report.html").read_text("utf-8")
    assert page.count("<img") == 4
    assert minicnn("evaluate", "run", "--report").status == 0
    assert (place / "run" / "report.html").read_text("utf-8") == page
