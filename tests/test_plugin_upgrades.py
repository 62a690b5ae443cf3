"""An installed plugin compiles once, and every change of what its machine code depends on takes
effect at once."""

import json
import os
import shutil
import subprocess
import sys

import pytest

MODULE = """
from mine_factors import FACTOR
from minicnn import Hyperparameter, OptimizerRule, hookimpl

def update(p, g, learning_rate):
    return p - FACTOR * learning_rate * g

def prepare(step, state, learning_rate):
    return (learning_rate,)

@hookimpl
def minicnn_optimizers():
    return [OptimizerRule("mine", update, prepare, (Hyperparameter("learning_rate", 1.0),))]
"""
RUN = """
import importlib.metadata, json, os
import numba, numpy as np

numba.__version__ = os.environ.get("NUMBA_PRETENDS", numba.__version__)
version = importlib.metadata.version
pretended = os.environ.get("MINICNN_PRETENDS")
importlib.metadata.version = lambda name: pretended if pretended and name == "minicnn-numba" else version(name)

import minicnn
from minicnn.kernels.cpu.rules import compile_update

optimizer, params = minicnn.Optimizer("mine", 2), np.zeros(2, np.float32)
optimizer.update(params, np.ones(2, np.float32))
print(json.dumps([float(params[0]), compile_update(optimizer.rule, np.float32).cfunc.cache_hits]))
"""


@pytest.fixture
def installed(tmp_path):
    """Install a version of the plugin, as pip does: the files of every wheel may bear the same
    time."""

    def install(version, factor, module=MODULE):
        for old in tmp_path.glob("*.dist-info"):
            shutil.rmtree(old)
        folder = tmp_path / f"minicnn_mine-{version}.dist-info"
        folder.mkdir()
        for name, text in {
            "mine.py": module,
            "mine_factors.py": f"FACTOR = {factor}\n",
            f"{folder.name}/METADATA": f"Metadata-Version: 2.1\nName: minicnn-mine\nVersion: {version}\n",
            f"{folder.name}/entry_points.txt": "[minicnn]\noptimizer.mine = mine\n",
        }.items():
            (tmp_path / name).write_text(text)
            os.utime(tmp_path / name, (315532800, 315532800))  # 1980, as in a reproducible wheel

    install("1.0", 2.0)
    install.folder = tmp_path
    return install


def start(installed, **environment):
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed.folder),
        "NUMBA_CACHE_DIR": str(installed.folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-c", RUN], env=environment, stdout=subprocess.PIPE, text=True
    )


def answer(process):
    output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def test_the_second_process_takes_the_rule_from_the_disk(installed):
    assert [answer(start(installed)) for _ in range(2)] == [[-2.0, 0], [-2.0, 1]]


def test_another_version_of_the_package_takes_effect_at_once(installed):
    assert answer(start(installed)) == [-2.0, 0]
    installed("2.0", 4.0)  # in another file than the rule's, of the same size and time
    assert answer(start(installed)) == [-4.0, 0]
    installed("2.1", 4.0, MODULE.replace("p - FACTOR", "p + FACTOR"))
    assert answer(start(installed)) == [4.0, 0]
    installed("1.0", 2.0)
    assert answer(start(installed)) == [-2.0, 1]  # what is still on the disk is still right


@pytest.mark.parametrize(
    "which", ["MINICNN_PRETENDS", pytest.param("NUMBA_PRETENDS", marks=pytest.mark.slow)]
)
def test_another_version_of_numba_or_minicnn_compiles_anew(installed, which):
    assert answer(start(installed)) == [-2.0, 0]
    assert answer(start(installed, **{which: "99.0"})) == [-2.0, 0]
    assert answer(start(installed)) == [-2.0, 1]


def test_first_runs_at_once_do_not_harm_each_other(installed):
    for process in [start(installed) for _ in range(3)]:
        assert answer(process)[0] == -2.0
    assert answer(start(installed)) == [-2.0, 1]
