"""How the benchmarks take the time: in turns that are long enough to mean something, beside another
revision too."""

import shutil
import sys
import textwrap
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import timing

    yield timing
    del sys.modules["timing"]


def test_a_turn_has_as_many_calls_as_fill_it(timing):
    calls = []

    def call():
        calls.append(time.sleep(0.001))

    effort = timing.Effort(repetitions=2, turn=0.03)
    seconds = timing.measure([timing.Contestant("sleeper", call)], effort)["sleeper"]
    assert seconds.shape == (2,) and (seconds >= 0.001).all()
    assert (
        len(calls) > 2 * 5
    )  # two turns of 30, and calls that are not counted; a busy machine sleeps longer


def test_a_call_that_takes_longer_than_a_turn_is_made_once_a_turn_besides_what_is_not_counted(
    timing,
):
    calls = []
    timing.measure(
        [timing.Contestant("slow", lambda: calls.append(time.sleep(0.02)))], timing.Effort(3, 0.001)
    )
    assert len(calls) == 1 + 3 * 2


# A revision as small as can be: two networks, of which one fails, and calls that count.
REVISION = {
    "site/minicnn/__init__.py": "",
    "source/benchmarks/environment.py": "",
    "source/benchmarks/networks.py": """
        class Network:
            input_shape = (1, 1, 1)
        NETWORKS = {"LeNet-5": Network(), "colour": None}
        initial_weights = dict.get.__get__({})
        images_for = lambda shape: ([7, 8, 9], [0, 1, 2])
    """,
    "source/benchmarks/peers/__init__.py": "",
    "source/benchmarks/peers/jobs.py": """
        from dataclasses import dataclass
        from typing import Any
        @dataclass
        class TrainingJob:
            network: Any; params: Any; images: Any; labels: Any; batch: int; threads: int
        @dataclass
        class InferenceJob:
            network: Any; params: Any; images: Any; threads: int
    """,
    "source/benchmarks/peers/with_minicnn.py": """
        def training(job):
            count = iter(range(100))
            return lambda: (job.batch, job.threads, next(count))
        def inference(job):
            return lambda: job.images
    """,
}


@pytest.fixture
def revision(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    before = set(sys.modules)
    import revision

    for name, source in REVISION.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    shutil.copy(BENCHMARKS / "timing.py", tmp_path / "source" / "benchmarks")
    monkeypatch.setattr(revision, "build", lambda name, base: ("0123abc", tmp_path))
    yield revision
    for name in set(sys.modules) - before:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
            del sys.modules[name]


def test_a_revision_computes_and_times_in_a_process_of_its_own(revision, tmp_path):
    peer = revision.peer("main", tmp_path)
    assert peer.name == "0123abc"
    network = revision.NETWORKS["LeNet-5"]
    step = peer.training(revision.TrainingJob(network, None, None, None, 16, 2))
    assert [step(), step()] == [(16, 2, 0), (16, 2, 1)]
    assert 0 < step.timed(5) < 1
    assert step() == (16, 2, 7)
    call = peer.inference(revision.InferenceJob(network, None, [1, 2], 1))
    assert call() == [7, 8]  # as many of its own images as the job has


def test_what_a_revision_cannot_do_is_a_row_that_failed(revision, tmp_path):
    peer = revision.peer("main", tmp_path)
    for name, says in (("colour", "NoneType"), ("vgg-small", "KeyError")):
        job = revision.InferenceJob(revision.NETWORKS[name], None, [1], 1)
        with pytest.raises(revision.RowFailed, match=f"0123abc: .*{says}"):
            peer.inference(job)
