"""The moving average of the weights."""

from dataclasses import replace

import numpy as np
import pytest

from minicnn import BatchNorm2d, Conv2d, Dense, Flatten, Network, ReLU, Trainer
from minicnn.errors import SettingError
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.events import BatchDone
from tests.training import small
from tests.training.test_resume import stop_at
from tests.training.test_rule_kinds import AVERAGE

NETWORK = Network((6, 6, 1), [Conv2d(3, 3), BatchNorm2d(), ReLU(), Flatten(), Dense(3)])


def test_it_is_the_arithmetic_by_hand_with_the_statistics_of_batch_normalization():
    trainer = Trainer(NETWORK, small.settings(ema=0.75, epochs=2))
    weights = []

    def keep(event):
        if isinstance(event, BatchDone):
            weights.append(trainer.progress.params.copy())

    trainer.fit(small.dataset(), reporters=[keep])
    expected = weights[0].astype(np.float64)
    for params in weights[1:]:
        expected = 0.75 * expected + 0.25 * params
    np.testing.assert_allclose(trainer.progress.eval_params, expected, rtol=1e-5, atol=1e-7)
    statistics = slice(NETWORK.trainable_size, None)
    assert (trainer.progress.eval_params[statistics] != weights[-1][statistics]).any()


def test_it_is_what_is_validated_and_kept_and_training_is_the_same_without_it():
    plain, _ = small.train(epochs=1)
    trainer, _ = small.train(epochs=1, ema=0.5)
    np.testing.assert_array_equal(trainer.progress.params, plain.progress.params)
    np.testing.assert_array_equal(trainer.model.params, trainer.progress.eval_params)
    assert (trainer.model.params != plain.model.params).any()


@pytest.mark.parametrize("batch", range(1, small.BATCHES + 1))
def test_a_run_that_is_resumed_ends_bitwise_the_same(batch, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    small.train(whole, ema=0.9)
    small.train(parts, ema=0.9, reporters=[stop_at(2, batch)])
    small.resume(parts)
    small.assert_same_run(parts, whole)
    average = load_checkpoint(parts / "last.safetensors").progress.eval_params
    np.testing.assert_array_equal(
        average, load_checkpoint(whole / "last.safetensors").progress.eval_params
    )


def test_an_optimizer_that_averages_itself_is_refused():
    rule = replace(AVERAGE, name="own")
    with pytest.raises(SettingError, match="own averages the weights itself: leave ema out"):
        Trainer(NETWORK, optimizer=rule, ema=0.9).fit(small.dataset())
