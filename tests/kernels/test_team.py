"""The threads of a team, and the tasks that they share."""

import threading
import time

import numpy as np
import pytest
from numba import njit, types

from minicnn.kernels.cpu import team
from minicnn.kernels.cpu.call import compiled
from minicnn.kernels.cpu.team import address_of, spread
from minicnn.kernels.cpu.tile import ENTRY, JIT

TABLE = types.int64[:, ::1]


@njit(**JIT)
def _count(job, index):
    """Count the call in the row of its task; who is early waits for a while."""
    counts, rounds = job[0]
    for _ in range(rounds[index]):
        counts[index, 1] = (counts[index, 1] * 5 + 1) % 1001
    counts[index, 0] += 1


@njit(**ENTRY)
def _stages(state, body, counts, rounds, first, stages):
    for _ in range(stages):
        spread(state, body, address_of((counts, rounds)), first, len(counts))


def body():
    job = types.CPointer(types.Tuple((TABLE, types.int64[::1])))
    return compiled(_count, job, types.int64).address


def counts_of(tasks, first, stages, rounds, call):
    counts = np.zeros((tasks, 16), np.int64)
    call(_stages, body(), counts, np.asarray(rounds), first, stages)
    return counts[:, 0].tolist()


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("late", [0, 1])
def test_each_task_is_computed_once_in_each_stage(threads, late):
    made = team.Team(threads)
    for tasks in range(1, threads + 1):
        rounds = [3000 * (index % 2 == late) for index in range(tasks)]
        for first in range(min(2, tasks)):
            expected = [0] * first + [500] * (tasks - first)
            assert counts_of(tasks, first, 500, rounds, made.call) == expected


def test_more_tasks_than_threads_and_no_team_are_computed_by_the_caller(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    for call in (team.Team(2).call, lambda function, *a: function(team.ALONE, *a)):
        assert counts_of(4, 1, 10, [0] * 4, call) == [0, 10, 10, 10]


def test_no_task_waits_for_a_thread_that_does_not_run(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    made = team.Team(3)
    assert counts_of(3, 0, 10, [0] * 3, made.call) == [10, 10, 10]


def asleep(made):
    return [bool(made.state[at]) for at, _ in made._asleep]


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_threads_sleep_after_a_call_and_not_within_it():
    made = team.Team(2)
    assert asleep(made) == [True]

    def longer_than_it_looks_for_tasks(state):
        for _ in range(30):
            time.sleep(0.01)
            assert asleep(made) == [False]

    made.call(longer_than_it_looks_for_tasks)
    wait_until(lambda: asleep(made) == [True])
    assert counts_of(2, 0, 10, [100] * 2, made.call) == [10, 10]  # it wakes up again
    wait_until(lambda: asleep(made) == [True])


def test_a_call_that_fails_leaves_a_team_that_sleeps():
    made = team.Team(2)

    def fail(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.call(fail)
    wait_until(lambda: asleep(made) == [True])
