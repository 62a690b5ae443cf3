"""The example plugins as their users get them: wheels, in a fresh environment, from the command
line."""

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
PLUGINS = {
    "minicnn-adan": "--opt adan",
    "minicnn-muon": "--opt muon --sched cosine",
    "minicnn-sam": "--opt sam",
    "minicnn-focal-loss": "--loss focal --loss-kwargs gamma=1.5",
    "minicnn-snake": "--model sources/minicnn-snake/wave.toml",
    "minicnn-schedule-free": "--opt schedule-free --warmup-epochs 0.5",
}


def test_every_example_plugin_is_tested_here():
    assert set(PLUGINS) == {
        folder.name
        for folder in (ROOT / "plugins").iterdir()
        if (folder / "pyproject.toml").is_file()
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A function that runs a command of a fresh environment, which holds the wheels of minicnn and
    of the plugins."""
    folder = tmp_path_factory.mktemp("example-plugins")
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / "bin"
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "MINICNN_PLUGINS")
    }
    variables["NUMBA_CACHE_DIR"] = str(folder / "cache")

    def run(program, *arguments, status=0):
        command = [bin_folder / program, *map(str, arguments)]
        result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        assert result.returncode == status, result.stdout + result.stderr
        return result.stderr if status else result.stdout

    # Copies: a build leaves files behind, and takes in those that it finds.
    sources = [
        *(ROOT / "plugins" / name for name in PLUGINS),
        ROOT / "tests" / "fixtures" / "minicnn-broken",
    ]
    ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    copies = [
        Path(shutil.copytree(source, folder / "sources" / source.name, ignore=ignore))
        for source in sources
    ]
    minicnn = folder / "sources" / "minicnn"
    shutil.copytree(ROOT / "minicnn", minicnn / "minicnn", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, minicnn)
    run("pip", "install", "--quiet", "setuptools>=77", "pytest>=8.2")
    run(
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "wheels",
        minicnn,
        *copies,
    )
    wheels = sorted((folder / "wheels").glob("*.whl"))
    (own,) = (wheel for wheel in wheels if wheel.name.startswith("minicnn_numba-"))
    run("pip", "install", "--quiet", own)
    run("pip", "install", "--quiet", "--no-deps", *(wheel for wheel in wheels if wheel != own))
    run("pip", "check")
    return run


def test_all_are_listed_with_their_distributions(environment):
    rows = json.loads(environment("minicnn", "plugins", "list", "--json"))["plugins"]
    found = {row["distribution"]: row for row in rows if row["distribution"] != "minicnn-numba"}
    assert set(found) == {*PLUGINS, "minicnn-broken"}
    assert "broken on purpose" in json.dumps(found.pop("minicnn-broken"))
    assert {row["state"] for row in found.values()} == {"ok"}
    assert {row["name"] for row in found.values()} == {
        "adan",
        "muon",
        "sam",
        "focal",
        "schedule_free",
        "snake",
    }


@pytest.mark.parametrize("name", PLUGINS)
def test_it_trains_from_the_command_line(environment, name):
    options = (
        f"--model lenet5 --limit 500 --epochs 1 --json --quiet --output runs/{name} {PLUGINS[name]}"
    )
    report = json.loads(environment("minicnn", "train", *options.split()))
    assert report["reason"] == "epochs done"
    again = json.loads(environment("minicnn", "evaluate", f"runs/{name}", "--json"))
    assert again["accuracy"] == report["test"]["accuracy"]
    longer = json.loads(
        environment(
            "minicnn", "train", "--resume", f"runs/{name}", "--epochs", 2, "--json", "--quiet"
        )
    )
    assert longer["test"]["accuracy"] > 0.15  # guessing gives 0.1


@pytest.mark.parametrize("name", PLUGINS)
def test_its_own_tests_pass_as_installed(environment, name):
    tests = f"sources/{name}/tests"
    printed = environment(
        "python", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tests
    )
    assert " passed" in printed or "100%" in printed


def test_the_broken_one_is_named_when_it_is_asked_for(environment):
    message = environment("minicnn", "train", "--opt", "broken", "--dry-run", status=1)
    assert "minicnn-broken 0.1.0" in message and "broken on purpose" in message
    assert "Traceback" not in message
