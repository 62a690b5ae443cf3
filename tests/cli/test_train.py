"""`train`: what it prints, what it writes, which settings it takes."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pexpect
import pytest

from minicnn import Settings, load
from tests.cli.conftest import CONVOLUTIONAL, SOFTMAX, command, process, write_npz

FILES = ["config.toml", "last.safetensors", "metrics.jsonl", "model.safetensors", "report.json"]


def listing(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def config(folder) -> dict:
    return tomllib.loads((folder / "config.toml").read_text())


def dry_settings(minicnn, *argv) -> dict:
    """The resolved settings of a run that is not made."""
    result = minicnn("train", *SOFTMAX, "--dry-run", "--json", *argv)
    assert result.status == 0, result.err
    return json.loads(result.out)["settings"]


def test_outside_of_a_terminal_there_are_plain_lines_a_table_on_stdout_and_nothing_on_stderr():
    done = process("train", *SOFTMAX, "--epochs", 2, "--output", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    for line in (
        "network   softmax, 195 parameters",
        "compiling or loading kernels: ",
        "epoch      loss",
        "    2 ",
        "stopped after epoch 2, epochs done",
        "test      loss ",
        "files     run",
        "next      minicnn evaluate",
    ):
        assert any(shown.startswith(line) for shown in done.stdout.splitlines()), line
    assert (
        "seed=0" in done.stdout
        and "learning_rate=0.001" in done.stdout
        and "optimizer=adam" in done.stdout
    )


def test_a_terminal_shows_a_bar_and_gets_its_cursor_back():
    name, *arguments = command("train", *SOFTMAX, "--epochs", 100, "-b", 4, "--output", "run")
    screen = pexpect.spawn(name, arguments, dimensions=(40, 100), encoding="utf-8", timeout=120)
    screen.expect(r"epoch 1/100 .*━.*loss .* acc .* img/s .*/.* left")
    screen.expect("stopped after epoch 100, epochs done")
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 0
    assert "\x1b[?25h" not in screen.before  # it was given back before the last lines
    assert "minicnn evaluate run/model.safetensors" in screen.before


def test_the_run_folder_holds_the_five_files(place, minicnn):
    result = minicnn("train", *SOFTMAX, "--epochs", 3, "--output", "a/b")
    assert result.status == 0, result.err
    folder = place / "a" / "b"
    assert listing(folder) == FILES
    for name in FILES:
        assert name in result.out
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    report = json.loads((folder / "report.json").read_text())
    assert (report["reason"], report["epoch"], report["test"]["images"]) == ("epochs done", 3, 30)
    empty = [name for name, value in Settings().to_dict().items() if value == {}]
    assert report["settings"] == {name: {} for name in empty} | config(folder)
    assert report["settings"]["seed"] == 0 and report["settings"]["batch_size"] == 54
    assert report["seconds"] > 0 and report["compile_seconds"] > 0
    assert report["versions"].keys() == {"python", "minicnn", "numba", "numpy"}
    assert report["machine"].keys() == {"platform", "cpu", "cores"} and all(
        report["machine"].values()
    )
    figures = load(folder).training["figures"]
    assert figures["test_accuracy"] == report["test"]["accuracy"]


def test_the_default_run_folder_is_new_even_within_a_second(place, minicnn, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20300102-030405")
    for _ in range(2):
        assert minicnn("train", *SOFTMAX, "--epochs", 1).status == 0
    assert listing(place / "runs") == ["20300102-030405", "20300102-030405-2"]


@pytest.mark.parametrize("there", ["a file in a folder", "a file"])
def test_a_run_folder_that_is_there_is_refused_and_left_alone(there, place, minicnn):
    file = place / "run" / "precious" if there == "a file in a folder" else place / "run"
    file.parent.mkdir(exist_ok=True)
    file.write_text("precious")
    result = minicnn("train", *SOFTMAX, "--output", "run")
    assert result.status == 2 and "--output run" in result.error and "--resume" in result.error
    assert file.read_text() == "precious"


def test_an_empty_run_folder_is_taken(place, minicnn):
    (place / "run").mkdir()
    assert minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run").status == 0
    assert listing(place / "run") == FILES


def test_json_is_the_report_alone_on_stdout(place, minicnn):
    result = minicnn("train", *SOFTMAX, "--epochs", 2, "--output", "run", "--json")
    assert json.loads(result.out) == json.loads((place / "run" / "report.json").read_text())
    assert "stopped after epoch 2" in result.err
    quiet = minicnn("train", *SOFTMAX, "--epochs", 2, "--output", "quiet", "--json", "--quiet")
    assert json.loads(quiet.out)["test"]["accuracy"] == json.loads(result.out)["test"]["accuracy"]
    assert quiet.err == ""


def test_quiet_leaves_how_it_ended(minicnn):
    result = minicnn("train", *SOFTMAX, "--epochs", 2, "--quiet", "--output", "run")
    assert [line.split()[0] for line in result.out.splitlines()] == ["stopped", "test", "files"]
    assert result.err == ""


def test_log_interval_gives_lines_on_stderr(minicnn):
    result = minicnn(
        "train", *SOFTMAX, "--epochs", 1, "-b", 9, "--log-interval", 2, "--output", "run"
    )
    assert [line.split("  ")[:2] for line in result.err.splitlines()] == [
        ["epoch 1/1", f"batch {n}/6"] for n in (2, 4, 6)
    ]


def test_a_dry_run_checks_everything_and_writes_nothing(place, minicnn):
    before = listing(place)
    result = minicnn("train", *SOFTMAX, "--dry-run")
    assert result.status == 0 and "nothing was written" in result.out
    assert minicnn("train", *SOFTMAX, "--dry-run", "-b", 100).status == 2
    assert listing(place) == before


EVERY_SETTING = """--data-max 300 --epochs 7 -b 20 --opt sgd --lr 0.3 --weight-decay 0.01 --loss cross_entropy
    --loss-kwargs label_smoothing=0.1 --class-weights 1 2 3 --sched step --sched-kwargs step_size=2 gamma=0.5
    --warmup-epochs 1.5 --clip-grad 2 --clip-grad-value 3 --seed 5 --threads 1 --device cpu --val-split 0.2
    --patience 4 --min-delta 0.01 --tol 0.001 --limit 50 --sched-of weight_decay --record 3 --decay weights --channels first
    --data-gb 2 --resize 8x8 --grayscale --normalize --augment flip crop=2 --ema 0.9 --sched-unit step
    --reduction fast --batch-statistics local --lr-factors bias=2 dense1.*=0.5 --decay-factors bias=0"""


def test_every_option_reaches_the_settings(minicnn):
    assert dry_settings(minicnn, *EVERY_SETTING.split()) == {
        "data": str(Path("tiny.npz").resolve()),
        "normalize": True,
        "augment": {"flip": True, "crop": 2},
        "ema": 0.9,
        "schedule_unit": "step",
        "warmup_steps": 0,
        "data_max": 300.0,
        "model": "softmax",
        "epochs": 7,
        "batch_size": 20,
        "optimizer": "sgd",
        "optimizer_kwargs": {"weight_decay": 0.01},
        "learning_rate": 0.3,
        "learning_rate_factors": {"bias": 2.0, "dense1.*": 0.5},
        "weight_decay_factors": {"bias": 0.0},
        "loss": "cross_entropy",
        "loss_kwargs": {"label_smoothing": 0.1},
        "class_weights": [1.0, 2.0, 3.0],
        "schedule": "step",
        "schedule_kwargs": {"step_size": 2.0, "gamma": 0.5},
        "horizon": None,
        "warmup_epochs": 1.5,
        "clip_grad": 2.0,
        "clip_grad_value": 3.0,
        "seed": 5,
        "threads": 1,
        "device": "cpu",
        "reduction": "fast",
        "batch_statistics": "local",
        "val_split": 0.2,
        "patience": 4,
        "min_delta": 0.01,
        "tol": 0.001,
        "limit": 50,
        "schedule_of": "weight_decay",
        "record": 3,
        "decay": "weights",
        "channels": "first",
        "data_gb": 2.0,
        "resize": [8, 8],
        "grayscale": True,
        "rgb": False,
        "freeze": None,
        "initialization": {},
        "init": None,
        "time_limit": None,
    }


def test_momentum_is_short_for_the_hyperparameter(minicnn):
    settings = dry_settings(minicnn, "--opt", "momentum", "--momentum", 0.7)
    assert settings["optimizer_kwargs"]["momentum"] == 0.7
    assert settings == dry_settings(minicnn, "--opt", "momentum", "--opt-kwargs", "momentum=0.7")


def test_flags_win_over_the_file_which_wins_over_the_defaults(place, minicnn):
    (place / "my.toml").write_text(
        'epochs = 4\nseed = 9\noptimizer = "momentum"\n[optimizer_kwargs]\nmomentum = 0.5\n'
    )
    settings = dry_settings(minicnn, "--config", "my.toml", "--epochs", 6)
    assert (settings["epochs"], settings["seed"], settings["val_split"]) == (6, 9, 0.1)
    assert settings["optimizer_kwargs"]["momentum"] == 0.5
    other = dry_settings(minicnn, "--config", "my.toml", "--opt", "sgd")
    assert other["optimizer_kwargs"].keys() == {"weight_decay"}


def test_flags_win_over_the_file_which_wins_over_the_recipe(place, minicnn):
    (place / "my.toml").write_text("epochs = 4\nlearning_rate = 0.02\n")
    plain = dry_settings(minicnn, "--recipe", "default")
    assert (plain["model"], plain["epochs"], plain["learning_rate"]) == ("softmax", 8, 0.01)
    settings = dry_settings(
        minicnn, "--recipe", "default", "--config", "my.toml", "--lr", 0.03, "--augment", "none"
    )
    assert (settings["epochs"], settings["learning_rate"], settings["augment"]) == (4, 0.03, {})
    assert (settings["optimizer"], settings["schedule"], settings["horizon"]) == (
        *("adamw", "one_cycle"),
        4,
    )
    other = dry_settings(minicnn, "--recipe", "default", "--opt", "sgd", "--loss", "multi_margin")
    assert other["learning_rate"] == 0.05 and other["optimizer_kwargs"].keys() == {"weight_decay"}
    assert "label_smoothing" not in other["loss_kwargs"]


def test_without_a_network_the_default_recipe_is_trained(minicnn):
    def settings(*argv):
        result = minicnn("train", "--data", "tiny.npz", "--dry-run", "--json", *argv)
        return json.loads(result.out)["settings"]

    assert settings() == settings("--recipe", "default")
    assert settings()["model"] == "vgg-bn"
    assert settings("--model", "vgg-bn")["optimizer"] == "adam"


def test_a_recipe_is_printed_before_it_runs(minicnn):
    argv = ("train", *SOFTMAX, "--recipe", "default", "--epochs", 1, "--dry-run")
    assert minicnn(*argv).out.startswith("# The embedded 12,000 images")
    assert "schedule" not in minicnn(*argv, "--quiet").out
    assert "mnist-10s" in minicnn("train", "--recipe", "mnist-10").error


def test_a_time_limit_takes_the_place_of_the_epochs(minicnn):
    result = minicnn("train", *SOFTMAX, "--time-limit", "0.05s", "--output", "run", "--json")
    report = json.loads(result.out)
    assert report["reason"] in ("epochs done", "time limit") and report["seconds"] < 5
    assert report["settings"]["time_limit"] == 0.05 and report["settings"]["epochs"] >= 1
    assert "--time-limit" in minicnn("train", *SOFTMAX, "--time-limit", "10 min").error
    assert "exclude" in minicnn("train", *SOFTMAX, "--time-limit", "1m", "--epochs", 3).error


def test_the_stored_settings_give_the_same_run_again(place, minicnn):
    for argv in (
        [*SOFTMAX, "--epochs", 3, "--sched", "cosine", "--opt", "lion", "--output", "first"],
        ["--config", "first/config.toml", "--output", "second"],
    ):
        assert minicnn("train", *argv).status == 0
    assert config(place / "first") == config(place / "second")
    assert np.array_equal(load("first").params, load("second").params)


def test_more_epochs_than_in_the_file_stretch_its_schedule(minicnn):
    assert (
        minicnn("train", *SOFTMAX, "--epochs", 2, "--sched", "cosine", "--output", "run").status
        == 0
    )
    assert dry_settings(minicnn, "--config", "run/config.toml")["horizon"] == 2
    assert dry_settings(minicnn, "--config", "run/config.toml", "--epochs", 5)["horizon"] == 5


def test_a_toml_file_is_a_network_whose_file_is_not_needed_later(place, minicnn):
    (place / "mine.toml").write_text(CONVOLUTIONAL)
    argv = ("train", "--data", "tiny.npz", "--model", "mine.toml", "--epochs", 1, "--output", "run")
    assert minicnn(*argv).status == 0
    (place / "mine.toml").unlink()
    assert minicnn("evaluate", "run").status == 0
    assert minicnn("train", "--resume", "run", "--epochs", 2).status == 0


def test_limit_comes_before_the_validation_split(minicnn):
    result = minicnn("train", *SOFTMAX, "--limit", 30, "--epochs", 1, "--output", "run")
    assert "images    27 for training, 3 for validation" in result.out


def test_a_set_without_a_test_split_trains_without_a_test_result(place, minicnn):
    write_npz(place / "tiny.npz", x_test=None, y_test=None)
    result = minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run", "--json")
    assert result.status == 0 and json.loads(result.out)["test"] is None
    assert "no test split" in minicnn("evaluate", "run").error


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("--tol", 1e9), "converged"), (("--patience", 2, "--min-delta", 1e9), "no improvement")],
)
def test_the_run_says_why_it_stopped_early(options, reason, minicnn):
    result = minicnn("train", *SOFTMAX, "--epochs", 50, *options, "--output", "run", "--json")
    report = json.loads(result.out)
    assert result.status == 0 and report["reason"] == reason and report["epoch"] < 50
    assert report["test"] is not None


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_a_diverged_run_is_status_1_keeps_good_weights_and_says_what_to_try(
    json_option, place, minicnn
):
    result = minicnn(
        "train",
        *SOFTMAX,
        "--opt",
        "sgd",
        "--lr",
        1e38,
        "--epochs",
        3,
        "--output",
        "run",
        *json_option,
    )
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("minicnn: error: ")
    assert "diverged" in (result.err if not json_option else json.loads(result.out)["reason"])
    assert "smaller learning rate" in result.out
    assert minicnn("evaluate", "run").status == 0
    assert json.loads((place / "run" / "report.json").read_text())["reason"] == "diverged"


def test_a_model_finds_its_data_from_any_folder(minicnn, place, monkeypatch):
    assert minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run").status == 0
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert minicnn("evaluate", "../run", "--json").status == 0
    assert minicnn("train", "--resume", "../run", "--epochs", 2).status == 0


@pytest.mark.parametrize(
    ("argv", "weights"),
    [
        (["balanced"], [1.0, 1.0, 1.0]),
        ([2, 1, 0.5], [2.0, 1.0, 0.5]),
        (["bee=3"], [1.0, 3.0, 1.0]),
    ],
)
def test_class_weights_are_resolved_printed_stored_and_resumed(argv, weights, place, minicnn):
    expected = dict(zip(("ant", "bee", "cat"), weights, strict=True))
    options = ("--class-weights", *argv, "--val-split", 0)
    result = minicnn("train", *SOFTMAX, *options, "--epochs", 1, "--output", "run")
    assert result.status == 0
    assert "  ".join(f"class_weights.{name}={w}" for name, w in expected.items()) in result.out
    report = json.loads((place / "run/report.json").read_text())
    assert report["settings"]["class_weights"] == expected
    assert config(place / "run")["class_weights"] == expected
    assert load("run").training["loss"]["class_weights"] == weights
    again = minicnn("train", "--resume", "run", "--epochs", 2)
    assert again.status == 0 and "class_weights.bee" in again.out
    whole = minicnn("train", *SOFTMAX, *options, "--epochs", 2, "--output", "whole")
    assert whole.status == 0
    assert (load("run").params == load("whole").params).all()
    changed = minicnn("train", "--config", "run/config.toml", "--loss", "mse", "--dry-run")
    assert changed.status == 0
