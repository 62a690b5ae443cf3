"""Metadata of the wrong type: whatever stands where in the files of a run, it is used or refused in
a line."""

import json
import shutil

import numpy as np
import pytest

from minicnn import load
from minicnn.cli.run_folder import final_report
from minicnn.errors import MinicnnError
from minicnn.evaluation.metrics import Evaluation
from minicnn.insight.compare import ranking, read_run
from minicnn.report.html import run_page
from minicnn.report.jsonl import JsonlReporter, write_json
from minicnn.report.terminal import show_health
from minicnn.storage import read_tensors, write_atomically, write_tensors
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.events import RunEnded, RunStarted
from minicnn.training.record import LINES_FILE, load_record
from tests.training import small

BAD = (None, -1, float("nan"), "x", [], {}, [1], {"a": 1}, True, 10**400)
LOSS = {
    "name": "cross_entropy",
    "hyperparameters": {"label_smoothing": 0.0},
    "class_weights": [1.0] * small.CLASSES,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with all its files."""
    folder = tmp_path_factory.mktemp("run")
    trainer, events = small.train(
        folder, reporters=[lambda _: JsonlReporter(folder / "metrics.jsonl")], epochs=2, record=0
    )
    started, ended = (small.of_kind(events, kind)[0] for kind in (RunStarted, RunEnded))
    (folder / "config.toml").write_text(trainer.settings.to_toml())
    warning = {"epoch": 1, "kind": "dead units", "text": "a word"}
    report = final_report(ended, trainer.network, started.settings) | {"warnings": [warning]}
    write_json(folder / "report.json", report)
    return folder


def mutations(value, depth=0):
    """``value`` with something else in one place, or with a name more or less."""
    yield from BAD
    if isinstance(value, dict):
        for name, inside in value.items():
            yield {other: value[other] for other in value if other != name}
            if depth < 3:
                yield from ({**value, name: bad} for bad in mutations(inside, depth + 1))
        yield value | {"strange": 1}
    elif isinstance(value, list) and value and depth < 3:
        yield from ([bad, *value[1:]] for bad in mutations(value[0], depth + 1))


def refused(use) -> bool:
    said = ""
    try:
        use()
    except MinicnnError as error:
        said = str(error)
    assert "\n" not in said
    return bool(said)


def use_model(folder):
    model = load(folder)
    if model.training.get("loss", LOSS) != LOSS:  # to look for a loss takes its time
        model.trained_loss()


def use_curves(folder):
    run = read_run(folder)
    ranking([run, run], 0.5)
    test = Evaluation(1, 0.5, 1.0, [1.0], [1.0], [[1]], ["a"], 1.0, 0.0)
    run_page("a run", small.network(), test, run, [])


def use_record(folder):
    show_health(load_record(folder))


@pytest.mark.parametrize(
    ("file", "kind", "use"),
    [
        ("model", "model", use_model),
        ("last", "checkpoint", lambda folder: load_checkpoint(folder / "last.safetensors")),
    ],
)
def test_metadata_of_any_type_are_used_or_refused(run, tmp_path, monkeypatch, file, kind, use):
    path = tmp_path / f"{file}.safetensors"
    monkeypatch.setattr("minicnn.storage.write_atomically", lambda path, x: path.write_bytes(x))
    tensors, metadata = read_tensors(run / path.name, kind)
    counts = [0, 0]
    for mutation in mutations(metadata):
        if isinstance(mutation, dict):
            write_tensors(path, kind, tensors, mutation)
            counts[refused(lambda: use(tmp_path))] += 1
    assert min(counts) > 50
    for name, tensor in tensors.items():
        write_tensors(path, kind, {**tensors, name: np.zeros(7)}, metadata)
        assert refused(lambda: use(tmp_path))
        if tensor.dtype.kind == "f" and tensor.size and kind == "model":
            write_tensors(path, kind, {**tensors, name: tensor * np.float32(np.nan)}, metadata)
            assert refused(lambda: use(tmp_path))


@pytest.mark.parametrize(
    ("file", "use"),
    [("metrics.jsonl", use_curves), ("report.json", use_curves), (LINES_FILE, use_record)],
)
def test_figures_of_any_type_are_used_or_refused(run, tmp_path, capsys, file, use):
    folder = shutil.copytree(run, tmp_path / "run")
    first, *others = (run / file).read_text().splitlines()
    if file == "report.json":
        first, others = (run / file).read_text(), []
    counts = [0, 0]
    for mutation in mutations(json.loads(first)):
        text = "\n".join([json.dumps(mutation), *others]) + "\n"
        (folder / file).write_text(text)
        counts[refused(lambda: use(folder))] += 1
    assert min(counts) > 20


def test_a_line_of_the_metrics_that_is_none_is_dropped_when_a_run_goes_on(run, tmp_path):
    path, line = tmp_path / "metrics.jsonl", (run / "metrics.jsonl").read_text().splitlines()[0]
    started = RunStarted("network", 1, 1, 1, 1, 2, 3, {}, {})
    for mutation in mutations({"epoch": 1}):
        write_atomically(path, f"{json.dumps(mutation)}\n{line}\n".encode())
        JsonlReporter(path)(started)
        assert path.read_text().endswith(f"{line}\n")
