"""The disk cache of compiled code: stale, damaged, full, or not there at all."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import minicnn

PACKAGE = Path(minicnn.__file__).parent
LOSS = """
import numpy as np
from minicnn import Loss
print(Loss("mse", 2)(np.array([[3.0, 0.0]], np.float32), np.array([1]))[0])
"""


def run(folder, code=LOSS, begin=""):
    return subprocess.run(
        [sys.executable, "-c", begin + code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_edit_in_a_file_that_a_function_calls_is_seen(tmp_path, cache):
    """`loss_of` has no plan among its arguments; what it calls stands in another file."""
    shutil.copytree(PACKAGE, tmp_path / "minicnn", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "minicnn" / "kernels" / "cpu" / "call.py"
    first = run(tmp_path)
    assert float(first.stdout) == 5.0, first.stderr
    source = path.read_text()
    old = "return _call(builder, ir.DoubleType(), address, [passed[0], outputs, *passed[1:]])"
    assert source.count(old) == 1
    doubled = "return builder.fmul(ir.DoubleType()(2), " + old.removeprefix("return ") + ")"
    path.write_text(source.replace(old, doubled))
    assert float(run(tmp_path).stdout) == 10.0


def test_a_damaged_cache_is_made_anew_after_one_warning(tmp_path, cache):
    assert run(tmp_path).stderr == ""
    files = [*cache.rglob("*.nbi")]
    assert len(files) > 1
    for file in files:
        file.write_bytes(b"garbage")
    second = run(tmp_path)
    assert second.returncode == 0 and second.stdout == "5.0\n"
    assert second.stderr.count("RuntimeWarning") == 1 and "NUMBA_CACHE_DIR" in second.stderr
    assert run(tmp_path).stderr == ""


def test_a_damaged_cache_that_cannot_be_made_anew_is_done_without(tmp_path, cache):
    run(tmp_path)
    for file in cache.rglob("*.nbi"):
        file.write_bytes(b"garbage")
    begin = (
        "from numba.core import caching\n"
        "def refused(*_): raise OSError(30, 'Read-only file system')\n"
        "caching.IndexDataCacheFile._save_index = refused\n"
    )
    result = run(tmp_path, begin=begin)
    assert result.returncode == 0 and result.stdout == "5.0\n", result.stderr
    assert result.stderr.count("RuntimeWarning") == 1


@pytest.mark.parametrize(
    "begin",
    [
        "from numba.core import caching\ncaching.CacheImpl._locator_classes = []\n",
        "from numba.core import caching\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "caching.IndexDataCacheFile._save_data = full\n",
    ],
    ids=["no folder can be written", "the disk is full"],
)
def test_without_a_cache_everything_works_after_one_warning(tmp_path, cache, begin):
    result = run(tmp_path, begin=begin)
    assert result.returncode == 0 and result.stdout == "5.0\n", result.stderr
    assert result.stderr.count("RuntimeWarning") == 1 and "NUMBA_CACHE_DIR" in result.stderr


def test_code_that_is_not_compiled_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    result = run(tmp_path, "import minicnn.backends.cpu")
    assert result.stderr.splitlines()[-1].endswith("compiled code: unset it")
