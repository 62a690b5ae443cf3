"""The rules of the house, kept by tools: lint, format, spelling, types, directions of imports.

A tool that is missing is a failure.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minicnn

ROOT = Path(__file__).parent.parent


def run(*command):
    beside_python = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": beside_python}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "ruff", "format", "--check", "."],
        ["typos"],
        pytest.param([sys.executable, "-m", "mypy"], marks=pytest.mark.slow),
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
        ],
    ],
    ids=["lint", "format", "spelling", "types", "imports"],
)
def test_the_project_passes(command):
    result = run(*command)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("subject", "fits"),
    [
        ("cpu/pool: windows of 2×2", True),
        ("report, cli: " + 59 * "x", True),
        ("report, cli: " + 60 * "x", False),
        ("Windows of 2×2", False),
        ("Merge branch 'pool'", True),
        ("cpu/pool:windows\n\nbody: text", False),
    ],
)
def test_the_subject_of_a_commit_is_short_and_begins_with_its_area(subject, fits):
    """The expression of the hook in .pre-commit-config.yaml."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (expression,) = re.findall(r"entry: '(.*)'", hooks)
    assert (re.search(expression, subject, re.MULTILINE | re.DOTALL) is not None) == fits


@pytest.mark.slow
def test_a_type_checker_sees_every_public_name_and_no_other(tmp_path):
    """A user's file, checked strictly."""
    names = [name for name in dir(minicnn) if not name.startswith("_")]
    lines = [f"from minicnn import {name}" for name in [*names, "Conv3d"]]
    (tmp_path / "user.py").write_text("\n".join([*lines, "ReLU().shape", "Dense(units=b'')"]))
    result = run(
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
        str(tmp_path / "user.py"),
    )
    wrong = [int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line]
    assert wrong == [len(lines), len(lines) + 1, len(lines) + 2], result.stdout + result.stderr


def test_the_wheel_holds_data_licence_and_entry_points(tmp_path):
    import zipfile

    built = run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        ".",
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("minicnn_numba-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "minicnn/data/embedded/fashion-mnist-12k.npz",
        "minicnn/data/embedded/fashion-mnist-LICENSE.txt",
        "minicnn/py.typed",
        "minicnn/cli/train.py",
        "minicnn/formats/c_layers.c",
        "minicnn/cli/templates/pyproject.toml.txt",
        "minicnn/recipes/default.toml",
    ):
        assert wanted in names
    assert any(name.endswith("entry_points.txt") for name in names)
    assert not [name for name in names if name.startswith("tests")]
