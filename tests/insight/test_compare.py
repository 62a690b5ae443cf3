"""Runs beside each other, from what their folders hold."""

import json

import pytest

from minicnn.errors import MinicnnError, UsageError
from minicnn.insight.compare import FIGURES, differences, ranking, read_run

REPORT = {
    "reason": "epochs done",
    "seconds": 1.0,
    "explanation": "",
    "settings": {},
    "machine": {},
    "versions": {},
}


def run_in(folder, accuracies, seconds=2.0, steps=10, test=None, validation=True, **settings):
    """A run folder as `train` writes it, of a run that reached ``accuracies``."""
    folder.mkdir()
    lines = [
        {
            "epoch": i + 1,
            "steps": steps * (i + 1),
            "seconds": seconds,
            "train_loss": 1 / (i + 1),
            "train_accuracy": value - 0.01,
            "validation_loss": 1.0 if validation else None,
            "validation_accuracy": value if validation else None,
        }
        for i, value in enumerate(accuracies)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "data": "tiny", "seed": 0} | settings
    (folder / "config.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    )
    if test is not None:
        (folder / "report.json").write_text(json.dumps(REPORT | {"test": {"accuracy": test}}))
    return read_run(folder)


def test_steps_and_seconds_are_those_at_the_end_of_the_first_epoch_at_the_target(tmp_path):
    run = run_in(tmp_path / "a", [0.5, 0.7, 0.6, 0.8], seconds=1.5, steps=40, test=0.75)
    (row,) = ranking([run], 0.7)
    assert (row.optimizer, row.learning_rate, row.accuracy, row.test_accuracy) == (
        "sgd",
        0.1,
        0.8,
        0.75,
    )
    assert (row.epochs, row.steps, row.seconds, row.ended) == (4, 160, 6.0, "epochs done")
    assert (row.steps_to_target, row.seconds_to_target) == (80, 3.0)
    assert (
        ranking([run], 0.81)[0].steps_to_target is ranking([run], 0.81)[0].seconds_to_target is None
    )


def test_runs_are_ranked_on_the_test_set_if_all_were_tested_and_else_in_validation(tmp_path):
    runs = [
        run_in(tmp_path / name, [value], test=test)
        for name, value, test in (("a", 0.9, 0.7), ("b", 0.8, 0.9), ("c", 0.7, 0.8))
    ]
    names = [row.name.rpartition("/")[2] for row in ranking(runs, 0.5)]
    assert names == ["b", "c", "a"]
    untested = run_in(tmp_path / "d", [0.85])
    assert [row.name.rpartition("/")[2] for row in ranking([*runs, untested], 0.5)] == [
        "a",
        "d",
        "b",
        "c",
    ]
    assert ranking([untested], 0.5)[0].ended == "not ended"


def test_a_run_without_a_finished_epoch_is_the_last_one(tmp_path):
    rows = ranking([run_in(tmp_path / "a", []), run_in(tmp_path / "b", [0.1])], 0.05)
    assert [row.accuracy for row in rows] == [0.1, None] and rows[1].steps == rows[1].seconds == 0


def test_without_validation_the_training_accuracy_counts(tmp_path):
    run = run_in(tmp_path / "a", [0.5, 0.6], validation=False)
    assert run.curve("accuracy") == pytest.approx([0.49, 0.59])
    assert run.curve("elapsed") == [2.0, 4.0] and all(
        value != value for value in run.curve("validation_loss")
    )


def test_settings_that_forbid_a_comparison_are_named_with_their_values(tmp_path):
    runs = [
        run_in(tmp_path / name, [0.5], seed=seed, optimizer=name)
        for name, seed in (("a", 0), ("b", 1), ("c", 1))
    ]
    assert differences(runs) == {"seed": ["0", "1"]} and differences(runs[1:]) == {}


def test_what_is_no_run_folder_or_is_damaged_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing is no run folder: it has no metrics\.jsonl"):
        read_run(tmp_path / "nothing")
    run_in(tmp_path / "a", [0.5])
    (tmp_path / "a" / "config.toml").write_text("= 3")
    with pytest.raises(MinicnnError, match=r"config\.toml cannot be used"):
        read_run(tmp_path / "a")
    figures = json.dumps(dict.fromkeys(FIGURES, "many"))
    for line in ('{"epoch": 1', '{"epoch": 1}', "[1]", "[" * 100_000, figures):
        (tmp_path / "a" / "metrics.jsonl").write_text(line)
        with pytest.raises(MinicnnError, match=r"metrics\.jsonl cannot be used"):
            read_run(tmp_path / "a")
    run_in(tmp_path / "b", [0.5])
    for text in ("[]", '{"test": 3}', '{"a":' * 100_000):
        (tmp_path / "b" / "report.json").write_text(text)
        with pytest.raises(MinicnnError, match=r"report\.json cannot be used") as caught:
            read_run(tmp_path / "b")
        assert "\n" not in str(caught.value)
