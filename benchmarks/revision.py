"""Another revision of minicnn as a peer: built in a folder of its own, run in a process of its own.

The process runs `child_revision.py` with the benchmarks and the package of that revision, and does
what this one asks for, one call or a turn of calls at a time, so that the two alternate as all
contestants do. What both must have is `peers.with_minicnn` with its jobs, and the same names of
networks.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
from networks import NETWORKS
from peers.jobs import InferenceJob, Peer, TrainingJob
from rows import RowFailed

from minicnn import Network

_HERE = Path(__file__).parent


def build(revision: str, base: Path) -> tuple[str, Path]:
    """(short name, folder) of ``revision``, with `source` and, installed, `site` in it.

    The folder stays below ``base``, and with it what the revision compiled: another run finds it.
    Raises SystemExit if git does not know the revision or it cannot be installed.
    """
    commit = _output("git", "rev-parse", "--short=12", "--verify", f"{revision}^{{commit}}").strip()
    name, folder = commit.decode(), base / commit.decode()
    if not folder.exists():
        base.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=base))
        try:
            with tarfile.open(fileobj=BytesIO(_output("git", "archive", name))) as archive:
                archive.extractall(made / "source", filter="data")
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            _output(*install, "--target", str(made / "site"), str(made / "source"))
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return name, folder


def _output(*command: str) -> bytes:
    done = subprocess.run(command, cwd=_HERE.parent, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.decode().strip()}")
    return done.stdout


class _Call:
    """A call in the revision's process. It times itself: sending a message takes longer than a
    small network."""

    def __init__(self, ask: Callable[..., Any], what: tuple):
        self.ask, self.what = ask, what

    def __call__(self) -> Any:
        return self.ask("call", self.what)

    def timed(self, count: int) -> float:
        """Seconds of ``count`` calls."""
        return self.ask("time", self.what, count)


def peer(revision: str, base: Path) -> Peer:
    """The revision as a peer named after it; its process ends with this one."""
    name, folder = build(revision, base)
    connection = _start(folder)

    def ask(*request: Any) -> Any:
        connection.send(request)
        try:
            answer = connection.recv()
        except EOFError:
            raise RowFailed(f"the process of {name} ended") from None
        if isinstance(answer, str):
            raise RowFailed(f"{name}: {answer}")
        return answer

    def prepared(kind: str, network: Network, *rest: Any) -> _Call:
        what = kind, next(key for key, value in NETWORKS.items() if value is network), *rest
        ask("prepare", what)
        return _Call(ask, what)

    def training(job: TrainingJob) -> Callable[[], float]:
        return prepared("training", job.network, job.batch, job.threads)

    def inference(job: InferenceJob) -> Callable[[], np.ndarray]:
        return prepared("inference", job.network, len(job.images), job.threads)

    def in_njit_loop(job: InferenceJob) -> Callable[[], np.ndarray]:
        return prepared("inference_in_njit_loop", job.network, len(job.images), job.threads)

    return Peer(name, training, inference, in_njit_loop)


def _start(folder: Path) -> Connection:
    ours, theirs = Pipe()
    environment = os.environ | {
        "PYTHONPATH": str(folder / "site"),
        "NUMBA_CACHE_DIR": str(folder / "cache"),
    }
    command = [sys.executable, str(_HERE / "child_revision.py"), str(folder), str(theirs.fileno())]
    process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours
