"""Images in memory that the ranks of a machine share, each of which reads its part of them.

Rank 0 of the machine opens the files and says what is to be filled; the others do their jobs until it
has all.
"""

import math
import os
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from minicnn.data.reading import Job, Reader
from minicnn.errors import MinicnnError


class SharedReader(Reader):
    """Reads one value with the ranks of ``node``, an mpi4py communicator of a machine."""

    def __init__(self, mpi: Any, node: Any):
        self._mpi, self._node = mpi, node
        self._windows: list[tuple[Any, np.ndarray]] = []

    def dump(self, load: Callable[[Reader], Any]) -> tuple[bytes, list[Any]]:
        """On rank 0: what ``load`` returns, which this reader serves, for `load` on all."""
        try:
            buffers: list[np.ndarray] = []

            def keep(buffer: pickle.PickleBuffer) -> None:
                buffers.append(np.frombuffer(buffer.raw(), np.uint8))

            text = pickle.dumps(load(self), 5, buffer_callback=keep)
            return text, [(*self._place(buffer), buffer.nbytes) for buffer in buffers]
        finally:
            self._node.bcast(None)

    def serve(self) -> None:
        """On the other ranks: do the jobs of `dump`."""
        while (job := self._node.bcast(None)) is not None:
            self._fill(*job)

    def load(self, text: bytes, places: list[Any]) -> Any:
        """The value, whose arrays lie where `dump` says."""
        pieces = [self._windows[k][1][begin : begin + size].data for k, begin, size in places]
        for k in {*range(len(self._windows))}.difference(k for k, _, _ in places):
            self._windows[k][0].Free()  # another array was made of it
        return pickle.loads(text, buffers=pieces)

    def fill(
        self, shape: Sequence[int], dtype: Any, part: Callable[[int, int], Job], split: bool = True
    ) -> np.ndarray:
        """See `Reader`; each rank of the machine does one of the jobs."""
        size, room = math.prod(shape) * np.dtype(dtype).itemsize, _shared_room()
        if size > room:
            raise MinicnnError(
                f"ranks share images in /dev/shm, which has room for {room / 1e6:.0f} MB, and these take "
                f"{size / 1e6:.0f}: enlarge it (docker run --shm-size), or start one rank of more threads"
            )
        ranks, parts = self._node.size, self._node.size if split else 1
        starts = [min(k * shape[0] // parts, shape[0]) for k in range(ranks + 1)]
        self._node.bcast((shape, dtype, starts))
        jobs = [part(*ends) for ends in pairwise(starts[: parts + 1])]
        return self._fill(shape, dtype, starts, [*jobs, *[None] * (ranks - parts)])

    def _fill(
        self,
        shape: Sequence[int],
        dtype: Any,
        starts: Sequence[int],
        jobs: Sequence[Job | None] | None = None,
    ) -> np.ndarray:
        """An array of shared memory, and in it what this rank's job has to fill; rank 0 of the machine
        has the ``jobs``, and raises what went wrong with one of them."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        window = self._mpi.Win.Allocate_shared(0 if jobs is None else size, 1, comm=self._node)
        memory = np.asarray(memoryview(window.Shared_query(0)[0]))
        self._windows.append((window, memory))
        array = memory.view(dtype).reshape(shape)
        job, error = self._node.scatter(jobs and [None, *jobs[1:]]), None
        job = jobs[0] if jobs else job
        try:
            if job is not None:
                job(array[slice(*starts[self._node.rank :][:2])])
        except Exception as raised:
            if jobs is None and not isinstance(raised, MinicnnError):
                raise
            error = raised
        failure = error and (str(error), getattr(error, "exit_status", 1))
        every = self._node.gather(failure) or ()
        if jobs and error:
            raise error
        for other in filter(None, every):
            raise of_another(*other)
        return array

    def _place(self, buffer: np.ndarray) -> tuple[int, int]:
        """The number of the window that ``buffer`` lies in, or is copied to, and where in it."""
        for k, (_, memory) in enumerate(self._windows):
            begin = buffer.ctypes.data - memory.ctypes.data
            if 0 <= begin < memory.nbytes:
                return k, begin
        self.fill(buffer.shape, np.uint8, lambda *_: lambda to: np.copyto(to, buffer), split=False)
        return len(self._windows) - 1, 0


def of_another(text: str, status: int) -> MinicnnError:
    """The error of another rank."""
    error = MinicnnError(text)
    error.exit_status = status
    return error


def _shared_room() -> float:
    """The bytes that may yet be shared, where the system says so."""
    try:
        system = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return math.inf
    return float(system.f_bavail * system.f_frsize)
