import json
import os
from pathlib import Path

import numpy as np
import pytest

from minicnn.errors import MinicnnError
from minicnn.report.jsonl import JsonlReporter, json_ready
from minicnn.training.events import BatchDone, EpochDone, RunStarted


def started(first_epoch=1):
    return RunStarted("mlp", 10, 20, 0, 1, first_epoch, 5, {}, {})


def epoch(number, loss=0.5):
    return EpochDone(number, loss, 0.75, None, None, 0.001, 1.5, 2.5, number == 1, 10 * number)


def epochs_in(path):
    return [json.loads(line)["epoch"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_an_epoch_is_one_line_with_every_field(path):
    reporter = JsonlReporter(path)
    for event in (started(), BatchDone(1, 1, 0.5, 0.5, 20, 1.0, 1.0, 1.0), epoch(1), epoch(2)):
        reporter(event)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "epoch": number,
            "train_loss": 0.5,
            "train_accuracy": 0.75,
            "validation_loss": None,
            "validation_accuracy": None,
            "learning_rate": 0.001,
            "gradient_norm": 1.5,
            "seconds": 2.5,
            "best": number == 1,
            "steps": 10 * number,
        }
        for number in (1, 2)
    ]
    assert path.read_text().endswith("}\n")


def test_the_line_is_in_the_file_as_soon_as_the_epoch_is_done(path):
    reporter = JsonlReporter(path)
    reporter(started())
    assert path.read_text() == ""
    for number in (1, 2):
        reporter(epoch(number))
        assert epochs_in(path) == list(range(1, number + 1))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_null(path, loss):
    JsonlReporter(path)(epoch(1, loss))
    assert '"train_loss": null' in path.read_text()


def test_a_new_run_starts_an_empty_file(path):
    path.write_text('{"epoch": 1}\n')
    JsonlReporter(path)(started())
    assert path.read_text() == ""


def test_a_resumed_run_keeps_the_epochs_before_it_and_drops_later_and_damaged_lines(path):
    path.write_bytes(
        b'{"epoch": 1}\n\n[1]\n"\xff"\n{"epoch": 2}\n{"other": 0}\n{"epoch": 3}\n{"epo'
    )
    reporter = JsonlReporter(path)
    reporter(started(first_epoch=3))
    assert epochs_in(path) == [1, 2]
    reporter(epoch(3))
    assert epochs_in(path) == [1, 2, 3]


def test_a_resumed_run_whose_file_is_gone_starts_one(path):
    reporter = JsonlReporter(path)
    reporter(started(first_epoch=3))
    reporter(epoch(3))
    assert epochs_in(path) == [3]


def test_a_failed_write_leaves_the_last_good_file_and_nothing_else(path, monkeypatch):
    reporter = JsonlReporter(path)
    reporter(epoch(1))

    def disk_is_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(
        MinicnnError, match=r"cannot write .*metrics\.jsonl: No space left on device"
    ):
        reporter(epoch(2))
    assert epochs_in(path) == [1] and list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_one_clear_error(tmp_path):
    with pytest.raises(
        MinicnnError, match=r"cannot write .*metrics\.jsonl: No such file or directory"
    ):
        JsonlReporter(tmp_path / "missing" / "metrics.jsonl")(epoch(1))


def test_json_ready_makes_any_nesting_plain():
    value = {"run": started(), 1: (Path("a"), [float("nan"), 0.5, True, None, 3])}
    result = json_ready(value)
    assert result["run"]["network"] == "mlp"
    assert result["1"] == ["a", [None, 0.5, True, None, 3]]
    assert json_ready((np.array([[1.5, np.nan]]), np.float64("inf"), np.int64(2))) == [
        [[1.5, None]],
        None,
        2,
    ]
    json.dumps(result, allow_nan=False)
