"""Figures of epochs in files of other tools, and functions that see every event."""

import csv
from dataclasses import asdict

import numpy as np
import pytest

from minicnn import Dense, Flatten, Network, Trainer
from minicnn.report.trackers import CsvReporter, TensorBoardReporter
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.events import BatchDone, EpochDone, RunEnded, RunStarted

X = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
Y = (X.mean(axis=(1, 2)) > 127).astype(int)


def trainer(epochs=3, **options) -> Trainer:
    return Trainer(Network((4, 4), [Flatten(), Dense(2)]), epochs=epochs, **options)


def test_callbacks_are_functions_of_every_event():
    seen, ended = [], []
    made = trainer(callbacks=[seen.append, lambda e: ended.append(isinstance(e, RunEnded))])
    history = made.fit(X, Y)
    assert isinstance(seen[0], RunStarted) and seen[-1] is history.ended
    assert [event for event in seen if isinstance(event, EpochDone)] == history.epochs
    assert any(isinstance(event, BatchDone) for event in seen)
    assert len(ended) == len(seen) and ended[-1] and sum(ended) == 1


def test_csv_has_a_line_an_epoch_and_goes_on_with_a_resumed_run(tmp_path):
    path = tmp_path / "epochs.csv"
    first = trainer(2, callbacks=[CsvReporter(path)]).fit(X, Y, output=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "last.safetensors")
    second = trainer(4, callbacks=[CsvReporter(path)]).fit(X, Y, resume=checkpoint)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row, epoch in zip(rows, [*first.epochs, *second.epochs], strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in asdict(epoch).items()}
    third = trainer(1, callbacks=[CsvReporter(path)]).fit(X, Y)
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert float(row["train_loss"]) == third.epochs[0].train_loss


def test_tensorboard_reads_the_figures_back(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    history = trainer(callbacks=[TensorBoardReporter(tmp_path)]).fit(X, Y)
    (file,) = tmp_path.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), {}
    while data:
        (length,) = np.frombuffer(data[:8], "<u8")
        record = data[12 : 12 + int(length)]
        assert int.from_bytes(data[12 + len(record) :][:4], "little") == masked_crc32c(record)
        event = Event.FromString(record)
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
        data = data[16 + len(record) :]
    for epoch in history.epochs:
        for tag, value in (
            ("loss/train", epoch.train_loss),
            ("accuracy/validation", epoch.validation_accuracy),
            ("learning_rate", epoch.learning_rate),
            ("gradient_norm", epoch.gradient_norm),
        ):
            assert found[tag, epoch.epoch] == pytest.approx(value, rel=1e-6)


def test_without_tensorboardx_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"minicnn-numba\[tensorboard\]"):
        TensorBoardReporter(tmp_path)
