"""How the benchmarks take the time: in turns that are long enough to mean something."""

import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import timing

    yield timing
    del sys.modules["timing"]


def test_a_turn_has_as_many_calls_as_fill_it(timing):
    calls = []

    def call():
        calls.append(time.sleep(0.001))

    effort = timing.Effort(repetitions=2, turn=0.03)
    seconds = timing.measure([timing.Contestant("sleeper", call)], effort)["sleeper"]
    assert seconds.shape == (2,) and (seconds >= 0.001).all()
    assert (
        len(calls) > 2 * 5
    )  # two turns of 30, and calls that are not counted; a busy machine sleeps longer


def test_a_call_that_takes_longer_than_a_turn_is_made_once_a_turn_besides_what_is_not_counted(
    timing,
):
    calls = []
    timing.measure(
        [timing.Contestant("slow", lambda: calls.append(time.sleep(0.02)))], timing.Effort(3, 0.001)
    )
    assert len(calls) == 1 + 3 * 2
