"""Where and how people run it: signals, closed streams, optimized Python, odd paths, leftovers."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from minicnn import load
from tests.cli.conftest import SOFTMAX, command, process, write_npz


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_that_is_told_to_end_saves_first(number, status, place):
    argv = command("train", *SOFTMAX, "--epochs", 10**6, "--output", "run", "--quiet")
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 120
        while not (place / "run" / "last.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.01)
        running.send_signal(number)
        try:
            _, err = running.communicate(timeout=60)
        finally:
            running.kill()  # it would be waited for without end
    assert running.returncode == status and "Traceback" not in err
    assert json.loads((place / "run" / "report.json").read_text())["reason"] == "interrupted"


def test_a_training_goes_on_when_nobody_reads_what_it_prints(place):
    argv = command("train", *SOFTMAX, "--epochs", 20, "--output", "run")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0
    assert json.loads((place / "run" / "report.json").read_text())["epoch"] == 20


def test_a_closed_stdout_is_no_error():
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command("data", "list")],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_while_modules_are_imported_is_one_line():
    code = (
        "import sys, runpy\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'minicnn.cli.settings': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('minicnn', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "minicnn: interrupted\n")


def test_python_without_docstrings_has_the_same_help():
    plain, optimized = (
        subprocess.run(
            [sys.executable, *flags, "-m", "minicnn", *argv],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for flags in ([], ["-OO"])
        for argv in [["--help"]]
    )
    assert plain == optimized and "train" in plain
    done = process("data", "list", env={**os.environ, "PYTHONOPTIMIZE": "2"})
    assert done.returncode == 0 and "fashion-mnist-12k" in done.stdout


def test_compiled_code_that_is_switched_off_is_one_line():
    done = process("train", *SOFTMAX, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "NUMBA_DISABLE_JIT" in done.stderr and "unset it" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("NUMBA_NUM_THREADS", "0", "NUMBA_NUM_THREADS=0: Number of threads specified must be > 0"),
        ("NUMBA_OPT", "7", "Environment variable 'NUMBA_OPT' is defined but its associated value"),
    ],
)
def test_a_variable_that_numba_cannot_follow_is_named_and_no_cache_is_blamed(
    variable, value, words
):
    code = "import minicnn.kernels.cpu.team"
    environment = {**os.environ, variable: value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert words in last and ("MinicnnError" in last) == (done.returncode == 1)
    assert "cache of compiled code" not in done.stderr


@pytest.mark.parametrize("name", ["THREADING_LAYER", "THREADING_LAYER_PRIORITY"])
def test_the_threads_are_not_numbas(name, place):
    environment = {**os.environ, f"NUMBA_{name}": "nonsense", "NUMBA_NUM_THREADS": "2"}
    options = ["--model", "lenet5", "--dry-run", "--threads", "2"]
    assert process("train", *options, env=environment).returncode == 0


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_processes_that_would_write_the_same_files_are_refused_once(
    verb, place, minicnn, monkeypatch
):
    before = sorted(place.iterdir())
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    results = []
    for rank in "01":
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", rank)
        results.append(minicnn(verb, *SOFTMAX, "--output", "run"))
    assert [result.status for result in results] == [2, 0]
    assert "2 processes were started that would write the same files" in results[0].err
    assert results[0].err.count("\n") == 1 and results[1].err == ""
    assert sorted(place.iterdir()) == before


def test_a_tilde_and_a_byte_order_mark(place, minicnn, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    (place / "my.toml").write_text("\ufeffepochs = 1\n")
    result = minicnn("train", *SOFTMAX, "--config", "my.toml", "--output=~/run")
    assert result.status == 0 and (place / "home" / "run" / "model.safetensors").exists()


def test_a_path_in_bytes_that_are_no_utf_8(place, minicnn):
    folder = os.fsdecode(b"Fr\xfcchte.npz")
    write_npz(place / folder)
    argv = ("train", "--data", folder, "--model", "softmax", "--epochs", 2, "--output", "run")
    assert minicnn(*argv).status == 0
    assert load("run").training["settings"]["data"] == str(place.resolve() / folder)
    assert minicnn("train", "--resume", "run", "--epochs", 3).status == 0
    again = minicnn("train", "--config", "run/config.toml", "--output", "again")
    assert again.status == 0, again.err


def test_a_run_that_ended_before_its_first_checkpoint_is_started_again(place, minicnn):
    run = place / "run"
    run.mkdir()
    (run / "config.toml").write_text("epochs = 1\n")
    (run / "metrics.jsonl").write_text("")
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    left = run / f".model.safetensors.{dead.pid}"
    left.write_text("cut off")
    alive = run / f".model.safetensors.{os.getppid()}"
    alive.write_text("another's")
    assert minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run").status == 0
    assert not left.exists() and alive.exists()
    assert minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run").status == 2


def test_threads_that_were_not_asked_for_are_not_stored(place, minicnn):
    assert minicnn("train", *SOFTMAX, "--epochs", 1, "--output", "run").status == 0
    assert "threads =" not in (place / "run" / "config.toml").read_text()
    cores = {min(os.sched_getaffinity(0))}
    done = process(
        "train", "--resume", "run", "--epochs", 2, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    assert done.returncode == 0, done.stderr


def test_control_characters_in_an_error_are_escaped():
    done = process("train", "--data", "x\x1b[31m.npz")
    assert done.returncode == 1 and "\x1b" not in done.stderr and "x1b[31m.npz" in done.stderr
