"""The lowest versions that `pyproject.toml` claims, installed in an environment of their own."""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OTHERWISE = {"cuda", "test", "torch"}  # pinned, for who works on minicnn, and gigabytes

USE = """
import numpy as np
import minicnn
from minicnn.report.trackers import TensorBoardReporter
from minicnn.sklearn import MiniCNNClassifier

images, labels = minicnn.load_dataset("fashion-mnist-12k").test.images[:50], np.arange(50) % 10
model, again = minicnn.load("run"), minicnn.load("again.safetensors")
assert np.allclose(again.logits(images), model.logits(images), atol=1e-4)
assert MiniCNNClassifier(max_iter=1).fit(images, labels).predict(images).shape == (50,)
minicnn.Trainer(model, epochs=1).fit(images, labels, reporters=[TensorBoardReporter("figures")])
"""


def lowest():
    """Each requirement at the version from which it is claimed on."""
    extras = PROJECT["optional-dependencies"]
    wanted = [one for name in extras.keys() - OTHERWISE for one in extras[name]]
    wanted += PROJECT["dependencies"]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", one) for one in wanted), wanted
    return [one.replace(">=", "==") for one in wanted]


@pytest.mark.skipif(
    not PROJECT["requires-python"].endswith(f"3.{sys.version_info[1]}"),
    reason="the lowest versions are those of the lowest Python",
)
@pytest.mark.slow
def test_the_lowest_versions_that_are_claimed_work_together(tmp_path):
    """Takes half a minute of computing, and 200 MB of packages from the index."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run(*command):
        done = subprocess.run(
            [python, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    run("pip", "install", "--quiet", "--only-binary", ":all:", *lowest())
    # What it was built from here has the same metadata as what is tested.
    run("pip", "wheel", "--quiet", "--no-deps", str(ROOT))
    run("pip", "install", "--quiet", "--no-deps", str(next(tmp_path.glob("minicnn_numba-*.whl"))))
    small = ["--model", "lenet5", "--limit", "300", "--epochs", "1"]
    run("minicnn", "train", *small, "--output", "run")
    run("minicnn", "evaluate", "run", "--report", "--output", "pictures")
    run("minicnn", "search", *small, "--vary", "seed=0,1", "--trials", "2", "--output", "search")
    run("minicnn", "export", "run", "net.onnx")
    run("minicnn", "import", "net.onnx", "-o", "again.safetensors")
    (tmp_path / "use.py").write_text(USE)
    run("use")
