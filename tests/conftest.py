"""What every test shares: where compiled code is kept, how many threads there are, how the files
are shared out to several workers, and how to install a distribution.

The first two are set in the environment before Numba is imported, and subprocesses inherit them.
"""

import hashlib
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _digest_of_kernels() -> str:
    """Of all that is compiled for the CPU: edited kernels are never tested from the cache."""
    digest = hashlib.sha256()
    for path in sorted(
        path for part in ("program", "kernels") for path in (ROOT / "minicnn" / part).rglob("*.py")
    ):
        if path.parent.name != "cuda":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".pytest_cache" / f"numba-{_digest_of_kernels()}")
# Tests of two threads must run, and mean the same, on a machine with one core.
os.environ["NUMBA_NUM_THREADS"] = "2"
# In the background of a shell SIGINT is ignored, and under nohup SIGHUP: what a test starts would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Files with the longest tests, from seconds of computing without a cache: what runs long begins
# first, or one worker is left with it at the end. The first compiles for GPUs alone and the second
# compiles most of what the CPU has, so two workers seldom compile the same.
LONGEST = (
    "tests/cuda/test_machine_code.py",  # 105
    "tests/cli/test_devices.py",  # 63
    "tests/test_readme.py",
    "tests/testing/test_conformance.py",
    "tests/kernels/test_passes.py",  # 60
    "tests/test_lowest_versions.py",
)


def pytest_collection_modifyitems(items):
    """The files with the longest tests come first."""
    place = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``-n 2``, a worker gets whole files, in their order: what the tests of a file share is
    made once."""
    from xdist.scheduler import LoadFileScheduling

    # It would leave the files with few but long tests to the end.
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution that offers entry points, each standing for one module with the given
    source."""
    from minicnn import plugins

    monkeypatch.delenv("MINICNN_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def install(distribution, entry_points, source, version="1.2.3", metadata=""):
        module = distribution.replace("-", "_")
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        folder = tmp_path / f"{module}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{metadata}"
        )
        lines = "".join(f"{name} = {module}\n" for name in entry_points)
        (folder / "entry_points.txt").write_text(f"[minicnn]\n{lines}")
        return module

    install.folder = tmp_path
    yield install
    plugins.use_files([])
    for module in modules:
        sys.modules.pop(module, None)
