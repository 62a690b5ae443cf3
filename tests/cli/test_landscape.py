"""minicnn landscape from the outside."""

import csv
import json
import threading
from contextlib import contextmanager

import pytest

from minicnn.insight.descent import Plane

WEIGHTS = ("dense1.weight[3,1]", "dense1.weight[20,0]")
NAMES = "dense1-weight-3-1-dense1-weight-20-0"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_surface_is_drawn_written_and_printed(minicnn, model, place):
    result = minicnn(
        "landscape", model, "--points", 5, "--opt", "gd", "adam", "--starts", 2, "--steps", 30
    )
    assert result.status == 0 and result.err == ""
    for word in (
        "across    dense1.weight[",
        "o the model",
        "minima on the grid",
        "trajectories",
        "adam",
        "landscape-surface-dense1-weight-",
    ):
        assert word in result.out
    assert "\x1b" not in result.out
    files = sorted(path.name for path in (place / model).glob("landscape*"))
    kinds = [name.split("-dense1-weight-")[0] + name[-4:] for name in files]
    assert kinds == [
        *(f"landscape-surface.{suffix}" for suffix in ("csv", "png", "svg")),
        "landscape-trajectories.csv",
    ]
    assert len(rows_of(place / model / files[0])) == 25
    rows = rows_of(place / model / files[-1])
    assert {row["optimizer"] for row in rows} == {"gd", "adam"}
    assert {row["trajectory"] for row in rows} == {"1", "2", "3", "4"}


def test_nothing_of_one_kind_is_overwritten_by_another(minicnn, model, place):
    start = ("--images", 10, "--output", "out")
    surface = ("--points", 3, "--starts", 0)
    options = [
        ("--along", *WEIGHTS, *surface),
        ("--along", "random", "random", *surface),
        ("--slice", "--along", WEIGHTS[0]),
        ("--slice", "--along", "random"),
        ("--loss-curve",),
        ("--loss-curve", "--loss", "mse"),
    ]
    before = set()
    for one in options:
        assert minicnn("landscape", model, *one, *start).status == 0
        after = {path.name for path in (place / "out").iterdir()}
        assert before < after and len(after - before) >= 3
        before = after
    assert "landscape-surface-random-direction-1-random-direction-2.png" in before
    assert "landscape-slice-dense1-weight-3-1.png" in before


def test_json_has_all_figures_and_the_own_loss_is_evaluates(minicnn, model, place):
    options = ("--along", *WEIGHTS, "--points", 5, "--start", 0.5, -0.25, "--output", "out")
    result = minicnn("landscape", model, *options, "--json")
    figures = json.loads(result.out)
    assert (
        figures["x"]["direction"] == WEIGHTS[0]
        and len(figures["losses"]) == len(figures["losses"][0]) == 5
    )
    assert figures["images"] == 30 and figures["loss"] == "cross_entropy" and figures["complete"]
    evaluated = json.loads(minicnn("evaluate", model, "--json").out)
    assert figures["model_loss"] == pytest.approx(evaluated["loss"], rel=1e-5)
    (one,) = figures["trajectories"]
    assert (
        one["points"][0] == [0.5, -0.25]
        and one["optimizer"] == "gd"
        and one["minimum"] in (None, 1)
    )
    assert set(figures["files"]) == {path.name for path in (place / "out").iterdir()}


def test_a_slice_shows_the_derivative_and_the_steps(minicnn, model, place):
    result = minicnn(
        "landscape", model, "--slice", "--along", WEIGHTS[0], "--lr", 0.1, 1e4, "--output", "out"
    )
    assert result.status == 0, result.err
    assert "dC/dw" in result.out and "2/C''" in result.out and "diverging" in result.out
    assert {path.name for path in (place / "out").iterdir()} == {
        "landscape-slice-dense1-weight-3-1.csv",
        "landscape-slice-steps-dense1-weight-3-1.csv",
        "landscape-slice-dense1-weight-3-1.png",
        "landscape-slice-dense1-weight-3-1.svg",
    }
    figures = json.loads(
        minicnn("landscape", model, "--slice", "--start", 1, "--output", "out", "--json").out
    )
    assert figures["descents"][0]["points"][0] == [1] and len(figures["values"]) == 201


def test_a_loss_curve_is_of_any_loss(minicnn, model, place):
    result = minicnn(
        "landscape", model, "--loss-curve", "--loss", "binary-cross-entropy", "--output", "out"
    )
    assert result.status == 0, result.err
    assert "binary_cross_entropy" in result.out and "dC/da" in result.out
    assert len(rows_of(place / "out" / "landscape-loss-samples-binary_cross_entropy.csv")) == 30
    assert (place / "out" / "landscape-loss-curve-binary_cross_entropy.png").exists()


def press_ctrl_c(monkeypatch, after, during):
    """Ctrl-C comes when the progress of ``during`` is at ``after``."""

    @contextmanager
    def progress(description):
        def show(done, total):
            if description == during and done == after:
                raise KeyboardInterrupt

        yield show

    monkeypatch.setattr("minicnn.report.console.progress_bar", progress)


def test_ways_down_are_gone_side_by_side(minicnn, model, monkeypatch):
    gate, descend = threading.Barrier(2), Plane.descend
    monkeypatch.setattr(
        Plane, "descend", lambda *a, **k: (gate.wait(30) and None) or descend(*a, **k)
    )
    options = ("--points", 3, "--steps", 2, "--opt", "gd", "adam", "--threads", 2)
    result = minicnn("landscape", model, *options, "--starts", 2, "--output", "out", "--json")
    names = [one["optimizer"] for one in json.loads(result.out)["trajectories"]]
    assert names == ["gd", "gd", "adam", "adam"]


def test_ctrl_c_while_descending_keeps_the_surface_and_the_trajectories_that_are_done(
    minicnn, model, place, monkeypatch
):
    press_ctrl_c(monkeypatch, 2, "descent")
    result = minicnn(
        "landscape", model, "--along", *WEIGHTS, "--points", 3, "--steps", 5, "--output", "out"
    )
    assert result.status == 130 and "interrupted" in result.err
    assert "nan" not in (place / "out" / f"landscape-surface-{NAMES}.csv").read_text()
    assert {
        row["trajectory"] for row in rows_of(place / "out" / f"landscape-trajectories-{NAMES}.csv")
    } == {"1", "2"}


def test_ctrl_c_keeps_the_part_of_the_surface_that_is_done(minicnn, model, place, monkeypatch):
    press_ctrl_c(monkeypatch, 3, "loss")
    result = minicnn("landscape", model, "--along", *WEIGHTS, "--points", 5, "--output", "out")
    assert result.status == 130 and "interrupted" in result.err
    done = [
        row["loss"]
        for row in rows_of(place / "out" / f"landscape-surface-{NAMES}.csv")
        if row["loss"] != "nan"
    ]
    assert len(done) == 15 and (place / "out" / f"landscape-surface-{NAMES}.png").exists()
    assert not (place / "out" / f"landscape-trajectories-{NAMES}.csv").exists()


def test_without_matplotlib_there_is_all_but_the_pictures(minicnn, model, place, monkeypatch):
    monkeypatch.setattr("minicnn.report.plots.available", lambda: False)
    result = minicnn("landscape", model, "--points", 3, "--output", "out")
    assert result.status == 0 and "minicnn-numba[plots]" in result.err
    assert "o the model" in result.out
    assert {path.suffix for path in (place / "out").iterdir()} == {".csv"}


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--along", "dense1.weight[3,1]"], 2, "directions must be two, not 1"),
        (["--along", "dense1.wait[0,0]", "random"], 2, "did you mean 'dense1.weight'"),
        (["--along", "pc1", "pc2"], 1, "`minicnn train --record` writes one"),
        (["--along", "to:model", "random"], 2, "has the same weights as the model"),
        (["--along", "to:nowhere", "random"], 1, "nowhere: no such file"),
        (["--opt", "adm"], 2, "did you mean 'adam'"),
        (["--lr", "0.1", "0.2"], 2, "--lr takes one learning rate here"),
        (["--lr", "-1"], 2, "learning_rate"),
        (["--start", "1"], 2, "--start takes 2 numbers here, not 1"),
        (["--slice", "--start", "1", "2"], 2, "--start takes 1 number here, not 2"),
        (["--slice", "--along", *WEIGHTS], 2, "--slice takes one direction"),
        (["--reach", "0"], 2, "--reach must be a finite number above 0"),
        (["--points", "1"], 2, "must be a whole number from 2 on"),
        (["--images", "0"], 2, "must be a whole number from 1 on"),
        (["--loss", "hinge"], 2, "unknown loss 'hinge'"),
        (["--slice", "--loss-curve"], 2, "not allowed with"),
    ],
)
def test_wrong_options_are_one_clear_line_and_leave_nothing(
    minicnn, model, place, options, status, says
):
    before = sorted(place.rglob("*"))
    result = minicnn("landscape", model, *options)
    assert result.status == status and says in result.error and result.out == ""
    assert sorted(place.rglob("*")) == before
