"""Warnings in words: each one rings on a run that deserves it and in no other, and none on usual
runs."""

import pytest

from minicnn import Dense, Flatten, Network, ReLU, Sigmoid, Tanh, Trainer, load_dataset, preset
from minicnn.insight.advice import Advice, advised
from minicnn.training.events import EpochDone, Recorded
from tests.training import small


def mlp(layers, activation):
    hidden = [layer for _ in range(layers) for layer in (Dense(12), activation)]
    return Network((6, 6, 1), [Flatten(), *hidden, Dense(small.CLASSES)])


def kinds(network, dataset=None, **options):
    """The kinds of warnings that a run gets, in their order."""
    trainer = Trainer(network, **{"batch_size": 12, "epochs": 8, **options})
    return [
        event.kind
        for event in advised(trainer.run(dataset or small.dataset()))
        if isinstance(event, Advice)
    ]


# --- runs that deserve it -------------------------------------------------------------------------


def test_gradients_that_vanish_through_eight_sigmoids():
    assert kinds(mlp(8, Sigmoid()), record=0) == ["vanishing gradients"]
    assert kinds(mlp(8, Tanh()), record=0) == []
    assert kinds(mlp(8, Sigmoid())) == []  # without a record nobody knows


def test_gradients_that_explode_while_the_loss_rises():
    found = kinds(mlp(0, None), loss="mse", optimizer="sgd", learning_rate=0.6, epochs=6)
    assert set(found) == {"exploding gradients", "learning rate too large"}


def test_units_that_a_large_learning_rate_killed():
    assert "dead units" in kinds(mlp(1, ReLU()), record=0, learning_rate=1.0)
    assert "dead units" not in kinds(mlp(1, ReLU()), record=0)


def test_steps_that_change_the_weights_too_much_or_too_little():
    assert kinds(mlp(1, Tanh()), record=0, learning_rate=2.0)[0] == "learning rate too large"
    assert kinds(mlp(1, Tanh()), record=0, optimizer="sgd", learning_rate=1e-6) == [
        "learning rate too small"
    ]
    assert kinds(mlp(1, Tanh()), optimizer="sgd", learning_rate=1e-6) == []


def test_small_steps_at_the_end_of_a_schedule_and_in_a_warm_up_are_meant():
    options = {"record": 0, "optimizer": "sgd", "learning_rate": 0.1}
    assert (
        kinds(mlp(1, Tanh()), **options, schedule="exponential", schedule_kwargs={"gamma": 0.01})
        == []
    )
    assert kinds(mlp(1, Tanh()), **options, warmup_epochs=100_000.0) == []


def test_validation_labels_that_contradict_the_training_labels():
    assert kinds(mlp(1, ReLU()), small.contradictory_dataset(), epochs=40, learning_rate=0.01) == [
        "overfitting"
    ]


# --- runs that do not -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "sgd"}, {"loss": "mse"}, {"schedule": "one_cycle"}]
)
def test_usual_runs_get_no_warning(options):
    trainer = Trainer(preset("lenet5", (28, 28, 1), 10), epochs=3, limit=2000, record=0, **options)
    events = list(advised(trainer.run(load_dataset("fashion-mnist-12k"))))
    assert len([event for event in events if isinstance(event, EpochDone)]) == 3
    assert [event for event in events if isinstance(event, Advice)] == []


# --- single rules, on events made up --------------------------------------------------------------


def epoch(number, train=1.0, validation=None, accuracy=0.5, norm=1.0, rate=0.1):
    return EpochDone(number, train, accuracy, validation, None, rate, norm, 1.0, False)


def line(gradients=(), updates=(), dead=None):
    def named(figures):
        return {f"dense{i}.weight": figure for i, figure in enumerate(figures, 1)}

    return Recorded(1.0, 4, named(gradients), named(updates), {}, {}, {}, dead or {})


def texts(*events):
    return [event.text for event in advised(events) if isinstance(event, Advice)]


def test_the_events_pass_unchanged_and_a_warning_follows_its_epoch():
    events = [line(dead={"relu1": 0.9}), epoch(1), epoch(2)]
    passed = list(advised(events))
    assert [event for event in passed if not isinstance(event, Advice)] == events
    assert [type(event) for event in passed] == [
        Recorded,
        EpochDone,
        Advice,
        EpochDone,
    ]  # once, not twice
    assert (passed[2].epoch, passed[2].kind) == (1, "dead units")


def test_a_warning_says_what_was_seen_and_what_to_try():
    (text,) = texts(line(gradients=[2.0, 0.001, 0.5]), epoch(1))
    assert (
        "that of dense2.weight is 500 times smaller than that of dense3.weight" in text
        and "try ReLU" in text
    )
    (text,) = texts(epoch(1, train=1.0, rate=0.3), epoch(2, train=2.0, rate=0.3))
    assert text == "learning rate too large: the training loss rose from 1 to 2; try --lr 0.1"
    (text,) = texts(line(updates=[0.01, 0.5]), epoch(1, rate=1.0))
    assert "a step changes dense2.weight by 50 %" in text and text.endswith("try --lr 0.02")
    (text,) = texts(line(updates=[1e-6, 1e-5]), epoch(1, rate=1e-5), epoch(2, rate=1e-5))
    assert "0.001 %" in text and text.endswith("try --lr 0.001")
    (text,) = texts(epoch(1, norm=1.0), epoch(2, norm=30.0))
    assert "their norm grew from 1 to 30; try --clip-grad 2" in text


def test_a_network_that_has_learned_may_take_small_or_uneven_steps():
    assert texts(line(updates=[1e-6]), epoch(1, accuracy=0.95), epoch(2, accuracy=0.95)) == []
    assert texts(epoch(1, train=0.1, accuracy=0.95), epoch(2, train=0.2, accuracy=0.95)) == []


def test_overfitting_needs_three_epochs_in_a_row_far_above_the_best():
    losses = [(1.0, 1.0), (0.9, 1.3), (0.8, 1.3), (0.7, 1.1), (0.6, 1.3), (0.5, 1.3)]
    epochs = [epoch(i, train, validation) for i, (train, validation) in enumerate(losses, 1)]
    assert texts(*epochs) == []
    (text,) = texts(*epochs, epoch(7, 0.4, 1.3))
    assert "the validation loss is 1.3 and was 1 in epoch 1, while the training loss falls" in text
    assert texts(*epochs, epoch(7, 1.1, 1.3, accuracy=0.95)) == []  # the training loss rose as well


def test_figures_that_are_missing_or_zero_say_nothing():
    assert texts(line(gradients=[None, 1.0], updates=[None, None]), epoch(1), epoch(2)) == []
    assert texts(line(gradients=[0.0, 1.0]), epoch(1)) == []
