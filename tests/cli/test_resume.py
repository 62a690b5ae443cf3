"""Stopping and going on, from the outside."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest

from minicnn.training.checkpoint import load_checkpoint
from tests.cli.conftest import CONVOLUTIONAL, SOFTMAX, command

RUN = (
    "train",
    "--data",
    "tiny.npz",
    "--model",
    "net.toml",
    "-b",
    8,
    "--opt",
    "nadam",
    "--threads",
    2,
)


@pytest.fixture(autouse=True)
def network(place):
    (place / "net.toml").write_text(CONVOLUTIONAL)


def assert_same_run(first, second):
    """Weights, best weights, slots and counters of two run folders are bitwise the same."""
    a, b = (load_checkpoint(folder / "last.safetensors").progress for folder in (first, second))
    for name in ("params", "best_params", "slots"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert (a.optimizer_state, a.schedule_state, a.counters) == (
        b.optimizer_state,
        b.schedule_state,
        b.counters,
    )


def wait_for_epochs(folder, count: int, running: subprocess.Popen) -> None:
    until = time.monotonic() + 240
    while (
        not (folder / "metrics.jsonl").exists()
        or len((folder / "metrics.jsonl").read_text().splitlines()) < count
    ):
        assert running.poll() is None and time.monotonic() < until, running.communicate()
        time.sleep(0.01)


def test_ctrl_c_saves_exits_130_and_the_resumed_run_is_bitwise_the_uninterrupted_one(
    place, minicnn
):
    stopped = place / "stopped"
    with subprocess.Popen(
        command(*RUN, "--epochs", 100_000, "--output", "stopped"),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        wait_for_epochs(stopped, 3, running)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "interrupted" in out and "next      minicnn train --resume stopped" in out
    assert "Ctrl-C again stops at once" in err and "Traceback" not in err
    assert json.loads((stopped / "report.json").read_text())["reason"] == "interrupted"

    epochs = load_checkpoint(stopped / "last.safetensors").progress.counters.epoch + 2
    assert minicnn("train", "--resume", "stopped", "--epochs", epochs).status == 0
    assert minicnn(*RUN, "--epochs", epochs, "--output", "whole").status == 0
    assert_same_run(stopped, place / "whole")
    metrics = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (stopped, place / "whole")
    ]
    assert [line["epoch"] for line in metrics[0]] == list(range(1, epochs + 1))
    for name in ("train_loss", "validation_loss", "validation_accuracy", "best"):
        assert [line[name] for line in metrics[0]] == [line[name] for line in metrics[1]]


def test_a_second_ctrl_c_stops_at_once(place):
    """The kernels are held up, so that no batch ends between the two."""
    code = "; ".join(
        (
            "import os, signal, time, minicnn.cli, minicnn.training.run as run",
            "run.Run.compile = lambda _: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2), "
            "os.kill(os.getpid(), signal.SIGINT), time.sleep(60), 0.0)[-1]",
            f"raise SystemExit(minicnn.cli.main({['train', *SOFTMAX, '--output', 'run']}))",
        )
    )
    start = time.monotonic()
    done = subprocess.run(
        [command()[0], "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert time.monotonic() - start < 50
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "minicnn: interrupted" and "Traceback" not in done.stderr


def test_going_on_to_a_larger_total_is_bitwise_the_longer_run(place, minicnn):
    assert minicnn(*RUN, "--epochs", 2, "--output", "part").status == 0
    resumed = minicnn("train", "--resume", "part", "--epochs", 4)
    assert resumed.status == 0 and "resumed   at epoch 3 of 4" in resumed.out
    assert minicnn(*RUN, "--epochs", 4, "--output", "whole").status == 0
    assert_same_run(place / "part", place / "whole")
    assert "epochs = 4" in (place / "part" / "config.toml").read_text()


def test_a_schedule_with_a_horizon_keeps_it_when_the_total_grows(place, minicnn):
    assert minicnn(*RUN, "--epochs", 2, "--sched", "cosine", "--output", "run").status == 0
    assert minicnn("train", "--resume", "run", "--epochs", 3).status == 0
    assert load_checkpoint(place / "run" / "last.safetensors").settings["horizon"] == 2


def test_settings_that_do_not_make_it_another_run_may_change(place, minicnn):
    assert minicnn(*RUN, "--epochs", 1, "--output", "run").status == 0
    (place / "tiny.npz").rename(place / "moved.npz")
    options = (
        "--data",
        "moved.npz",
        "--epochs",
        3,
        "--lr",
        0.01,
        "--patience",
        5,
        "--threads",
        1,
        "--opt",
        "nadam",
    )
    assert minicnn("train", "--resume", "run", *options).status == 0
    stored = load_checkpoint(place / "run" / "last.safetensors").settings
    assert (stored["learning_rate"], stored["patience"], stored["threads"], stored["epochs"]) == (
        0.01,
        5,
        1,
        3,
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model", "softmax"),
        ("--batch-size", 4),
        ("--opt", "sgd"),
        ("--seed", 1),
        ("--val-split", 0.2),
        ("--limit", 50),
        ("--data-max", 300),
    ],
)
def test_what_would_make_it_another_run_is_refused(option, value, minicnn):
    assert minicnn(*RUN, "--epochs", 1, "--output", "run").status == 0
    result = minicnn("train", "--resume", "run", option, value)
    assert result.status == 2 and option in result.error


@pytest.mark.parametrize(
    ("option", "value"), [("--config", "run/config.toml"), ("--output", "other"), ("--epochs", 1)]
)
def test_what_contradicts_a_resumed_run_is_refused(option, value, minicnn):
    assert minicnn(*RUN, "--epochs", 2, "--output", "run").status == 0
    result = minicnn("train", "--resume", "run", option, value)
    assert result.status == 2 and option in result.error


def test_other_data_are_not_what_the_run_was_trained_on(minicnn):
    assert minicnn(*RUN, "--epochs", 1, "--output", "run").status == 0
    result = minicnn("train", "--resume", "run", "--data", "fashion-mnist-12k", "--epochs", 2)
    assert result.status == 1 and "fashion-mnist-12k" in result.error


def test_a_folder_without_a_checkpoint_cannot_be_resumed(minicnn):
    result = minicnn("train", "--resume", "nowhere")
    assert result.status == 1 and "nowhere/last.safetensors" in result.error


def test_a_dry_run_of_a_resumed_run_changes_nothing(place, minicnn):
    assert minicnn(*RUN, "--epochs", 1, "--output", "run").status == 0
    before = {path.name: path.read_bytes() for path in (place / "run").iterdir()}
    assert minicnn("train", "--resume", "run", "--dry-run").status == 0
    assert {path.name: path.read_bytes() for path in (place / "run").iterdir()} == before
