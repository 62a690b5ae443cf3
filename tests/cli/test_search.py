"""`search`: trainings over settings, chosen by Optuna."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicnn import Settings
from minicnn.cli import main
from minicnn.errors import MinicnnError, SettingError, UnknownNameError
from minicnn.report.run_plots import search_outcome
from minicnn.training.search import dimension, open_study, with_values
from tests.training import small


@pytest.mark.skipif(sys.platform != "linux", reason="finds open files in /proc")
def test_a_database_file_is_not_held_open(tmp_path):
    """Python 3.13 warns of connections that it has to close itself."""
    study = open_study(f"sqlite:///{tmp_path / 'search.db'}", 0, True, True)
    study.tell(study.ask(), 0.5)
    assert [trial.value for trial in study.trials] == [0.5]
    is_open = [path.resolve().name for path in Path("/proc/self/fd").iterdir()]
    assert "search.db" not in is_open


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=log:1e-4:1e-1", ("learning_rate", (), 1e-4, 0.1, True)),
        ("lr=0.1:0.5", ("learning_rate", (), 0.1, 0.5, False)),
        ("batch-size=32,64,128", ("batch_size", (32, 64, 128), 0, 0, False)),
        ("warmup_steps=0:8", ("warmup_steps", (), 0, 8, False)),
        ("optimizer=adam,sgd", ("optimizer", ("adam", "sgd"), 0, 0, False)),
        ("momentum=0.5,0.9", ("optimizer_kwargs.momentum", (0.5, 0.9), 0, 0, False)),
        ("optimizer_kwargs.beta1=0.8:0.99", ("optimizer_kwargs.beta1", (), 0.8, 0.99, False)),
        ("augment.flip=true,false", ("augment.flip", (True, False), 0, 0, False)),
        ("augment.crop=1:4", ("augment.crop", (), 1, 4, False)),
        ("augment.rotate=0:30", ("augment.rotate", (), 0.0, 30.0, False)),
        ("normalize=true,false", ("normalize", (True, False), 0, 0, False)),
        ("ema=none,0.99", ("ema", (None, 0.99), 0, 0, False)),
        ("resize=8x8,8x6", ("resize", ("8x8", "8x6"), 0, 0, False)),
        ("model=lenet5,mlp", ("model", ("lenet5", "mlp"), 0, 0, False)),
    ],
)
def test_the_grammar(text, expected):
    found = dimension(text)
    assert (found.name, found.choices, found.low, found.high, found.log) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rate=1,2", "unknown setting to vary 'rate'"),
        ("horizons=1,2", "unknown setting to vary 'horizons'(?!.*'horizon'|.* horizon,)"),
        ("learning_rate", "vary must look like learning_rate=log:LOW:HIGH"),
        ("optimizer_kwargs=1", r"vary must look like optimizer_kwargs.KEY="),
        ("epochs.x=1,2", "vary must look like"),
        ("learning_rate=0.5:0.1", "the range must go up"),
        ("learning_rate=log:0:1", "the range must go up from above 0"),
        ("batch_size=0,4", "batch_size must be a whole number from 1 on"),
        ("batch_size=1.5:4", "batch_size: a whole number"),
        ("resize=ax8,8x8", "resize must be"),
        ("resize=8x8x8,8x8", "resize must be"),
        ("device=gpu,cpu", "device must be cpu or cuda"),
    ],
)
def test_what_cannot_be_varied_is_one_line(text, words):
    with pytest.raises((SettingError, UnknownNameError), match=words) as caught:
        dimension(text)
    assert isinstance(caught.value, MinicnnError) and "\n" not in str(caught.value)


def test_the_settings_of_a_trial():
    base = Settings(optimizer="adam", optimizer_kwargs={"beta1": 0.8}, augment={"flip": True})
    made = with_values(
        base, {"optimizer": "sgd", "optimizer_kwargs.weight_decay": 0.1, "augment.crop": 2}
    )
    assert made.optimizer_kwargs == {"weight_decay": 0.1}
    assert made.augment == {"flip": True, "crop": 2}
    same = with_values(base, {"optimizer_kwargs.beta2": 0.9, "resize": "8x6", "freeze": "a*+b"})
    assert same.optimizer_kwargs == {"beta1": 0.8, "beta2": 0.9}
    assert (same.resize, same.freeze) == ([8, 6], ["a*", "b"])
    rated = replace(base, learning_rate=0.01, class_weights=[1.0, 2.0])
    other = with_values(rated, {"optimizer": "sgd", "loss": "multi_margin"})
    assert other.learning_rate is None and other.class_weights is None
    assert with_values(replace(base, horizon=9), {"epochs": 3}).horizon is None
    with pytest.raises(SettingError, match="epochs and time_limit exclude each other"):
        with_values(replace(base, time_limit=5.0), {"epochs": 3})
    varied = with_values(rated, {"optimizer": "sgd", "learning_rate": 0.2})
    assert varied.learning_rate == 0.2 and varied.class_weights == [1.0, 2.0]


@pytest.fixture
def search(tmp_path, monkeypatch):
    """The words of a search that takes a second."""
    monkeypatch.chdir(tmp_path)
    x, y = small.arrays(60)
    np.savez("data.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    (tmp_path / "net.toml").write_text(
        'layers = [{type = "Flatten"}, {type = "Dense", units = "classes"}]'
    )
    words = ["search", "--data", "data.npz", "--model", "net.toml", "--epochs", "3"]
    return [*words, "--vary", "learning_rate=log:1e-3:0.1", "batch_size=8,16"]


def test_a_search_and_its_files(search, tmp_path, capsys):
    assert main([*search, "--trials", "7", "--output", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "the score is the validation accuracy" in lines[0] and "learning_rate" in lines[1]
    assert [line.split()[0] for line in lines[2:9]] == [str(i) for i in range(7)]
    study = open_study("sqlite:///out/search.db", 0, True, True, begins=False)
    for trial in study.trials:
        folder = tmp_path / "out" / f"trial-{trial.number}"
        assert (folder / "last.safetensors").exists()
        assert set(trial.intermediate_values) == set(range(1, trial.last_step + 1))
        assert 1e-3 <= trial.params["learning_rate"] <= 0.1
    assert {trial.params["batch_size"] for trial in study.trials} == {8, 16}
    for name in ("best.toml", "trials.csv", "search.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    capsys.readouterr()
    command = ["train", "--config", "out/best.toml", "--output", "again", "--json", "--quiet"]
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["settings"]["learning_rate"] == study.best_params["learning_rate"]


def test_it_goes_on_where_it_was(search, capsys):
    assert main([*search, "--trials", "2", "--output", "out", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    with subprocess.Popen(["true"]) as dead:  # as a trial that was killed while it wrote
        dead.wait()
    left = Path("out", "trial-1", f".last.safetensors.{dead.pid}")
    left.write_text("")
    assert main(["search", "--resume", "out", "--trials", "4", "--json"]) == 0
    assert not left.exists()
    both = json.loads(capsys.readouterr().out)
    assert [trial["trial"] for trial in both["trials"]] == [0, 1, 2, 3]
    assert both["trials"][:2] == first["trials"]
    scores = [trial["score"] for trial in both["trials"] if trial["state"] == "complete"]
    assert both["best"]["score"] == max(scores)
    assert main(["search", "--resume", "out", "--epochs", "5"]) == 2
    assert "--resume has settings: leave out epochs" in capsys.readouterr().err
    assert main(["search", "--resume", "out", "--recipe", "default"]) == 2
    assert "leave out --vary, --output, --config and --recipe" in capsys.readouterr().err
    assert main(["search", "--resume", "out", "--trials", "3"]) == 2
    assert "--trials 3 is below the 4 trials that are done" in capsys.readouterr().err
    assert main(["search", "--resume", ".", "--trials", "4"]) == 2
    assert main(search[:7]) == 2
    assert "--vary is missing" in capsys.readouterr().err


def test_a_trial_that_is_worse_ends_early(search, capsys):
    search[6] = "8"
    command = [*search[:7], "--vary", "learning_rate=1e-7,0.05", "--seed", "1", "--trials", "12"]
    assert main([*command, "--output", "out", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned and all(trial["epochs"] < 8 for trial in pruned)
    assert main([*command, "--output", "all", "--json", "--no-prune"]) == 0
    assert {trial["epochs"] for trial in json.loads(capsys.readouterr().out)["trials"]} == {8}


def test_a_trial_that_does_not_fit_says_which(search, capsys):
    command = [*search[:7], "--vary", "freeze=none,nothing*", "--trials", "8", "--output", "out"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "unknown layer to freeze 'nothing*'" in error and error.count("\n") == 1


def ranks(count, *words):
    """The command line that runs ``words`` on this many ranks."""
    launcher = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(count)]
    return [*launcher, sys.executable, "-m", "minicnn", *words]


@pytest.mark.slow
def test_ranks_share_the_trials(search, tmp_path):
    for trials in ("5", "7"):
        words = [*search, "--output", "out"] if trials == "5" else ["search", "--resume", "out"]
        command = ranks(2, *words, "--trials", trials)
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0 and result.stderr == "", result.stderr
        lines = result.stdout.splitlines()
        assert "; 2 ranks" in lines[0] and "best.toml" in lines[-2]
        first = 0 if trials == "5" else 5
        told = sorted(int(line.split()[0]) for line in lines[2:-3])
        assert told == list(range(first, int(trials)))
        study = open_study("sqlite:///out/search.db", 0, True, True, begins=False)
        assert [trial.number for trial in study.trials] == list(range(int(trials)))
        assert all(trial.state.is_finished() for trial in study.trials)
    first, second = study.trials[:2]
    assert second.datetime_start < first.datetime_complete, "one after the other"
    assert first.params != second.params
    assert {path.name for path in Path("out").glob("trial-*")} == {f"trial-{i}" for i in range(7)}


def test_what_does_not_fit_on_one_rank_ends_all_with_one_line(search):
    command = ranks(2, *search[:7], "--vary", "freeze=nothing*", "--trials", "8", "--output", "out")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "unknown layer to freeze 'nothing*'" in line


def test_a_trial_that_diverges_is_done(search, capsys):
    command = [*search[:7], "--vary", "learning_rate=1e38,0.05", "--opt", "sgd", "--trials", "6"]
    assert main([*command, "--output", "out", "--json"]) == 0
    states = {trial["state"] for trial in json.loads(capsys.readouterr().out)["trials"]}
    assert states == {"complete", "fail"}
    assert main(["search", "--resume", "out", "--trials", "7", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 7


@pytest.mark.parametrize(("count", "sent"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_an_interrupt_keeps_the_trials_that_are_done(search, tmp_path, count, sent, capsys):
    search[6] = "100000"
    command = [sys.executable, "-m", "minicnn", *search, "--output", "out"]
    if count > 1:
        command = ranks(count, *command[3:])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("out/trial-*/last.safetensors"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, sent)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + sent and "Traceback" not in error
    study = open_study("sqlite:///out/search.db", 0, True, True, begins=False)
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * count
    assert all(f"    {number}      fail" in out for number in range(count))
    config = tmp_path / "out" / "config.toml"  # a search whose trials end by themselves
    config.write_text(config.read_text("utf-8").replace("epochs = 100000", "epochs = 1"))
    assert main(["search", "--resume", "out", "--trials", "1", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["state"] for trial in trials] == ["fail"] * count + ["complete"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--vary", "optimizer=adam,nosuch"), "unknown optimizer 'nosuch'"),
        (("--vary", "init=nosuch,none"), "nosuch: no such file"),
        (("--vary", "data=data.npz,nosuch"), "unknown data set 'nosuch'"),
        (("--vary", "data_gb=1,1e-9"), "above the limit of 1e-09 GB"),
        (("--vary", "optimizer_kwargs.beta9=0:1"), "hyperparameter of optimizer adam 'beta9'"),
        (("--vary", "batch_size=8,1000"), "--batch-size 1000 is above the number of training"),
        (("--vary", "augment.crop=1,6"), "crop must be below the sides of the images"),
        (("--vary", "freeze=nosuch"), "unknown layer to freeze 'nosuch'"),
        (
            ("--vary", "lr=0.1,0.2", "--storage", "nosuch://x"),
            "storage nosuch://x cannot be opened",
        ),
        (
            ("--vary", "lr=0.1,0.2", "--storage", "sqlite:////nowhere/x.db"),
            "storage sqlite:////nowhere/x.db cannot be opened",
        ),
    ],
)
def test_what_cannot_begin_leaves_nothing(search, capsys, tmp_path, more, words):
    assert main([*search[:7], *more, "--output", "out"]) in (1, 2)
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_picture_counts_trials_from_1_and_says_what_is_logarithmic():
    points = [({"learning_rate": 10.0**-k, "loss": "mse"}, k / 10) for k in range(5)]
    drawn = search_outcome(points, True)
    turns, rates, losses = drawn.axes
    drawn.draw_without_rendering()
    assert all(tick == round(tick) for tick in turns.get_xticks())
    assert turns.get_lines()[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert turns.get_ylabel() == "validation accuracy (%)" and turns.get_ylim()[1] > 40
    assert rates.get_xlabel() == "learning_rate, logarithmic" and losses.get_xlabel() == "loss"
    # Within two powers of ten, too, no label is one of TeX, which is not interpreted.
    near = search_outcome([({"learning_rate": rate}, 0.5) for rate in (0.002, 0.03, 0.05)], True)
    near.draw_without_rendering()
    axis = near.axes[1].xaxis
    texts = [one.get_text() for minor in (False, True) for one in axis.get_ticklabels(minor=minor)]
    assert "0.005" in texts and not any("$" in text for text in texts)
