"""`train --record`: its files, and the warnings in the epoch table and in the report."""

import json

import pytest

from minicnn.training.record import load_record
from tests.cli.conftest import SOFTMAX


@pytest.mark.parametrize(
    ("option", "steps"), [(("--record",), [0, 6, 12]), (("--record", 4), [0, 4, 6, 8, 12])]
)
def test_a_recorded_run_has_a_line_an_epoch_or_every_so_many_batches(option, steps, place, minicnn):
    result = minicnn("train", *SOFTMAX, "--epochs", 2, "-b", 9, *option, "--output", "run")
    assert result.status == 0 and result.err == ""
    assert (
        "record.safetensors  the trajectory of the weights" in result.out
        and "record.jsonl" in result.out
    )
    assert any(
        line.split()[:1] == ["dense1.weight"] for line in result.out.splitlines()
    )  # the sparklines at the end
    lines = [json.loads(line) for line in (place / "run" / "record.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == steps
    assert load_record(place / "run").path.shape == (len(steps), len(steps) - 1)


def test_a_run_without_record_has_no_such_files(place, minicnn):
    assert minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run").status == 0
    assert not [file.name for file in (place / "run").iterdir() if "record" in file.name]


def test_a_resumed_run_is_still_recorded_and_the_configuration_says_so(place, minicnn):
    for options in (
        ("--epochs", 2, "--record", "--output", "run"),
        ("--resume", "run", "--epochs", 3),
    ):
        assert minicnn("train", *(() if "--resume" in options else SOFTMAX), *options).status == 0
    assert [line.epoch for line in load_record(place / "run").lines] == [0, 1, 2, 3]
    assert "record = 0" in (place / "run" / "config.toml").read_text()


@pytest.mark.parametrize("every", ["-1", "1.5", "often"])
def test_a_wrong_number_of_batches_is_named(every, minicnn):
    result = minicnn("train", *SOFTMAX, f"--record={every}")
    assert (
        result.status == 2
        and f"--record must be a whole number from 0 on, not '{every}'" in result.error
    )


def test_warnings_stand_below_their_epoch_and_in_the_report(place, minicnn):
    result = minicnn("train", *SOFTMAX, "--lr", 30, "--epochs", 2, "--record", "--output", "run")
    assert result.status == 0
    lines = result.out.splitlines()
    at = next(
        i for i, line in enumerate(lines) if line.startswith("    ! learning rate too large: ")
    )
    assert lines[at - 1].split()[0] == "1" and "a step changes dense1.weight by" in lines[at]
    (warning,) = json.loads((place / "run" / "report.json").read_text())["warnings"]
    assert (warning["epoch"], warning["kind"]) == (1, "learning rate too large")
    assert lines[at] == f"    ! {warning['text']}"


def test_the_warnings_are_in_the_report_that_json_prints(minicnn):
    options = ("--lr", 30, "--epochs", 2, "--record", "--output", "run", "--json", "--quiet")
    result = minicnn("train", *SOFTMAX, *options)
    assert (
        result.err == ""
        and json.loads(result.out)["warnings"][0]["kind"] == "learning rate too large"
    )


def test_the_page_of_a_recorded_run_shows_its_health(place, minicnn):
    assert (
        minicnn("train", *SOFTMAX, "--epochs", 3, "--record", "--report", "--output", "run").status
        == 0
    )
    assert (place / "run" / "health.png").exists()
    page = (place / "run" / "report.html").read_text()
    assert ("Health" in page and "update / weight" in page) or "gradient norms" in page
