"""Every example in the README runs, in its order, in one empty folder, as a reader would run it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def run(command, folder):
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def test_every_example_runs(tmp_path):
    python = []
    for language, text in BLOCKS:
        if language == "toml" and text.startswith("# network.toml"):
            (tmp_path / "network.toml").write_text(text)
        elif language == "console":
            for line in text.splitlines():
                assert line.startswith("$ "), line
                run(shlex.split(line[2:]), tmp_path)
        elif language == "python":
            python.append(text)
    assert len(python) >= 4
    out = run([sys.executable, "-W", "error", "-c", "\n".join(python)], tmp_path)
    accuracy = float(re.search(r"test accuracy (0\.\d+)", out)[1])
    assert accuracy > 0.8
    assert float(re.search(r"loss of the last batch: (\d\.\d+)", out)[1]) < 1.5
    counts = [int(number) for number in re.findall(r"\d+", out.splitlines()[-1])]
    assert len(counts) == 10
    assert sum(counts) == 2000


def test_the_continuous_integration_runs_these_commands():
    commands = dict(re.findall(r"<!-- (install and \w+) -->\n```sh\n(.*?)\n```\n<!-- end -->", README, re.DOTALL))
    assert commands["install and train"].endswith("-m minicnn train")
    assert commands["install and test"].endswith("-m pytest")
    script = (Path(__file__).parent.parent / ".ci" / "run").read_text()
    for mark in commands:
        assert f'"{mark}"' in script
