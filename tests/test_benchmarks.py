"""How the benchmarks take the time: in turns that are long enough to mean something, beside another
revision too."""

import json
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
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
def benchmarks(monkeypatch):
    """The folder is where modules are found; those that a test imports are gone after it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
            del sys.modules[name]


@pytest.fixture
def revision(benchmarks, monkeypatch, tmp_path):
    import revision

    for name, source in REVISION.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    shutil.copy(BENCHMARKS / "timing.py", tmp_path / "source" / "benchmarks")
    monkeypatch.setattr(revision, "build", lambda name, base: ("0123abc", tmp_path))
    return revision


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


def test_the_tables_of_two_vector_widths_stand_side_by_side(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report
    from rows import Row
    from timing import Spread

    def row(name, ratio):
        found = Row("training", name, 2, best_peer="torch", over_floor=Spread(1.5, 1.0, 2.0))
        found.faster_than["torch"] = Spread(ratio, 1.0, 9.0)
        return found

    for width, rows in ((64, [row("a", 4.0), row("b", 2.0)]), (32, [row("a", 3.0)])):
        about = {
            "machine": {"processor": "P", "cores": 2, "vector_bytes": width},
            "versions": {"numba": "1"},
            "settings": {"repetitions": 7},
        }
        report.write(tmp_path / f"{width}.json", about, rows, {})
    lines = report.markdown([tmp_path / "64.json", tmp_path / "32.json"]).splitlines()
    assert lines[0].startswith("P, 2 cores; numba 1. Median of the ratios of 7 repetitions")
    heading, cells = lines[2].split("|"), [line.split("|") for line in lines[4:6]]
    assert [part.strip() for part in heading[3:-1]] == [
        "AVX-512: times faster than the best peer",
        "AVX-512: times the floor",
        "AVX2: times faster than the best peer",
        "AVX2: times the floor",
    ]
    assert {len(row) for row in [heading, *cells]} == {8}
    assert cells[0][3].strip() == "4.00 (1.00–9.00) torch" and "3.00" in cells[0][5]
    assert cells[1][5].strip() == cells[1][6].strip() == ""  # not measured there
    for name in ("report", "rows", "timing", "targets"):
        sys.modules.pop(name, None)


# --- rows that are run ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "title",
    [
        pytest.param("kernel: conv 3×3 32→64, forward, 1 thread", marks=pytest.mark.slow),
        "inference: LeNet-5, batch 64, 2 threads",
    ],
)
def test_a_row_is_measured_from_its_check_to_its_file(title, tmp_path):
    """Not how fast: that it still runs, with whatever peers there are, or none."""
    file = tmp_path / "results.json"
    options = ["--quick", "--repetitions", "1", "--threads", "1,2", "--only", title]
    command = [sys.executable, BENCHMARKS / "compare.py", *options, "--output", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    (row,) = found["rows"]
    assert found["failures"] == {} and f"{row['group']}: {row['name']}" in title
    ratio = row["share"] or row["over_floor"]
    assert 0 < ratio["low"] <= ratio["median"]
    done = subprocess.run([*command[:2], "--markdown", file], capture_output=True, text=True)
    assert done.returncode == 0 and row["name"] in done.stdout


def test_every_target_is_that_of_a_row(benchmarks):
    import environment  # noqa: F401  # first of all, as in compare.py
    import kernels
    import passes
    import processes
    from targets import TARGETS

    rows = [*passes.tasks([1, 2]), *kernels.tasks(), *processes.tasks(2)]
    assert set(TARGETS) <= {row.title for row in rows}


def test_a_peer_of_a_lower_precision_may_round_and_is_never_the_best(benchmarks):
    import passes
    from peers.jobs import Peer
    from rows import Context, Row, RowFailed

    none = Peer("exact", None, None), Peer("low", None, None, rounding=0.05)
    context = Context(None, list(none), None)
    one = np.ones(3)
    passes._check(context, {"minicnn": one, "low": one * 1.04}, "losses", 1e-3)
    for name, error in (("low", 1.06), ("exact", 1.04)):
        with pytest.raises(RowFailed, match=f"losses of minicnn and {name} differ"):
            passes._check(context, {"minicnn": one, name: one * error}, "losses", 1e-3)
    row = Row("inference", "x", 1, {"low": None, "exact": None})
    row.microseconds = {"minicnn": 1.0, "low": 2.0, "exact": 3.0}
    assert passes._best(context, row) == "exact"


STRONG = {"optimizer_kwargs": {"momentum": 0.85, "weight_decay": 1.0}}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01, "optimizer_kwargs": {"weight_decay": 1.0}}


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "changes"), [("cifar10-15min", STRONG), ("resnet8-cifar10", ADAMW)]
)
def test_a_recipe_takes_the_same_steps_in_pytorch(benchmarks, name, changes):
    """With its groups of tensors, label smoothing, augmentation, and an average of the weights."""
    pytest.importorskip("torch")
    import accuracy
    import torch
    from peers.torch_recipe import TorchRecipe

    import minicnn
    from minicnn.data.dataset import build_dataset

    x = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    dataset = build_dataset("noise", (x, np.arange(24) % 10), (x[:4], np.arange(4)))
    few = {"batch_size": 8, "epochs": 1, "threads": 1, "ema": 0.5}
    settings = replace(minicnn.recipe(name), **few, **changes)
    ours, theirs = (accuracy.run_of(settings, dataset) for _ in range(2))
    assert list(ours.events())
    twin = TorchRecipe(theirs, torch.contiguous_format)
    for images, labels, rate in accuracy.batches_of(theirs, 1):
        twin.step(twin.tensors(images), torch.from_numpy(labels), rate)
    inference = accuracy.Inference(ours.network, ours.progress.last, 1)
    expected = inference.logits(x, ours.inputs.scale)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(twin.logits(x, ours.inputs.scale), expected, rtol=1e-3, atol=1e-3)


def test_the_model_of_ranks(monkeypatch):
    """Columns and rows of the tables, and what must hold of any network and its figures."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import scaling

    of = scaling.Measured(fixed=1e-3, image=1e-4, numbers=100_000, normalizations=2)
    seconds = [scaling.step_seconds(of, ranks, 64, (30e-6, 1e9), "ordered") for ranks in (1, 2, 8)]
    assert seconds[0] == pytest.approx(1e-3 + 64 * 1e-4)
    # two messages, all the numbers once, and five meetings for the statistics and the losses
    assert seconds[1] - seconds[0] == pytest.approx((2 + 5) * 30e-6 + 4e5 / 1e9)
    assert seconds[2] - seconds[0] == pytest.approx((14 + 15) * 30e-6 + 7 / 8 * 8e5 / 1e9)
    lines = [line for line in scaling.tables({"one": of, "two": of}) if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6}
    assert len(lines) == 4 * (2 + len(scaling.RANKS) + 1)
    del sys.modules["scaling"]


def test_a_copy_that_is_held_to_avx2_asks_no_more_for_longer_vectors(tmp_path):
    """Of what asks, `xgetbv`, alone: the same bytes as data stay."""
    asks, as_data = b"\x31\xc9\x0f\x01\xd0\xf7\xd0\xa8\x06", b"\x83\xe0\x0f\x01\xd0\x41\xf6"
    library = tmp_path / "installed" / "ncnn" / "ncnn.abi.so"
    library.parent.mkdir(parents=True)
    (library.parent / "__init__.py").touch()
    library.write_bytes(as_data + asks)
    linked = tmp_path / "installed" / "ncnn.libs" / "libgomp.so"
    linked.parent.mkdir()
    linked.write_bytes(asks)
    command = [sys.executable, BENCHMARKS / "hold_to_avx2.py", tmp_path / "held"]
    environment = {"PYTHONPATH": str(tmp_path / "installed")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "ncnn: 1 places" in run.stdout
    held = (tmp_path / "held" / "ncnn" / "ncnn.abi.so").read_bytes()
    assert held == as_data + asks.replace(b"\x0f\x01\xd0", b"\x6a\x07\x58")
    assert library.read_bytes() == as_data + asks  # what is installed stays
    assert (tmp_path / "held" / "ncnn.libs" / "libgomp.so").read_bytes() == asks
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1 and "not there yet" in again.stderr
