"""Which devices there are, what is missing, and the self-test."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minicnn import backends
from minicnn.errors import DeviceError
from minicnn.testing import selftest
from minicnn.testing.checks import CheckFailed

ROOT = Path(__file__).resolve().parents[2]

INSTALL = r"pip install 'minicnn-numba\[cuda\]'"


def test_devices_lists_the_cpu_and_says_what_cuda_lacks(minicnn):
    shown = minicnn("devices", "--json")
    cpu, cuda = json.loads(shown.out)["devices"]
    assert shown.status == 0 and cpu["usable"] and cpu["threads"] >= 1 and cpu["missing"] is None
    assert cuda["device"] == "cuda" and cuda["usable"] == (cuda["missing"] is None)
    text = minicnn("devices").out
    assert "cpu" in text and (cuda["missing"] or "gpu") in text


@pytest.mark.parametrize(
    "verb", [("train",), ("evaluate", "nowhere"), ("predict", "nowhere", "x.npy"), ("selftest",)]
)
def test_a_device_that_is_missing_is_one_line_and_nothing_is_written(
    verb, place, minicnn, monkeypatch
):
    monkeypatch.setattr(backends, "missing", lambda device: "the GPU is missing: put one in")
    before = sorted(place.iterdir())
    result = minicnn(*verb, "--device", "cuda")
    assert result.status == 1 and result.out == ""
    assert "device cuda cannot be used: the GPU is missing: put one in" in result.error
    assert result.error.count("\n") == 1 and sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    "verb", [("train",), ("evaluate", "nowhere"), ("predict", "nowhere", "x.npy"), ("selftest",)]
)
def test_an_unknown_device_is_status_2(verb, minicnn):
    result = minicnn(*verb, "--device", "tpu")
    assert result.status == 2 and "device must be cpu or cuda, not 'tpu'" in result.error


def missing_where(
    monkeypatch, package=True, toolkit=None, driver=None, gpus=True, capability=(9, 0)
):
    """What is missing on a machine of which this is known."""

    class Cuda:
        class config:
            ENABLE_CUDASIM = 0

        is_available = staticmethod(lambda: driver is None and gpus)
        get_current_device = staticmethod(
            lambda: type("Card", (), {"compute_capability": capability})
        )

    class Driver:
        class driver:
            initialization_error = driver or (None if gpus else "CUDA_ERROR_NO_DEVICE (100)")

    def imported(name):
        if toolkit:
            raise RuntimeError(toolkit)
        return Cuda if name == "numba.cuda" else Driver

    monkeypatch.setattr(backends.importlib, "import_module", imported)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: package or None)
    return backends.missing("cuda")


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ({"package": False}, f"^the package numba-cuda is missing: {INSTALL}$"),
        (
            {"toolkit": "no\ntoolkit"},
            rf"^the CUDA packages are incomplete \(no toolkit\): {INSTALL}$",
        ),
        (
            {"driver": "CUDA driver library cannot be found."},
            "^the NVIDIA driver is missing: install the GPU's driver",
        ),
        (
            {"driver": "unknown error (999)"},
            r"^the NVIDIA driver does not start \(unknown error \(999\)\): install",
        ),
        ({"gpus": False}, "^there is a driver but no NVIDIA GPU"),
        ({"capability": (6, 1)}, r"^the GPU has compute capability 6\.1, and 7\.5"),
    ],
)
def test_each_of_package_driver_and_card_is_named_when_it_is_missing(machine, reason, monkeypatch):
    found = missing_where(monkeypatch, **machine)
    monkeypatch.undo()
    assert found is not None and re.search(reason, found) and "\n" not in found


def test_nothing_is_missing_with_a_card_a_driver_and_the_packages(monkeypatch):
    found = missing_where(monkeypatch)
    monkeypatch.undo()
    assert found is None
    monkeypatch.setattr(backends, "missing", lambda device: "no luck")
    with pytest.raises(DeviceError, match="cannot be used: no luck"):
        backends.backend("cuda")


def test_the_selftest_of_the_cpu_passes_and_writes_its_report(place, minicnn):
    result = minicnn("selftest", "--images", "20", "--model", "softmax", "--json")
    report = json.loads((place / "minicnn-selftest-cpu.json").read_text())
    assert result.status == 0 and json.loads(result.out) == report
    names = {check["name"]: check["result"] for check in report["checks"]}
    assert report["failed"] == 0 and report["passed"] >= 20 and len(names) == len(report["checks"])
    assert (
        names["optimizer: adam"] == names["loss: mse"] == names["training of softmax"] == "passed"
    )
    assert names["times"] == "passed" and report["environment"]["minicnn-numba"]


def test_a_kernel_that_is_wrong_fails_the_selftest(place, minicnn, monkeypatch):
    def wrong(*arguments):
        raise CheckFailed("gradient: relative error 1e-1")

    monkeypatch.setattr(selftest, "loss_equals", wrong)
    result = minicnn("selftest", "--images", "0", "--output", "report.json")
    report = json.loads((place / "report.json").read_text())
    assert result.status == 1 and report["failed"] >= 6
    assert [
        check["detail"] for check in report["checks"] if check["name"] == "training of lenet5"
    ] == ["not checked: no training was asked for"]


def test_too_few_images_are_refused(minicnn):
    result = minicnn("selftest", "--images", "5")
    assert (
        result.status == 2
        and "--images must be 0, or 20 at least, two of each class, not 5" in result.error
    )


IN_SMALL = """\
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[1])
from tests.cuda import simulator
import numpy as np
from minicnn.cli import main
from minicnn.data import Split
from minicnn.kernels.cuda import call
from minicnn.network.layers import Dense, Flatten
from minicnn.testing import selftest

selftest.NETWORKS["long sums"] = (1, 2, 1), [Flatten(), Dense(3), Dense(260), Dense(2)]
whole = selftest.load_dataset("fashion-mnist-12k")
small = [Split(np.ascontiguousarray(split.images[:, ::7, ::7]), split.labels) for split in (whole.train, whole.test)]
selftest.load_dataset = lambda name: replace(whole, train=small[0], test=small[1])
status = main(["selftest", "--device", "cuda", "--images", "20", "--model", "softmax"])
from tests.cuda.machine_code import kernels
launched = {kernel for kernel, _ in call._ready}
print("not launched:", [name for name, (kernel, _) in kernels().items() if kernel not in launched])
sys.exit(status)
"""


@pytest.mark.slow
def test_the_selftest_of_cuda_runs_every_kernel_to_the_end_in_the_simulator(tmp_path):
    """All that a GPU would do, in the same code; but images of 4 × 4, and few of them, since the
    simulator is slow."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-c", IN_SMALL, str(ROOT)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "not launched: ['adan', 'focal', 'averaged']" in done.stdout
    )  # rules of the example plugins
    report = json.loads((tmp_path / "minicnn-selftest-cuda.json").read_text())
    assert report["environment"]["gpu"] == "Numba's simulator"
    results = {check["name"]: check["result"] for check in report["checks"]}
    assert set(results.values()) == {"passed"}
    assert (
        len(results) == len(selftest.NETWORKS) + 13 + 6 + 16 + 5 + 3
    )  # activations, losses, optimizers, steps, training


@pytest.mark.gpu
def test_the_selftest_passes_on_a_gpu(place, minicnn):
    assert minicnn("selftest", "--device", "cuda").status == 0
