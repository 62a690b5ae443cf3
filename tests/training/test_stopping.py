"""Why a run stops, what it says, and which weights it leaves."""

from dataclasses import replace

import numpy as np
import pytest

from minicnn import Hyperparameter, OptimizerRule, ScheduleRule, Trainer, load
from minicnn.errors import DivergedError, SettingError
from minicnn.training import run as run_module
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.events import (
    BatchDone,
    CheckpointSaved,
    Compiled,
    EpochDone,
    RunEnded,
    RunStarted,
)
from tests.training import small


def ended(events):
    [event] = small.of_kind(events, RunEnded)
    return event


def diverging(folder=None, **options):
    """(trainer, events) of a run of plain gradient steps that are far too long."""
    trainer, events = Trainer(small.network(), small.settings(optimizer="sgd", **options)), []
    with pytest.raises(DivergedError):
        trainer.fit(small.dataset(), reporters=[events.append], output=folder)
    return trainer, events


def test_a_run_ends_when_its_epochs_are_done():
    _, events = small.train(epochs=3)
    end = ended(events)
    assert (end.reason, end.explanation, end.epoch) == ("epochs done", "all 3 epochs are done", 3)
    kinds = [type(event) for event in events]
    assert kinds == [RunStarted, Compiled, *([BatchDone] * 4 + [EpochDone]) * 3, RunEnded]


def test_with_a_folder_the_files_are_announced_after_they_are_written(tmp_path):
    seen = []

    def look(event):
        if isinstance(event, CheckpointSaved):
            seen.append((event.path.name, event.path.exists()))

    small.train(tmp_path, epochs=1, reporters=[lambda trainer: look])
    assert seen == [
        ("model.safetensors", True),
        ("last.safetensors", True),
        ("model.safetensors", True),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last.safetensors",
        "model.safetensors",
    ]


# --- converged ------------------------------------------------------------------------------------


def test_a_run_converges_when_the_training_loss_changes_by_less_than_tol():
    _, events = small.train(epochs=50, val_split=0.0, tol=0.02, learning_rate=0.02)
    losses = [done.train_loss for done in small.of_kind(events, EpochDone)]
    changes = np.abs(np.diff(losses))
    assert len(losses) > 2 and changes[-1] < 0.02 and (changes[:-1] >= 0.02).all()
    assert ended(events).reason == "converged" and ended(events).epoch == len(losses)
    assert "the training loss changed by" in ended(events).explanation
    assert ended(events).test is not None


def test_without_tol_a_run_that_stands_still_goes_on():
    _, events = small.train(epochs=4, optimizer="sgd", learning_rate=1e-30)
    assert ended(events).reason == "epochs done"


# --- no improvement -------------------------------------------------------------------------------


def overfitting(**options):
    """(trainer, events, weights after each epoch) of a run whose validation loss soon rises."""
    trainer, events = (
        Trainer(small.network(), small.settings(**{"epochs": 40, "learning_rate": 0.01} | options)),
        [],
    )
    snapshots = {}

    def keep(event):
        events.append(event)
        if isinstance(event, EpochDone):
            snapshots[event.epoch] = trainer.progress.params.copy()

    trainer.fit(small.contradictory_dataset(), reporters=[keep])
    return trainer, events, snapshots


def test_a_run_without_improvement_stops_and_restores_the_best_weights():
    trainer, events, snapshots = overfitting(patience=6)
    end, epochs = ended(events), small.of_kind(events, EpochDone)
    assert end.reason == "no improvement" and "6 epochs" in end.explanation
    lowest = int(np.argmin([done.validation_loss for done in epochs])) + 1
    assert end.epoch == lowest + 6 < 40
    assert end.best_epoch < end.epoch
    np.testing.assert_array_equal(trainer.model.params, snapshots[end.best_epoch])
    assert (trainer.model.params != snapshots[end.epoch]).any()
    images, labels = small.arrays(20, seed=8)
    last = replace(trainer.model, params=snapshots[end.epoch])
    assert (
        end.test.loss
        == trainer.model.evaluate(images, labels).loss
        != last.evaluate(images, labels).loss
    )


def test_the_best_epoch_has_the_highest_accuracy_and_among_equals_the_lowest_loss():
    for options in ({"patience": 3}, {"epochs": 12}, {"epochs": 6, "learning_rate": 1e-4}):
        trainer, events, snapshots = overfitting(**options)
        epochs = small.of_kind(events, EpochDone)
        best = max(epochs, key=lambda done: (done.validation_accuracy, -done.validation_loss))
        assert ended(events).best_epoch == best.epoch
        assert [done for done in epochs if done.best][-1] is best
        np.testing.assert_array_equal(trainer.model.params, snapshots[best.epoch])
        figures = trainer.model.training["figures"]
        assert (figures["epoch"], figures["accuracy"]) == (best.epoch, best.validation_accuracy)
        assert figures["loss"] == best.validation_loss and figures["of"] == "validation"


def test_an_improvement_below_min_delta_is_none():
    options = {"optimizer": "sgd", "learning_rate": 1e-6, "epochs": 9, "val_split": 0.0}
    assert ended(small.train(**options, patience=2, min_delta=0.5)[1]).epoch == 3
    _, events = small.train(patience=2, epochs=5, val_split=0.0, learning_rate=0.01)
    assert ended(events).reason == "epochs done"


def test_patience_counts_anew_after_an_improvement(monkeypatch):
    losses, original = iter([5.0, 6.0, 4.0, 4.5, 4.0, 3.0, 3.5, 3.5, 9.0, 9.0]), run_module.evaluate
    monkeypatch.setattr(
        run_module, "evaluate", lambda *args: replace(original(*args), loss=next(losses))
    )
    _, events = small.train(epochs=10, patience=2, data=small.dataset(test=False))
    assert small.of_kind(events, EpochDone)[0].validation_loss == 5.0
    assert ended(events).reason == "no improvement" and ended(events).epoch == 5


# --- diverged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e20, 1e30, 3e38])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_diverged_run_says_what_to_try_and_keeps_weights_that_are_finite(rate, share, tmp_path):
    trainer, events = diverging(tmp_path, learning_rate=rate, val_split=share)
    end = ended(events)
    assert end.reason == "diverged" and "try a smaller learning rate" in end.explanation
    assert end.test is None
    assert np.isfinite(trainer.model.params).all()
    model = load(tmp_path)
    np.testing.assert_array_equal(model.params, trainer.model.params)
    assert np.isfinite(model.params).all()
    assert np.isfinite(model.predict_proba(small.arrays(5)[0])).all()


def test_weights_that_the_last_step_made_infinite_are_not_the_best():
    def update(p, g, learning_rate):
        return p - learning_rate * learning_rate * g

    rule = OptimizerRule(
        "leap",
        update,
        lambda step, state, learning_rate: (learning_rate,),
        (Hyperparameter("learning_rate", 1e30),),
    )
    trainer = Trainer(
        small.network(), small.settings(epochs=1, batch_size=50, val_split=0.0), optimizer=rule
    )
    with pytest.raises(
        DivergedError,
        match="the weights are no longer finite numbers after epoch 1; the first weights",
    ):
        trainer.fit(small.dataset())
    assert not np.isfinite(trainer.progress.params).all()
    assert np.isfinite(trainer.model.params).all()


def test_the_weights_before_the_step_that_diverged_are_kept(tmp_path):
    """The rate grows at the third epoch; the best weights of the two good ones stay, and so does
    their checkpoint."""

    def factor(epoch, horizon, state):
        return 1.0 if epoch < 2 else 1e37

    rule = ScheduleRule("explosion", factor)
    trainer, events = (
        Trainer(
            small.network(), small.settings(optimizer="sgd"), schedule=rule, learning_rate=0.05
        ),
        [],
    )
    with pytest.raises(DivergedError, match=r"epoch 3, batch \d"):
        trainer.fit(small.dataset(), reporters=[events.append], output=tmp_path)
    good, _ = small.train(epochs=2, optimizer="sgd", learning_rate=0.05)
    np.testing.assert_array_equal(trainer.model.params, good.model.params)
    np.testing.assert_array_equal(load(tmp_path).params, good.model.params)
    last = load_checkpoint(tmp_path / "last.safetensors").progress
    np.testing.assert_array_equal(last.params, good.progress.params)
    assert (last.counters.epoch, last.counters.batch) == (3, 0)
    assert ended(events).best_epoch == good.progress.counters.best_epoch


def test_a_run_as_an_iterator_tells_of_divergence_and_raises_nothing():
    trainer = Trainer(small.network(), small.settings(optimizer="sgd", learning_rate=1e30))
    assert list(trainer.run(small.dataset()))[-1].reason == "diverged"


# --- interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_an_interrupted_run_finishes_its_batch_saves_and_says_where_it_stands(batch, tmp_path):
    def at(trainer):
        def report(event):
            if isinstance(event, BatchDone) and (event.epoch, event.batch) == (2, batch):
                trainer.interrupt()

        return report

    _, events = small.train(tmp_path, reporters=[at])
    end = ended(events)
    assert end.reason == "interrupted" and end.test is None
    assert ("after batch" in end.explanation) == (batch < 4)
    counters = load_checkpoint(tmp_path / "last.safetensors").progress.counters
    assert (counters.epoch, counters.batch) == ((2, batch) if batch < 4 else (3, 0))
    assert end.epoch == 2


def test_a_trainer_that_was_interrupted_can_fit_again():
    trainer = Trainer(small.network(), small.settings())
    interrupted = trainer.fit(small.dataset(), reporters=[lambda event: trainer.interrupt()])
    assert interrupted.ended.reason == "interrupted" and interrupted.epochs == []
    assert trainer.fit(small.dataset()).ended.reason == "epochs done"


def test_the_best_so_far_is_the_model_when_a_reporter_fails():
    trainer = Trainer(small.network(), small.settings())

    def fail(event):
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(small.dataset(), reporters=[fail])
    assert trainer.model.training["figures"]["epoch"] in (1, 2)


def test_a_dry_run_gives_the_first_loss_and_writes_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(small.network(), small.settings())
    loss = trainer.dry_run(small.dataset())
    assert loss == small.of_kind(small.train(epochs=1)[1], BatchDone)[0].loss
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingError, match="call fit first"):
        _ = trainer.model
