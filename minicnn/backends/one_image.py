"""One image at a time, by several threads of the CPU."""

import math
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from minicnn.backends.layout import linked
from minicnn.kernels.augment import COLUMNS
from minicnn.kernels.cpu import infer_one, team
from minicnn.kernels.cpu.tile import VECTOR_BYTES
from minicnn.memory import aligned_zeros
from minicnn.network.network import Network
from minicnn.program.pieces import cut
from minicnn.program.planner import Plan, make_plan

# What one image may take by several threads, in times of one; how many may take longer than by one,
# until one that does not; how many are computed by one then at least, and for how many ns.
_TOO_LONG, _TRIES, _FEWEST, _SHORTEST_REST, _LONGEST_REST = 4, 16, 8, 4_000_000, 128_000_000
_ONLY = np.arange(1), np.empty((0, COLUMNS), np.float32)  # the first image, as it is


class Reading(NamedTuple):
    """How images are read: the dtype and `channel_scale` that they were given with, the address of
    the gather for these, and `scale_rows`."""

    dtype: np.dtype
    given: float | np.ndarray
    address: int
    scale: np.ndarray


class OneImage:
    """The forward pass of one image at a time; several ``threads`` share its operations where that
    pays; ``whole`` is the plan of many images, whose prepared weights in ``params`` it reads.

    Where an image took far longer than on one thread, another thread has lost its core to other
    work; where none of several images was faster, that thread has no core, or shares that of the
    calling thread. Then the calling thread computes alone for a while, each time twice as long; the
    least time of an image of that while is what the following are held against.
    """

    def __init__(self, network: Network, params: np.ndarray, whole: Plan, threads: int):
        plan, lanes = whole, VECTOR_BYTES // params.itemsize
        if threads > 1 or whole.table["chunk"][0] > 1:
            plan = linked(make_plan(network, 1, False, lanes, apart=threads > 1), params.dtype)
            for name in ("prepared", "params_size"):
                plan.table[name] = whole.table[name]
        pieces = cut(plan, threads, lanes)
        self._job = pieces.table, pieces.tasks, plan.table, infer_one.task_address(params.dtype)
        self._params, self._size = params, pieces.work_size
        self._threads = threads if len(pieces.tasks) > 1 else 1
        self._packed: list[tuple[Reading, np.ndarray, np.ndarray]] = []  # with their workspaces
        # Images that are computed alone from now on, and until when; how long it is the next time;
        # the least time of one: the first take longer.
        self._alone, self._until, self._next = _FEWEST, 0, _SHORTEST_REST
        self._tries, self._least = _TRIES, math.inf

    def __call__(self, reading: Reading, image: np.ndarray, out: np.ndarray) -> None:
        """out[0] = logits of the `opaque` ``image`` [1, numbers]."""
        try:
            packed = self._packed.pop()
        except IndexError:
            packed = self._pack(reading, aligned_zeros(self._size, self._params.dtype))
        if packed[0] is not reading:
            packed = self._pack(reading, packed[2])
        if self._threads == 1:
            infer_one.infer_one(team.ALONE, packed[1], image, out)
        else:
            self._share(packed[1], image, out)
        self._packed.append(packed)

    def _pack(self, reading: Reading, work: np.ndarray) -> tuple[Reading, np.ndarray, np.ndarray]:
        """A job for `infer_one`, with what it borrows."""
        of_gather = reading.address, reading.scale, *_ONLY
        return reading, infer_one.pack(*self._job, *of_gather, self._params, work), work

    def _share(self, job: np.ndarray, image: np.ndarray, out: np.ndarray) -> None:
        others, begun = team.of(self._threads), perf_counter_ns()
        rests = self._alone > 0 or begun < self._until
        shares = not rests and others.lock.acquire(False)  # or another image has them
        try:
            if shares:
                others.wake()
                infer_one.infer_one(others.state, job, image, out)
            else:
                infer_one.infer_one(team.ALONE, job, image, out)
        finally:
            if shares:
                others.lock.release()
        taken = perf_counter_ns() - begun
        if not shares:
            self._least, self._alone = min(taken, self._least), self._alone - 1
        elif taken < self._least:
            # Each image that was faster shortens the next rest.
            self._tries, self._next = _TRIES, max(_SHORTEST_REST, self._next * 15 // 16)
        else:
            self._tries -= 1
            if self._tries == 0 or taken > _TOO_LONG * self._least:
                self._alone, self._until = _FEWEST, begun + taken + self._next
                self._tries, self._least = _TRIES, math.inf
                self._next = min(2 * self._next, _LONGEST_REST)
