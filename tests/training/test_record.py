"""The record of a run: the way of its weights and the health of its tensors and layers, at no
change to the run."""

import json
import shutil

import numpy as np
import pytest

from minicnn import Conv2d, Dense, Flatten, LeakyReLU, MaxPool2d, Network, ReLU, Trainer
from minicnn.errors import DivergedError, MinicnnError, ModelFileError, SettingError
from minicnn.training.checkpoint import Counters
from minicnn.training.events import BatchDone, CheckpointSaved, EpochDone, Recorded
from minicnn.training.record import RANK, Recorder, load_record
from tests.networks import oracle_steps, oracle_tensors, random_params
from tests.reference import network as oracle
from tests.training import small


def record_run(folder=None, **options):
    """(record, [weights at each line], lines) of a run of the small network."""
    weights, lines = [], []

    def reporter(trainer):
        def report(event):
            if isinstance(event, Recorded):
                lines.append(event)
                weights.append(trainer.progress.params.astype(np.float64))

        return report

    trainer, events = small.train(folder, reporters=[reporter], **options)
    return trainer.record, np.array(weights), lines, events


def test_a_recorded_run_is_bitwise_the_same_run(tmp_path):
    for name, options in (("plain", {}), ("epochs", {"record": 0}), ("batches", {"record": 3})):
        (tmp_path / name).mkdir()
        small.train(tmp_path / name, **options)
        small.assert_same_run(tmp_path / name, tmp_path / "plain")
    assert not (tmp_path / "plain" / "record.safetensors").exists()


def test_there_is_a_line_at_the_start_and_after_every_epoch():
    record, _, lines, events = record_run(record=0)
    assert [(line.epoch, line.step) for line in lines] == [(0, 0), (1, 4), (2, 8), (3, 12), (4, 16)]
    assert record.lines == lines and lines[0].gradient_norm == lines[0].update_ratio == {}
    kinds = [type(event) for event in events if isinstance(event, Recorded | EpochDone)]
    assert kinds == [
        Recorded,
        *[Recorded, EpochDone] * 4,
    ]  # so that whoever judges an epoch knows its line


def test_there_is_a_line_every_so_many_batches_and_at_the_end_of_each_epoch():
    _, _, lines, _ = record_run(record=3, epochs=2)
    assert [line.step for line in lines] == [0, 3, 4, 6, 8]
    _, _, lines, _ = record_run(record=100, epochs=2)
    assert [line.step for line in lines] == [0, 4, 8]


@pytest.mark.parametrize("every", [0, 3])
def test_a_short_way_is_kept_to_rounding(every):
    record, weights, _, _ = record_run(record=every, epochs=3)
    assert len(weights) - 1 <= RANK
    np.testing.assert_allclose(record.first + record.path @ record.basis, weights, atol=1e-6)
    np.testing.assert_allclose(record.basis @ record.basis.T, np.eye(len(record.basis)), atol=1e-5)


def test_of_a_long_way_the_principal_directions_are_those_of_all_its_points():
    record, weights, _, _ = record_run(record=1, epochs=12)
    assert len(weights) == 1 + 12 * small.BATCHES and len(record.basis) == RANK
    differences = weights - weights[-1]
    _, singular, rows = np.linalg.svd(differences, full_matrices=False)
    directions, coordinates, shares = record.principal_directions()
    for k in range(2):
        assert abs(directions[k] @ rows[k]) > 0.99
    np.testing.assert_allclose(shares, singular[:2] ** 2 / (singular**2).sum(), rtol=0.01)
    np.testing.assert_allclose(
        coordinates, differences @ directions.T, atol=0.02 * singular[0] / len(weights) ** 0.5
    )
    np.testing.assert_allclose(coordinates[-1], 0)


def test_a_way_of_two_points_has_no_plane():
    record, _, _, _ = record_run(record=0, epochs=1)
    with pytest.raises(
        MinicnnError, match="the record has 2 points, too few for 2 principal directions"
    ):
        record.principal_directions()


def test_with_plain_gradient_descent_a_step_is_the_learning_rate_times_the_gradient():
    """Recorded after every step, so that every figure can be had from the weights alone."""
    _, weights, lines, _ = record_run(record=1, optimizer="sgd", learning_rate=0.25, epochs=2)
    views = [small.network().unflatten(flat) for flat in weights]
    for before, after, line in zip(views, views[1:], lines[1:], strict=False):
        for name, norm in line.weight_norm.items():
            change = np.linalg.norm(after[name] - before[name])
            assert norm == pytest.approx(np.linalg.norm(after[name]))
            assert line.gradient_norm[name] == pytest.approx(change / 0.25, rel=1e-4)
            assert line.update_ratio[name] == pytest.approx(change / norm, rel=1e-4)


def test_the_line_of_an_epoch_has_means_over_its_steps():
    every, of_epoch = (record_run(record=n, epochs=1)[2] for n in (1, 0))
    for name, norm in of_epoch[-1].gradient_norm.items():
        assert norm == pytest.approx(np.mean([line.gradient_norm[name] for line in every[1:]]))


LAYERS = [
    Conv2d(5, 3, padding="same"),
    ReLU(),
    MaxPool2d(2),
    Conv2d(4, 2),
    LeakyReLU(0.1),
    Flatten(),
    Dense(7),
    ReLU(),
    Dense(3),
]


def recorder_of(network, params, images):
    counters = Counters()
    return next(
        Recorder(network, params, images, np.arange(len(images)), 1 / 255, 1000, 1000).begin(
            None, counters
        )
    )


def test_activations_are_those_of_the_oracle():
    network, rng = Network((8, 6, 2), LAYERS), np.random.default_rng(0)
    params = random_params(network, rng, np.float32)
    images = rng.integers(0, 256, (16, 8 * 6 * 2), dtype=np.uint8)
    line = recorder_of(network, params, images)
    x = (images / 255).reshape(16, 8, 6, 2)
    outputs = oracle.forward(
        oracle_steps(network), x, oracle_tensors(network, params.astype(np.float64))
    )[1:]
    by_name = dict(zip(network.layer_names, outputs, strict=True))
    assert set(line.activation_mean) == {*network.layer_names} - {
        "flatten1",
        "relu1",
    }  # the pooling does relu1
    for name, mean in line.activation_mean.items():
        assert mean == pytest.approx(by_name[name].mean(), rel=1e-4, abs=1e-6)
        assert line.activation_std[name] == pytest.approx(by_name[name].std(), rel=1e-4)
    channels = {
        name: by_name[name].reshape(-1, by_name[name].shape[-1]) for name in ("relu1", "relu2")
    }
    assert line.dead == {name: np.mean((y == 0).all(axis=0)) for name, y in channels.items()}


def test_a_channel_that_is_zero_on_every_image_is_dead():
    network, rng = Network((8, 6, 2), LAYERS), np.random.default_rng(0)
    params = random_params(network, rng, np.float32)
    weights = network.unflatten(params)
    weights["conv1.bias"][:] = [100, -100, 100, -100, 100]
    weights["dense1.bias"][:] = -100
    line = recorder_of(network, params, rng.integers(0, 256, (16, 8 * 6 * 2), dtype=np.uint8))
    assert line.dead == {"relu1": 0.4, "relu2": 1.0}


def interrupt_after(step):
    def reporter(trainer):
        def report(event):
            if (
                isinstance(event, BatchDone)
                and (event.epoch - 1) * small.BATCHES + event.batch == step
            ):
                trainer.interrupt()

        return report

    return reporter


@pytest.mark.parametrize("stop", [4, 6, 7])
def test_a_resumed_run_goes_on_with_its_record(stop, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    small.train(whole, record=2)
    small.train(parts, record=2, reporters=[interrupt_after(stop)])
    assert [line.step for line in load_record(parts).lines] == [*range(0, stop + 1, 2)]
    small.resume(parts)
    found, expected = load_record(parts), load_record(whole)
    assert [line.step for line in found.lines] == [*range(0, 17, 2)]
    for ours, theirs in zip(found.lines, expected.lines, strict=True):
        assert (ours.weight_norm, ours.dead, ours.epoch) == (
            theirs.weight_norm,
            theirs.dead,
            theirs.epoch,
        )
    np.testing.assert_allclose(found.path @ found.basis, expected.path @ expected.basis, atol=1e-3)


def test_lines_after_the_checkpoint_are_made_again(tmp_path):
    """The record of a run that was killed after the record, but before the checkpoint, was
    written."""
    small.train(tmp_path, record=0, epochs=2)
    checkpoint = (tmp_path / "last.safetensors").read_bytes()
    small.resume(tmp_path, epochs=3)
    (tmp_path / "last.safetensors").write_bytes(checkpoint)
    small.resume(tmp_path, epochs=3)
    assert [line.epoch for line in load_record(tmp_path).lines] == [0, 1, 2, 3]


def test_a_record_may_begin_in_the_middle(tmp_path):
    small.train(tmp_path, epochs=2)
    trainer, _ = small.resume(tmp_path, epochs=4, record=0)
    assert [line.epoch for line in trainer.record.lines] == [2, 3, 4]


def test_the_record_of_a_run_that_diverged_is_kept(tmp_path):
    with pytest.raises(DivergedError):
        small.train(tmp_path, record=1, optimizer="sgd", learning_rate=1e30)
    record = load_record(tmp_path)
    assert record.lines and np.isfinite(record.path).all()
    for line in (tmp_path / "record.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_files_come_back_as_they_were_and_a_kill_between_them_loses_one_line(tmp_path):
    record, _, _, _ = record_run(tmp_path, record=0)
    loaded = load_record(tmp_path)
    assert loaded.lines == record.lines
    for field in ("first", "basis", "path"):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(record, field))
    lines = tmp_path / "record.jsonl"
    lines.write_text("".join(line + "\n" for line in lines.read_text().splitlines()[:-1]))
    assert (
        len(load_record(tmp_path).lines) == len(load_record(tmp_path).path) == len(record.path) - 1
    )


def test_a_record_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(
        ModelFileError,
        match=r"record\.safetensors: no such file; `minicnn train --record` writes one",
    ):
        load_record(tmp_path)
    small.train(tmp_path, record=0)
    wrong = json.dumps(
        json.loads((tmp_path / "record.jsonl").read_text().splitlines()[0]) | {"dead": 3}
    )
    for text, message in (
        ("{", "usable record"),
        ('{"epoch": 1}\n', "usable record"),
        ("[" * 100_000, "usable record"),
        (wrong, "its dead is 3"),
        (None, "cannot be read"),
    ):
        (tmp_path / "record.jsonl").unlink()
        if text is not None:
            (tmp_path / "record.jsonl").write_text(text)
        with pytest.raises(ModelFileError, match=message):
            load_record(tmp_path)
    with pytest.raises(SettingError, match="there is no record"):
        _ = Trainer(small.network()).record


def test_a_record_has_no_holes_after_a_kill_at_any_checkpoint(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    killed = []

    def kill(trainer):
        def report(event):
            if isinstance(event, CheckpointSaved) and event.path.name == "last.safetensors":
                killed.append(shutil.copytree(run, tmp_path / f"killed{len(killed)}"))

        return report

    small.train(run, record=1, reporters=[kill])
    steps = [line.step for line in load_record(run).lines]
    assert steps == list(range(4 * small.BATCHES + 1)) and len(killed) == 4
    for folder in killed:
        small.resume(folder)
        assert [line.step for line in load_record(folder).lines] == steps
