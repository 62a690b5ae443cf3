"""A run that was stopped and resumed ends bitwise where the run ends that was never stopped."""

import numpy as np
import pytest

from minicnn import plugins
from minicnn.errors import DataError, SettingError
from minicnn.training.checkpoint import Checkpoint, load_checkpoint
from minicnn.training.events import BatchDone, EpochDone, RunEnded, RunStarted
from minicnn.training.inputs import fingerprint
from tests.training import small

OPTIMIZERS = plugins.names("optimizer")
SCHEDULES = plugins.names("schedule")
# Every schedule changes its factor within four epochs.
SCHEDULE_KWARGS = {
    "step": {"step_size": 1.0},
    "multi_step": {"milestones": [1, 2]},
    "reduce_on_plateau": {"patience": 0.0, "threshold": 0.9},
}
HORIZON = ["cosine", "one_cycle", "linear", "polynomial", "triangular"]


def stop_at(epoch, batch):
    """A reporter that interrupts the run after ``batch`` of ``epoch``."""

    def reporter(trainer):
        def report(event):
            if isinstance(event, BatchDone) and (event.epoch, event.batch) == (epoch, batch):
                trainer.interrupt()

        return report

    return reporter


def options_of(optimizer="adam", schedule="constant"):
    batch = {"batch_size": None} if optimizer == "gd" else {}
    return {
        "optimizer": optimizer,
        "schedule": schedule,
        "schedule_kwargs": SCHEDULE_KWARGS.get(schedule, {}),
        **batch,
    }


def test_every_built_in_optimizer_and_schedule_is_tested_here():
    assert len(OPTIMIZERS) >= 11 and len(SCHEDULES) >= 6 and set(HORIZON) < set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_after_an_epoch(optimizer, schedule, tmp_path):
    options = options_of(optimizer, schedule)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    small.train(whole, **options)
    horizon = {"horizon": 4} if schedule in HORIZON else {}
    small.train(parts, **options, **horizon, epochs=2)
    assert small.tensors(parts) != small.tensors(whole)
    _, events = small.resume(parts, epochs=4)
    assert [done.epoch for done in small.of_kind(events, EpochDone)] == [3, 4]
    small.assert_same_run(parts, whole)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_interrupted_in_the_middle_of_an_epoch(optimizer, tmp_path):
    batches = 1 if optimizer == "gd" else small.BATCHES
    options = options_of(optimizer, "reduce_on_plateau") | {"warmup_epochs": 3.0, "clip_grad": 1.0}
    whole = tmp_path / "whole"
    whole.mkdir()
    small.train(whole, **options)
    for batch in range(1, batches + 1):
        parts = tmp_path / str(batch)
        parts.mkdir()
        _, events = small.train(parts, **options, reporters=[stop_at(2, batch)])
        assert small.of_kind(events, RunEnded)[0].reason == "interrupted"
        assert small.of_kind(events, BatchDone)[-1].batch == batch
        _, events = small.resume(parts)
        first = small.of_kind(events, BatchDone)[0]
        assert (first.epoch, first.batch) == ((2, batch + 1) if batch < batches else (3, 1))
        small.assert_same_run(parts, whole)


def test_interrupted_at_every_batch_again_and_again(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    small.train(whole)
    small.train(parts, reporters=[stop_at(1, 1)])
    for step in range(1, 4 * small.BATCHES):
        _, events = small.resume(
            parts, reporters=[stop_at(step // small.BATCHES + 1, step % small.BATCHES + 1)]
        )
        assert len(small.of_kind(events, BatchDone)) == 1
    small.resume(parts)
    small.assert_same_run(parts, whole)


def test_the_figures_of_an_interrupted_epoch_are_those_of_the_whole_epoch(tmp_path):
    def figures(events):
        return [
            (
                done.epoch,
                done.train_loss,
                done.train_accuracy,
                done.validation_loss,
                done.gradient_norm,
                done.best,
            )
            for done in small.of_kind(events, EpochDone)
        ]

    _, whole = small.train()
    _, first = small.train(tmp_path, reporters=[stop_at(3, 2)])
    _, second = small.resume(tmp_path)
    assert figures(first) + figures(second) == figures(whole)
    assert small.of_kind(first, RunEnded)[0].test is None
    test, expected = small.of_kind(second, RunEnded)[0].test, small.of_kind(whole, RunEnded)[0].test
    assert (test.loss, test.accuracy, test.confusion) == (
        expected.loss,
        expected.accuracy,
        expected.confusion,
    )


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name not in HORIZON])
def test_a_schedule_without_horizon_goes_on_to_a_larger_total_as_if_planned(schedule, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    _, expected = small.train(whole, **options_of(schedule=schedule), epochs=6)
    small.train(parts, **options_of(schedule=schedule), epochs=2)
    _, found = small.resume(parts, epochs=6)
    small.assert_same_run(parts, whole)
    rates = [done.learning_rate for done in small.of_kind(expected, EpochDone)]
    assert [done.learning_rate for done in small.of_kind(found, EpochDone)] == rates[2:]
    assert schedule == "constant" or len(set(rates)) > 2


@pytest.mark.parametrize("schedule", HORIZON)
def test_a_schedule_with_a_horizon_keeps_the_stored_one(schedule, tmp_path):
    small.train(tmp_path, schedule=schedule, epochs=2)
    assert load_checkpoint(tmp_path / "last.safetensors").settings["horizon"] == 2
    _, events = small.resume(tmp_path, epochs=4)
    rule = plugins.find("schedule", schedule)
    kwargs = {hyper.name: hyper.default for hyper in rule.hyperparameters}
    for done in small.of_kind(events, EpochDone):
        last_step = done.epoch - 1 / small.BATCHES
        assert done.learning_rate == pytest.approx(0.001 * rule.factor(last_step, 2, {}, **kwargs))


def test_a_run_that_is_done_is_evaluated_again_and_changes_no_weight(tmp_path):
    small.train(tmp_path)
    before = small.tensors(tmp_path), small.tensors(tmp_path, "model")
    _, events = small.resume(tmp_path)
    assert (
        small.of_kind(events, BatchDone) == []
        and small.of_kind(events, RunEnded)[0].reason == "epochs done"
    )
    assert (small.tensors(tmp_path), small.tensors(tmp_path, "model")) == before


def test_patience_and_the_best_epoch_are_remembered(tmp_path):
    options = {"optimizer": "sgd", "learning_rate": 1e-9, "min_delta": 0.5, "epochs": 9}
    _, whole = small.train(**options, patience=4)
    small.train(tmp_path, **options, patience=4, reporters=[stop_at(3, 1)])
    _, parts = small.resume(tmp_path)
    whole, parts = small.of_kind(whole, RunEnded)[0], small.of_kind(parts, RunEnded)[0]
    assert (parts.reason, parts.epoch, parts.best_epoch) == (
        whole.reason,
        whole.epoch,
        whole.best_epoch,
    )
    assert whole.reason == "no improvement"


def test_best_weights_of_an_epoch_before_the_stop_stay_the_best(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    options = {"data": small.contradictory_dataset(), "epochs": 9, "learning_rate": 0.01}
    _, events = small.train(whole, **options)
    best = small.of_kind(events, RunEnded)[0].best_epoch
    assert best < 8
    small.train(parts, **options, reporters=[stop_at(8, 2)])
    small.resume(parts, data=options["data"])
    small.assert_same_run(parts, whole)
    tensors = small.tensors(whole)
    assert tensors["best.dense1.weight"] != tensors["weights.dense1.weight"]


def test_the_run_says_which_epoch_is_its_first(tmp_path):
    small.train(tmp_path, epochs=2)
    assert small.of_kind(small.resume(tmp_path, epochs=3)[1], RunStarted)[0].first_epoch == 3


def test_other_data_another_network_and_another_optimizer_are_refused(tmp_path):
    small.train(tmp_path, epochs=1)
    with pytest.raises(DataError, match="small is not the data"):
        small.resume(tmp_path, data=small.dataset(53), epochs=2)
    for name in ("sgd", "nadam", "adamw"):
        kwargs = {"optimizer": name, "optimizer_kwargs": {}}
        with pytest.raises(SettingError, match=f"it is adam, not {name}$"):
            small.resume(tmp_path, epochs=2, **kwargs)
    checkpoint = load_checkpoint(tmp_path / "last.safetensors")
    trainer = small.Trainer(small.network(dropout=0.1), small.settings())
    with pytest.raises(SettingError, match="network"):
        trainer.fit(small.dataset(), resume=checkpoint)


def test_a_checkpoint_can_be_resumed_more_than_once():
    trainer, _ = small.train(epochs=2)
    progress = trainer.progress
    checkpoint = Checkpoint(
        trainer.network,
        trainer.settings.to_dict() | {"data": "small", "model": "network"},
        progress,
        fingerprint(small.dataset().train),
    )
    ends = []
    for _ in range(2):
        again = small.Trainer(trainer.network, small.settings())
        again.fit(small.dataset(), resume=checkpoint)
        ends.append(again.progress)
    np.testing.assert_array_equal(ends[0].params, ends[1].params)
    assert progress.counters.epoch == 3 and ends[1].counters.epoch == 5


def test_another_schedule_begins_with_its_own_state(tmp_path):
    small.train(tmp_path, epochs=1)
    _, events = small.resume(tmp_path, epochs=3, schedule="reduce_on_plateau")
    assert [done.epoch for done in small.of_kind(events, EpochDone)] == [2, 3]


@pytest.mark.parametrize(
    "changed", [{"batch_size": 10}, {"seed": 5}, {"limit": 40}, {"val_split": 0.3}], ids=repr
)
def test_an_epoch_cut_in_two_is_not_gone_on_with_in_other_batches(changed, tmp_path):
    small.train(tmp_path, reporters=[stop_at(2, 2)])
    with pytest.raises(SettingError, match=next(iter(changed))):
        small.resume(tmp_path, **changed)


def test_the_weights_resumed_from_are_those_that_were_saved(tmp_path):
    trainer, _ = small.train(tmp_path, reporters=[stop_at(2, 3)])
    progress = load_checkpoint(tmp_path / "last.safetensors").progress
    np.testing.assert_array_equal(progress.params, trainer.progress.params)
    np.testing.assert_array_equal(progress.slots, trainer.progress.slots)
    assert progress.counters == trainer.progress.counters
    assert (
        progress.params.any()
        and progress.slots.any()
        and progress.counters.optimizer_step == small.BATCHES + 3
    )
