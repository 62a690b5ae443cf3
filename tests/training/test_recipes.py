"""Recipes, and the epochs that fit into a time limit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from minicnn import Settings, Trainer, load_dataset, preset, recipe
from minicnn.data.dataset import build_dataset
from minicnn.data.known import KNOWN
from minicnn.errors import SettingError, UnknownNameError
from minicnn.training import run
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.engine import Engine
from minicnn.training.events import Compiled, EpochDone, RunEnded
from minicnn.training.recipes import recipe_file, recipes
from tests.training import small

SHAPES = {"mnist": (28, 28, 1), "fashion-mnist-12k": (28, 28, 1), "fashion-mnist": (28, 28, 1)}
QUICK = ["default", "mnist-10s"]


def trainer_of(settings: Settings) -> Trainer:
    shape = SHAPES.get(settings.data, (32, 32, 3))
    return Trainer(preset(settings.model, shape, 10), settings)


def test_the_recipes():
    assert set(recipes()) == {
        *("default", "mnist-10s", "mnist-5min", "fashion-10min", "cifar10-15min"),
        "cifar10-94",
        "resnet8-cifar10",
    }


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_says_what_it_is_for_and_fits_its_data(name):
    settings = recipe(name)
    assert recipe_file(name).read_text("utf-8").startswith("# ")
    assert settings.data in KNOWN and settings != Settings()
    resolved = trainer_of(settings).settings  # with every hyperparameter checked
    assert "weight_decay" in resolved.optimizer_kwargs
    assert resolved.horizon == settings.epochs


@pytest.mark.parametrize("name", [name for name in recipes() if name not in QUICK])
def test_a_batch_of_a_long_recipe(name):
    settings = replace(recipe(name), batch_size=8)
    shape = SHAPES.get(settings.data, (32, 32, 3))
    x = np.random.default_rng(0).integers(0, 256, (16, *shape), dtype=np.uint8)
    loss = trainer_of(settings).dry_run(build_dataset("noise", (x, np.arange(16) % 10)))
    assert 1.5 < loss < 5  # that of first weights on ten classes is about 2.3


@pytest.mark.parametrize("name", QUICK)
def test_an_epoch_of_a_recipe_on_a_thousand_images_learns(name):
    settings = replace(recipe(name), epochs=1, limit=1000)
    history = trainer_of(settings).fit(load_dataset("fashion-mnist-12k"))
    assert history.ended.test.accuracy > 0.6


def test_an_unknown_recipe_lists_the_near_ones():
    with pytest.raises(UnknownNameError, match="mnist-10s"):
        recipe("mnist-10")


def test_a_recipe_that_was_interrupted_goes_on_bitwise(tmp_path):
    data = load_dataset("fashion-mnist-12k")
    settings = replace(recipe("mnist-10s"), limit=200, threads=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer_of(settings).fit(data, output=whole)
    trainer = trainer_of(settings)
    trainer.fit(data, output=parts, reporters=[lambda event: trainer.interrupt()])
    checkpoint = load_checkpoint(parts / "last.safetensors")
    assert checkpoint.progress.counters.batch == 1
    again = Trainer(checkpoint.network, Settings(**checkpoint.settings))
    again.fit(data, output=parts, resume=checkpoint)
    small.assert_same_run(parts, whole)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by ``step`` seconds with each batch that is trained."""
    clock = SimpleNamespace(now=100.0, step=0.25)  # an epoch of `small` has four
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    steps = Engine.steps

    def slow(self, *arguments):
        clock.now += clock.step
        return steps(self, *arguments)

    monkeypatch.setattr(Engine, "steps", slow)
    return clock


def test_as_many_epochs_as_fit_are_planned_for_and_nothing_else_changes(clock, tmp_path):
    limited, counted = tmp_path / "limited", tmp_path / "counted"
    trainer, events = small.train(limited, epochs=99, time_limit=5.5, schedule="one_cycle")
    assert (trainer.settings.epochs, trainer.settings.horizon) == (5, 5)  # 0.95 · 5.5 / 1
    assert small.of_kind(events, RunEnded)[0].reason == "epochs done"
    small.train(counted, epochs=5, schedule="one_cycle")
    small.assert_same_run(limited, counted)


def test_a_run_that_gets_slower_stops_at_the_end_of_the_epoch_that_fits(clock, tmp_path):
    trainer, events = Trainer(small.network(), small.settings(epochs=1, time_limit="0.2m")), []

    def report(event):
        events.append(event)
        clock.step = 0.5 if isinstance(event, Compiled) else clock.step  # 2 s an epoch, planned: 1

    trainer.fit(small.dataset(), reporters=[report], output=tmp_path)
    ended = small.of_kind(events, RunEnded)[0]
    assert (trainer.settings.epochs, trainer.settings.time_limit) == (11, 12.0)
    assert (ended.reason, ended.epoch) == ("time limit", 6)
    assert load_checkpoint(tmp_path / "last.safetensors").progress.seconds == 12.0


def test_what_was_spent_before_a_run_was_resumed_counts(clock, tmp_path):
    small.train(tmp_path, epochs=3)
    _, events = small.resume(tmp_path, epochs=20, time_limit=5.5)
    assert [done.epoch for done in small.of_kind(events, EpochDone)] == [4, 5]
    assert small.of_kind(events, RunEnded)[0].reason == "time limit"


def test_one_epoch_is_the_least(clock):
    assert small.train(time_limit=0.01)[0].settings.epochs == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("7", 7.0), (".5 m", 30.0)],
)
def test_durations(text, seconds):
    assert Settings(time_limit=text).time_limit == seconds


@pytest.mark.parametrize(
    "value", ["0", "10 min", "-5s", "nan", "", "m", 0, -1.0, float("inf"), True]
)
def test_what_is_no_duration(value):
    with pytest.raises(SettingError, match="time_limit must be seconds above 0, or text such as"):
        Settings(time_limit=value)


def test_epochs_and_a_time_limit_exclude_each_other():
    with pytest.raises(SettingError, match="epochs and time_limit"):
        Trainer(small.network(), epochs=3, time_limit=10)
