"""The command line as a whole: help, usage errors, unexpected errors, closed pipes."""

import os
import subprocess

import pytest

import minicnn
from minicnn.cli import VERBS, main, train
from tests.cli.conftest import command, process, python


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_and_version_import_nothing_that_is_slow(argv):
    modules = python(f"""
import sys
from minicnn.cli import main
try:
    main({argv})
except SystemExit as stop:
    assert stop.code == 0
print("modules", *sys.modules)
""")
    shown, _, modules = modules.partition("modules ")
    assert shown.startswith("minicnn" if argv == ["--version"] else "usage: minicnn")
    loaded = set(modules.split())
    assert "argparse" in loaded
    assert not loaded & {
        "numpy",
        "numba",
        "rich",
        "pluggy",
        "safetensors",
        "pooch",
        "PIL",
        "minicnn.optimizers.adam",
    }


def test_version_prints_the_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"minicnn {minicnn.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_each_of_its_options(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert "--traceback" in shown and VERBS[verb] in " ".join(shown.split())


OPTIONS_OF_TRAIN = """--data --data-max --model --epochs --batch-size --opt --opt-kwargs --lr --momentum
    --weight-decay --loss --loss-kwargs --sched --sched-kwargs --warmup-epochs --clip-grad
    --clip-grad-value --seed --threads --device --val-split --patience --min-delta --tol
    --output --resume --config --limit --log-interval --dry-run --quiet --json --traceback
    --sched-of --plugin --strict-plugins"""


def test_train_has_every_option_of_the_contract(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert set(OPTIONS_OF_TRAIN.split()) <= set(capsys.readouterr().out.replace(",", "").split())


def test_the_process_exits_with_the_status_and_one_line():
    done = process("train", "--lr", "0")
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "minicnn: error: --lr must be a finite number above 0, not '0' (see minicnn train --help)\n",
    )


WRONG = [
    "trian",
    "train --no-such",
    "train --epoch 3",
    "train --epochs many",
    "evaluate",
    "predict model",
    "data",
    "data lst",
]


@pytest.mark.parametrize("argv", WRONG)
def test_wrong_usage_is_one_line_and_status_2(argv, minicnn):
    result = minicnn(*argv.split())
    assert result.status == 2 and "--help" in result.error and result.out == ""


def test_without_a_verb_there_is_the_help_and_status_2(minicnn):
    result = minicnn()
    assert (result.status, result.out) == (2, "") and result.err.startswith("usage: minicnn")


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        ("trian", "'train'"),
        ("train --optimizer sgd", "--opt?"),
        ("train --batch 3", "--batch-size?"),
        ("train --learning-rate=0.1", "--lr?"),
        ("data list --jsno", "--json?"),
        ("summary lenet5", "--model lenet5?"),
        ("gradcheck net.toml", "--model net.toml?"),
    ],
)
def test_what_was_meant_is_guessed(argv, meant, minicnn):
    result = minicnn(*argv.split())
    assert result.status == 2 and f"did you mean {meant}" in result.error


@pytest.mark.parametrize("argv", ["devices --foo", "data show x --count", "compare --horizon"])
def test_nothing_is_guessed_that_the_verb_does_not_have_or_that_is_far_away(argv, minicnn):
    result = minicnn(*argv.split())
    assert result.status == 2 and "unrecognized arguments: --" in result.error


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(minicnn, monkeypatch):
    def fail(arguments):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(train, "run", fail)
    result = minicnn("train")
    assert result.status == 1
    assert result.error == "minicnn: error: RuntimeError: two lines (--traceback shows where)\n"


def test_traceback_shows_where_an_error_comes_from(minicnn):
    result = minicnn("train", "--data", "nowhere.npz", "--traceback")
    assert result.status == 1
    assert result.err.startswith("Traceback") and "catalog.py" in result.err
    assert result.err.splitlines()[-1] == "minicnn: error: nowhere.npz: no such file or folder"


def test_ctrl_c_before_anything_was_done_is_status_130(minicnn, monkeypatch):
    def stop(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", stop)
    result = minicnn("train")
    assert (result.status, result.err) == (130, "minicnn: interrupted\n")


def test_a_reader_that_has_seen_enough_causes_no_message():
    with subprocess.Popen(
        command("data", "info", "fashion-mnist-12k", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1


def test_a_full_disk_below_stdout_is_an_error():
    with open("/dev/full", "w") as full:
        argv = command("data", "list", "--json")
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("minicnn: error: OSError") and done.stderr.count("\n") == 1


def test_what_cannot_be_encoded_is_written_as_an_escape(place):
    (place / "tiny.npz").rename(place / "tiny-é.npz")
    done = process("data", "info", "tiny-é.npz", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and r"tiny-\xe9.npz" in done.stdout
