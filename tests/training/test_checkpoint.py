"""`last.safetensors`: what it holds, what is refused, and what a failing disk leaves."""

import errno
import os
from dataclasses import asdict

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from minicnn import load
from minicnn.errors import MinicnnError, ModelFileError
from minicnn.storage import read_tensors, write_tensors
from minicnn.training.checkpoint import Counters, load_checkpoint
from minicnn.training.events import CheckpointSaved, EpochDone
from tests.training import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("run")
    small.train(folder, epochs=2, optimizer="nadam", schedule="reduce_on_plateau")
    return folder


@pytest.fixture
def file(folder, tmp_path):
    """A copy of its checkpoint."""
    path = tmp_path / "last.safetensors"
    path.write_bytes((folder / "last.safetensors").read_bytes())
    return path


def test_all_that_the_next_step_depends_on_are_tensors(folder):
    tensors, metadata = read_tensors(folder / "last.safetensors", "checkpoint")
    weights = ["conv1.weight", "conv1.bias", "dense1.weight", "dense1.bias"]
    counters = asdict(Counters())
    assert tensors.keys() == {
        "slots",
        *(f"weights.{name}" for name in weights),
        *(f"best.{name}" for name in weights),
        "optimizer_state.mu_product",
        *(f"schedule_state.{name}" for name in ("best", "bad_epochs", "reached")),
        *(f"counters.{name}" for name in counters),
    }
    assert (
        tensors["counters.epoch"] == 3 and tensors["counters.optimizer_step"] == 2 * small.BATCHES
    )
    assert metadata.keys() == {"network", "settings", "data", "time", "seconds"}


def test_a_checkpoint_comes_back_as_it_was(folder):
    trainer, _ = small.train(epochs=2, optimizer="nadam", schedule="reduce_on_plateau")
    found = load_checkpoint(folder / "last.safetensors")
    assert found.network == trainer.network
    named = {"data": "small", "model": "network"}  # by what was trained on
    assert found.settings == trainer.settings.to_dict() | named
    for name in ("params", "best_params", "slots"):
        expected = getattr(trainer.progress, name)
        assert getattr(found.progress, name).dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(getattr(found.progress, name), expected)
    for name in ("optimizer_state", "schedule_state", "counters"):
        assert getattr(found.progress, name) == getattr(trainer.progress, name)
    for name, value in asdict(found.progress.counters).items():
        assert type(value) is type(getattr(Counters(), name))


def test_a_checkpoint_cut_off_is_named(file):
    content = file.read_bytes()
    lengths = sorted({*range(0, len(content), 97), *range(20), len(content) - 1})
    for length in lengths:
        file.write_bytes(content[:length])
        with pytest.raises(ModelFileError) as caught:
            load_checkpoint(file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_is_no_checkpoint_and_a_missing_one_is_named(folder, tmp_path):
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors is a model, not a minicnn checkpoint"
    ):
        load_checkpoint(folder / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"last\.safetensors: no such file"):
        load_checkpoint(tmp_path / "last.safetensors")


def rewritten(file, change_tensors=lambda tensors: None, change_metadata=lambda metadata: None):
    tensors, metadata = read_tensors(file, "checkpoint")
    change_tensors(tensors)
    change_metadata(metadata)
    write_tensors(file, "checkpoint", tensors, metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("slots"),
        lambda tensors: tensors.pop("weights.conv1.bias"),
        lambda tensors: tensors.pop("best.dense1.weight"),
        lambda tensors: tensors.pop("counters.epoch"),
        lambda tensors: tensors.update({"counters.epochs": np.array(3)}),
        lambda tensors: tensors.update({"counters.epoch": np.array([3, 4])}),
        lambda tensors: tensors.update({"weights.conv1.bias": np.zeros(4, np.float32)}),
        lambda tensors: tensors.update({"weights.conv9.bias": np.zeros(4, np.float32)}),
        lambda tensors: tensors.update({"slots": tensors["slots"].astype(np.float64)}),
        lambda tensors: tensors.update({"slots": tensors["slots"][:, 1:]}),
    ],
)
def test_tensors_that_are_missing_or_wrong_are_an_error_that_names_the_file(change, file):
    rewritten(file, change_tensors=change)
    with pytest.raises(
        ModelFileError, match=r"last\.safetensors does not hold a usable checkpoint"
    ) as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", -3),
        ("epoch", 0),
        ("epoch", 1.5),
        ("epoch", float("nan")),
        ("epoch", 10**18),
        ("best_epoch", 4),
        ("batch", -2),
        ("batch", 10**9),
        ("batch", 0.5),
        ("batch", 4),
        ("optimizer_step", -1),
        ("optimizer_step", float("nan")),
        ("best_accuracy", float("nan")),
        ("epoch_images", -(10**9)),
        ("epoch_divisor", 7.0),
        ("epoch_loss", float("nan")),
        ("watched", 3),
    ],
)
def test_counters_that_no_run_can_have_are_refused(name, value, file):
    rewritten(
        file, change_tensors=lambda tensors: tensors.update({f"counters.{name}": np.array(value)})
    )
    with pytest.raises(
        ModelFileError, match=r"last\.safetensors does not hold a usable checkpoint: its counter"
    ):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "name", ["weights.conv1.bias", "best.dense1.weight", "optimizer_state.mu_product"]
)
def test_a_checkpoint_of_no_numbers_is_refused(name, file):
    rewritten(file, change_tensors=lambda tensors: tensors.update({name: tensors[name] * np.nan}))
    with pytest.raises(
        ModelFileError, match=r"last\.safetensors does not hold a usable checkpoint"
    ):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata.update(data=3),
        lambda metadata: metadata["settings"].update(epochs={"a": 1}),
        lambda metadata: metadata.pop("network"),
        lambda metadata: metadata.pop("settings"),
        lambda metadata: metadata.pop("data"),
        lambda metadata: metadata["network"]["layers"][0].update(type="Conv9d"),
        lambda metadata: metadata["network"]["layers"].pop(),
        lambda metadata: metadata.update(network=[1]),
        lambda metadata: metadata.update(network=None),
        lambda metadata: metadata.update(settings=3),
    ],
)
def test_metadata_that_are_missing_or_wrong_are_an_error_that_names_the_file(change, file):
    rewritten(file, change_metadata=change)
    with pytest.raises(
        ModelFileError, match=r"last\.safetensors does not hold a usable checkpoint"
    ) as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_newer_version_is_refused(file):
    with safetensors.safe_open(file, framework="numpy") as opened:
        text = opened.metadata()["minicnn"]
    assert '"version": 2' in text
    newer = {"minicnn": text.replace('"version": 2', '"version": 7')}
    file.write_bytes(safetensors.numpy.save(safetensors.numpy.load_file(file), newer))
    with pytest.raises(ModelFileError, match="newer minicnn"):
        load_checkpoint(file)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_ends_the_run_and_leaves_the_last_good_files(call, tmp_path, monkeypatch):
    original, saved = getattr(os, call), {}

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_the_disk(event):
        if isinstance(event, CheckpointSaved):
            saved[event.path.name] = event.path.read_bytes()
        if isinstance(event, EpochDone) and event.epoch == 2:
            monkeypatch.setattr(os, call, full)

    with pytest.raises(MinicnnError, match=r"cannot write .*No space left on device") as caught:
        small.train(tmp_path, reporters=[lambda trainer: fill_the_disk])
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, call, original)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == saved
    assert load_checkpoint(tmp_path / "last.safetensors").progress.counters.epoch == 2
    assert load(tmp_path).training["figures"]["epoch"] == 1


def test_a_run_that_a_full_disk_ended_can_be_resumed_to_the_same_end(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    small.train(whole)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_the_disk(event):
        if isinstance(event, EpochDone) and event.epoch == 3:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(MinicnnError, match="cannot write"):
        small.train(parts, reporters=[lambda trainer: fill_the_disk])
    monkeypatch.undo()
    small.resume(parts)
    small.assert_same_run(parts, whole)
