"""`compare`: runs side by side, and optimizers from one start."""

import csv
import json

import pytest

from minicnn.storage import read_tensors
from tests.cli.conftest import SOFTMAX

TRAIN = (*SOFTMAX, "--epochs", 3, "-b", 10)


def names(result):
    return [row["name"] for row in json.loads(result.out)["runs"]]


def test_optimizers_are_trained_as_train_would_and_compared(place, minicnn):
    optimizers = ("sgd:learning_rate=0.5", "adam", "lion")
    result = minicnn("compare", "--opt", *optimizers, *TRAIN, "--output", "c", "--json", "--quiet")
    assert result.status == 0
    shown = json.loads(result.out)
    assert sorted(names(result)) == ["adam", "lion", "sgd-learning_rate=0.5"]
    assert shown["files"] == ["compare.csv", "compare.png", "compare.svg"]
    assert {row["steps"] for row in shown["runs"]} == {18} and {
        row["ended"] for row in shown["runs"]
    } == {"epochs done"}
    accuracies = [row["test_accuracy"] for row in shown["runs"]]
    assert accuracies == sorted(accuracies, reverse=True)
    for row in shown["runs"]:  # the default target is one that every run reached
        assert 0 < row["steps_to_target"] <= 18 and row["accuracy"] >= shown["target"]
    alone = minicnn("train", *TRAIN, "--opt", "sgd", "--lr", 0.5, "--output", "alone", "--quiet")
    assert alone.status == 0
    weights = [
        read_tensors(place / folder / "last.safetensors", "checkpoint")[0]["weights.dense1.weight"]
        for folder in ("alone", "c/sgd-learning_rate=0.5")
    ]
    assert (weights[0] == weights[1]).all()


def test_the_table_and_the_csv_have_a_row_a_run(place, minicnn):
    assert (
        minicnn("compare", "--opt", "adam", "sgd", *TRAIN, "--output", "c", "--quiet").status == 0
    )
    result = minicnn("compare", "c/sgd", "c/adam", "--output", "again", "--target", 0.9999)
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "target: an accuracy of 99.99 % in validation" and "steps" in lines[1]
    assert {line.split()[0] for line in lines[2:4]} == {"sgd", "adam"} and lines[-1].startswith(
        "files     again: "
    )
    with open(place / "again" / "compare.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["optimizer"] for row in rows} == {"sgd", "adam"} and all(
        float(row["seconds"]) > 0 for row in rows
    )


def test_a_compared_run_is_evaluated_from_anywhere(place, minicnn, monkeypatch):
    assert (
        minicnn("compare", "--opt", "adam", "sgd", *TRAIN, "--output", "c", "--quiet").status == 0
    )
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert minicnn("evaluate", place / "c" / "sgd").status == 0


def test_an_optimizer_that_diverges_is_a_row_without_accuracy(minicnn):
    result = minicnn(
        "compare", "--opt", "sgd:learning_rate=3e38", "adam", *TRAIN, "--output", "c", "--quiet"
    )
    assert result.status == 0 and "sgd-learning_rate=3e38: diverged after 0 epochs" in result.out


def test_runs_and_optimizers_can_be_mixed_and_other_data_are_a_warning(minicnn):
    minicnn("train", *TRAIN, "--seed", 3, "--output", "before", "--quiet")
    result = minicnn(
        "compare", "before", "--opt", "adam", *TRAIN, "--output", "c", "--quiet", "--json"
    )
    assert (
        sorted(names(result)) == ["adam", "before"]
        and "the runs differ in seed (0, 3)" in result.err
    )


def test_runs_of_the_same_name_keep_their_paths(minicnn):
    for folder in ("a/run", "b/run"):
        minicnn("train", *TRAIN, "--output", folder, "--quiet")
    assert sorted(names(minicnn("compare", "a/run", "b/run", "--json"))) == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--opt", "adam"], "two or more"),
        (["tiny.npz", "nowhere"], "tiny.npz is no run folder"),
        (["--opt", "adam", "adm"], "'adam'"),
        (["--opt", "adam", "sgd:momentun=0.9"], "momentun"),
        (["--opt", "adam", "sgd:0.1"], "--opt sgd:0.1: must look like name=value"),
        (["--opt", "adam", "adam"], "--opt has adam twice"),
        (["--opt", "adam", "sgd", "--target", "85"], "--target must be"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(place, minicnn, argv, words):
    result = minicnn("compare", *argv, *SOFTMAX)
    assert result.status == 2 and words in result.error
    assert [path.name for path in place.iterdir()] == ["tiny.npz"]


def test_a_folder_that_holds_something_is_refused(place, minicnn):
    (place / "full").mkdir()
    (place / "full" / "thing").touch()
    assert (
        "full is there and not empty"
        in minicnn("compare", "--opt", "adam", "sgd", "--output", "full", *SOFTMAX).error
    )


@pytest.mark.parametrize(("epochs", "rows"), [(2, 2), (0, 0)])
def test_ctrl_c_ends_training_and_compares_what_there_is(place, minicnn, monkeypatch, epochs, rows):
    """The second optimizer is interrupted after ``epochs`` epochs; without any, so is the first
    one."""
    from minicnn.training.trainer import Trainer

    events = Trainer.run

    def interrupted(self, *arguments):
        for event in events(self, *arguments):
            stops = self.settings.optimizer == "sgd" or epochs == 0
            if stops and getattr(event, "epoch", 0) > epochs:
                self.interrupt()
            yield event

    monkeypatch.setattr(Trainer, "run", interrupted)
    result = minicnn("compare", "--opt", "adam", "sgd", "lion", *TRAIN, "--output", "c", "--quiet")
    assert result.status == 130
    assert not (place / "c" / "lion").exists()
    assert (
        len([line for line in result.out.splitlines() if line.startswith(("adam ", "sgd "))])
        == rows
    )
