"""Timing in turns: every contestant runs once a repetition, and only ratios within a repetition are
compared.

A machine's speed drifts by more than the differences that matter, so seconds of different minutes
say nothing. The turns go forwards and backwards alternately, so that a steady drift cancels. Idle
threads of one library spin for a while after its last call (OpenMP's for 8 ms, onnxruntime's for 47
ms on a 2-core x86-64 machine) and would take a core from the next contestant: each turn begins with
a pause until they sleep, and with calls that are not counted, in which its own threads and caches
wake up.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Contestant:
    """A call to be timed, and how many units of work (steps, images, multiply-adds) one call
    does."""

    name: str
    call: Callable[[], object]
    units: float = 1.0


@dataclass(frozen=True)
class Effort:
    """How long to measure: repetitions, and seconds of calls in a turn."""

    repetitions: int
    turn: float


@dataclass(frozen=True)
class Spread:
    """The median of the ratios of all repetitions, the lowest and the highest."""

    median: float
    low: float
    high: float


def spread(ratios: np.ndarray) -> Spread:
    """Summarize ratios [repetitions]."""
    return Spread(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def measure(contestants: Sequence[Contestant], effort: Effort) -> dict[str, np.ndarray]:
    """Seconds a unit of work by contestant, [repetitions]."""
    calls = {contestant.name: _calls_a_turn(contestant, effort) for contestant in contestants}
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for repetition in range(effort.repetitions):
        for contestant in contestants if repetition % 2 == 0 else reversed(contestants):
            _wait_for_sleep()
            count = calls[contestant.name]
            _run(contestant.call, -(-count // 5))
            elapsed = _run(contestant.call, count)
            seconds[contestant.name].append(elapsed / count / contestant.units)
    return {name: np.array(values) for name, values in seconds.items()}


def _calls_a_turn(contestant: Contestant, effort: Effort) -> int:
    """As many calls as take ``effort.turn`` seconds, at least one; contestants have been called
    before."""
    each, tries = _run(contestant.call, 1), 1
    while tries < 4 and tries * each < 4 * effort.turn:
        each, tries = min(each, _run(contestant.call, 1)), tries + 1
    return max(1, round(effort.turn / each))


def _wait_for_sleep() -> None:
    """Until no thread of this process uses the processor, 0.2 s at most."""
    for _ in range(40):
        used = time.process_time()
        time.sleep(0.005)
        if time.process_time() - used < 0.0005:
            return


def _run(call: Callable[[], object], count: int) -> float:
    if timed := getattr(call, "timed", None):  # a call in another process
        return timed(count)
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start
