"""The learning-rate range test."""

import numpy as np
import pytest

from minicnn import Trainer
from minicnn.errors import SettingError
from minicnn.insight.range_test import lr_find, marks, smooth
from minicnn.rules import Hyperparameter, OptimizerRule
from tests.training.small import dataset, network, train


def trainer(**options):
    return Trainer(network(), **{"batch_size": 12, "optimizer": "sgd", "threads": 2, **options})


def test_the_rates_rise_by_a_constant_factor_and_the_loss_falls_and_then_rises():
    made = Trainer(network(dropout=0.0), batch_size=12, optimizer="sgd", threads=2)
    result = lr_find(made, dataset(), 1e-3, 1e3, 200)
    done = len(result.rates)
    assert result.rates == pytest.approx(1e-3 * (1e6) ** (np.arange(done) / 199), rel=1e-12)
    assert len(result.losses) == len(result.smoothed) == done
    assert result.losses[0] == pytest.approx(np.log(3), abs=0.5)
    assert result.smoothed.min() < 0.8 * result.smoothed[0] < 0.8 * result.smoothed[-1]
    assert result.steepest < result.suggestion < result.lowest
    assert result.suggestion**2 == pytest.approx(result.steepest * result.lowest)


def test_the_losses_are_those_of_steps_with_these_rates():
    """The same steps by the parts of the Python interface: passes, loss, optimizer."""
    from minicnn import Loss, Optimizer, Passes

    made, data = trainer(), dataset()
    net = network(dropout=0.0)
    made = Trainer(net, batch_size=12, optimizer="sgd", threads=2, val_split=0.0)
    result = lr_find(made, data, 1e-3, 1.0, 20)
    params = net.initialize(np.random.default_rng([0, 0]))
    loss, sgd, passes = (
        Loss("cross_entropy", 3),
        Optimizer("sgd", len(params)),
        Passes(net, params, batch_size=12),
    )
    batches = -(-50 // 12)
    for step in range(20):
        epoch, batch = divmod(step, batches)
        order = np.random.default_rng([0, 1, 1 + epoch]).permutation(50)[
            batch * 12 : (batch + 1) * 12
        ]
        value, dlogits = loss(
            passes.forward(data.train.images[order] / np.float32(255)), data.train.labels[order]
        )
        assert result.losses[step] == pytest.approx(value, rel=1e-3)
        sgd.update(params, passes.backward(dlogits), learning_rate=result.rates[step])


def test_it_leaves_no_trace_in_the_trainer():
    made, _ = train(epochs=2)
    before = made.progress.params.copy(), made.progress, made.model.params.copy()
    lr_find(made, dataset(), steps=20)
    assert made.progress is before[1]
    assert (made.progress.params == before[0]).all() and (made.model.params == before[2]).all()


def test_it_stops_where_the_loss_is_lost():
    result = lr_find(trainer(), dataset(), 1e-3, 1e30, 60)
    assert result.ended in ("the loss was 4 times the lowest", "the loss was no longer finite")
    assert len(result.rates) < 60 and np.isfinite(result.losses).all()


def test_what_blows_up_in_one_step_does_not_move_the_marks():
    rates = np.geomspace(1e-5, 1, 100)
    losses = 2 - 1.5 / (1 + np.exp(-(np.log(rates) - np.log(1e-2)) * 2))
    calm = marks(rates, smooth(losses, 4))
    assert calm == (pytest.approx(1e-2, rel=0.2), pytest.approx(1))
    result = lr_find(trainer(), dataset(), 1e-4, 1e20, 100)
    assert result.losses.max() > 5 * result.smoothed.max()
    assert result.smoothed[0] == pytest.approx(result.losses[:8].mean(), rel=0.2)


def test_a_loss_that_never_falls_suggests_nothing():
    rising = np.linspace(1, 2, 30)
    assert marks(np.geomspace(1e-3, 1, 30), rising) == (None, None)
    assert marks(np.empty(0), np.empty(0)) == (None, None)


def test_smoothing_keeps_a_line_and_shifts_no_step():
    line = np.arange(50.0)
    assert smooth(line, 3)[15:35] == pytest.approx(line[15:35])
    step = np.repeat([0.0, 1.0], 25)
    assert smooth(step, 3) == pytest.approx(1 - smooth(step, 3)[::-1])


def test_the_steps_done_are_reported():
    seen = []
    lr_find(trainer(), dataset(), 1e-4, 1e-3, 25, lambda *done: seen.append(done))
    assert seen == [(i + 1, 25) for i in range(25)]


def test_wrong_ranges_and_an_optimizer_without_learning_rate_are_errors():
    for low, high, steps in ((0, 1, 50), (1, 0.1, 50), (0.1, np.inf, 50), (0.1, 1, 5)):
        with pytest.raises(SettingError, match="the range must rise"):
            lr_find(trainer(), dataset(), low, high, steps)
    rule = OptimizerRule(
        "fixed",
        lambda p, g, pace: p - pace * g,
        lambda step, state, pace: (pace,),
        (Hyperparameter("pace", 0.1, 0.0),),
    )
    with pytest.raises(SettingError, match="fixed has no learning rate"):
        lr_find(trainer(optimizer=rule), dataset())
