"""Data-parallel training over MPI: every rank takes its shards of each batch.

A batch is cut into as many shards as there are ranks times threads, as the threads of one process do
it. Gradients are added in the order of the shards, so that R ranks of T threads give bitwise what one
rank of R · T threads gives:

    each rank sends piece q of its gradients to rank q, which adds all shards' pieces in their order
    (a reduce-scatter), and all gather the sums

With one thread a rank that moves 2 P (R − 1) / R numbers through each rank, as much as the ring of
MPI's own allreduce; with T threads (T + 1) P (R − 1) / R.

Source: Li et al.: PyTorch Distributed: Experiences on accelerating data parallel training, VLDB 2020;
Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in MPICH, 2005.
"""

import atexit
import functools
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from minicnn.data.reading import Reader, note, one_line
from minicnn.errors import MinicnnError, MissingExtraError, SettingError
from minicnn.training.shared import SharedReader, of_another
from minicnn.training.watch import Watch, launched

T = TypeVar("T")


@functools.cache
def connect() -> "Ranks":
    """The ranks of this launch, made once a process; raises `MinicnnError` for a wrong launch, and
    `MissingExtraError` without mpi4py."""
    # MPICH ends all, with a page of its own, where it reads the memory of a rank that is killed just
    # then. Without that, 422,000 numbers of two ranks are added up in 0.29 ms, not 0.18.
    os.environ.setdefault("MPIR_CVAR_CH4_CMA_ENABLE", "0")
    try:
        with warnings.catch_warnings(action="ignore"):  # a foreign mpirun is told below
            from mpi4py import MPI
    except ModuleNotFoundError:
        raise MissingExtraError("distributed training", "mpi4py", "mpi") from None
    except (ImportError, RuntimeError) as error:
        raise MinicnnError(
            f"mpi4py finds no MPI library ({one_line(error)}): pip install mpich, or load the one of "
            "this machine"
        ) from None
    if MPI.COMM_WORLD.size == 1 < launched()[1]:
        version = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise MinicnnError(
            f"{launched()[1]} processes were started, but to mpi4py's MPI ({version}) each is alone: "
            "start them with the mpirun of that MPI"
        )
    return Ranks(MPI)


class Ranks:
    """The processes that train together: all of ``mpi``'s world. All ranks call each method at the
    same time unless its docstring says otherwise."""

    def __init__(self, mpi: Any):
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank: int = self._comm.rank
        self.size: int = self._comm.size
        # Whether MPI takes memory of a GPU: by MPI 4.1's name, where the launcher was asked for it.
        kinds = self._comm.Get_info().Get("mpi_memory_alloc_kinds") or ""
        self.takes_gpu_memory = "cuda" in kinds
        self._node = self._comm.Split_type(mpi.COMM_TYPE_SHARED)
        self.node_rank: int = self._node.rank  # among those of this machine
        self.reduction, self.batch_statistics = "ordered", "global"
        self.asks_to_stop: Callable[[], bool] = lambda: False
        self.stopping = False  # whether a rank asked to stop before the last step; the same on all
        self._parts = np.zeros((1, self.size, 0))
        self._sums: list[Any] = []  # under way
        self._summed: int | None = None  # from here on
        self._watch = Watch(self._comm)
        before = sys.excepthook

        def hook(kind: Any, error: BaseException, where: Any) -> None:
            if self.rank == 0:
                before(kind, error, where)
            self._fail(error)

        sys.excepthook = hook
        atexit.register(self._close)

    def _close(self) -> None:
        self._watch.close()
        self._mpi.Finalize()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, self._mpi.Exception):
            self._watch.wait()
        text = " ".join(str(error).split())
        if not isinstance(error, MinicnnError):
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {text} ({place.filename}:{place.lineno})"
        interrupted = 130 if isinstance(error, KeyboardInterrupt) else 1
        self._watch.fail(text, getattr(error, "exit_status", interrupted))

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error inside ends all ranks: rank 0 raises its own error, and prints that of another
        rank as one line."""
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    # --- what ranks agree on ----------------------------------------------------------------------

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raise `SettingError`, on all ranks, if a rank has other ``facts`` than rank 0."""
        every = self._comm.allgather(dict(facts))
        for rank, others in enumerate(every):
            for name, value in every[0].items():
                if others[name] != value:
                    raise SettingError(
                        f"rank {rank} differs from rank 0 in {name}: {others[name]}, not {value}"
                    )

    def first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns on rank 0, which alone calls it, on all ranks; or its error."""
        return self._on(self._comm, function)

    def threads(self, wanted: int | None) -> int:
        """The threads of each rank; None is an equal share of the cores, the smallest of all machines.
        Says so where they are more than the cores."""
        sets = self._node.allgather(_cores())
        cores, on_node = len(set().union(*sets)), self._node.size
        share = max(1, min(len(_cores()), cores // on_node)) if wanted is None else wanted
        threads = self._comm.allreduce(share, self._mpi.MIN)
        above = self._comm.allreduce(threads * on_node - cores, self._mpi.MAX)
        if above > 0 and self.rank == 0:
            note(
                f"{self.size} ranks of {threads} thread{'s' * (threads > 1)} are {above} more on a machine than its cores, "
                "and wait for each other: take fewer"
            )
        return threads

    def one_by_one(self, function: Callable[[], T]) -> T:
        """``function()`` on one rank of each machine, and then on the others: what the first one
        compiles they find on the disk."""
        if self.node_rank == 0:
            result = function()
        self.wait(self._node)
        if self.node_rank > 0:
            result = function()
        self.wait()
        return result

    def wait(self, comm: Any = None, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait for all ranks (of ``comm``) without keeping a core busy, as MPI itself would."""
        barrier = (comm or self._comm).Ibarrier()
        while not barrier.Test():
            time.sleep(0.005)
            meanwhile()

    @contextmanager
    def tickets(self, meanwhile: Callable[[], object]) -> Iterator[Callable[[], int]]:
        """A function that gives 0, 1, 2 and so on, each number to one rank that calls it; rank 0 calls
        `go_on` from time to time. In the end all wait for each other, and call ``meanwhile``."""
        window = self._mpi.Win.Allocate(8, 8, comm=self._comm)
        np.frombuffer(window.tomemory(), np.int64)[:] = 0
        self._comm.Barrier()
        one, number = np.ones(1, np.int64), np.zeros(1, np.int64)

        def take() -> int:
            window.Lock(0)
            window.Fetch_and_op(one, number, 0)
            window.Unlock(0)
            return int(number[0])

        yield take
        self.wait(meanwhile=meanwhile)
        window.Free()

    def go_on(self) -> None:
        """Let MPI make progress and answer other ranks."""
        self._comm.Iprobe()

    # --- data -------------------------------------------------------------------------------------

    def share(self, load: Callable[[Reader], T]) -> T:
        """What ``load`` returns, which one rank of each machine calls with a reader that all of them
        serve. The arrays in it lie in memory that the ranks of the machine share, and must not be
        changed."""
        reader = SharedReader(self._mpi, self._node)
        if self.node_rank > 0:
            reader.serve()
        value: T = reader.load(*self._on(self._node, lambda: reader.dump(load)))
        return value

    def _on(self, comm: Any, function: Callable[[], T]) -> T:
        error, given = None, None
        if comm.rank == 0:
            try:
                given = function()
            except MinicnnError as raised:
                error = raised
        failure = None if error is None else (str(error), error.exit_status)
        for rank, other in enumerate(self._comm.allgather(failure)):
            if other is not None:
                text, status = other
                raise error or of_another(f"{text} (on rank {rank})", status)
        return comm.bcast(given)

    # --- numbers ----------------------------------------------------------------------------------

    def starts(self, count: int) -> list[int]:
        """Where the parts of ``count`` things begin that the ranks have, and where the last ends."""
        return [rank * count // self.size for rank in range(self.size + 1)]

    def gather_rows(self, array: np.ndarray, starts: Sequence[int]) -> None:
        """Fill in the other ranks' rows; rank r has the rows ``starts[r]`` to ``starts[r + 1]``."""
        row = math.prod(array.shape[1:])
        counts, places = zip(
            *((row * (end - begin), row * begin) for begin, end in pairwise(starts)), strict=True
        )
        kind = self._mpi.FLOAT if array.dtype == np.float32 else self._mpi.DOUBLE
        self._comm.Allgatherv(self._mpi.IN_PLACE, [array, counts, places, kind])

    def average(self, array: np.ndarray) -> None:
        """array ← its mean over the ranks, computed in float64."""
        total = array.astype(np.float64)
        self._comm.Allreduce(self._mpi.IN_PLACE, total)
        array[:] = total / self.size

    def begin_sum(self, grads: np.ndarray, begin: int) -> None:
        """Begin to add up, as MPI does, the gradients from ``begin`` on that are not under way yet;
        they must not be touched before `add_up`."""
        total = grads[0, begin : self._summed]
        for row in grads[1:]:
            total += row[begin : self._summed]
        self._summed = begin
        self._sums.append(self._comm.Iallreduce(self._mpi.IN_PLACE, total))
        self._mpi.Request.Testall(self._sums)  # MPI goes on while it is called

    def add_up(self, grads: np.ndarray, starts: Sequence[int]) -> None:
        """grads[0] ← the sum of all shards' gradients; ``grads`` [starts[r + 1] − starts[r], P] are
        those of rank r, and P is a multiple of the number of ranks."""
        if self.reduction == "fast":
            for row in grads[1:]:
                grads[0] += row
            self._comm.Allreduce(self._mpi.IN_PLACE, grads[0])
            return
        if self.reduction == "overlapped":
            self.begin_sum(grads, 0)
            self._mpi.Request.Waitall(self._sums)
            self._sums, self._summed = [], None
            return
        counts, piece = (
            [end - begin for begin, end in pairwise(starts)],
            grads.shape[1] // self.size,
        )
        if self._parts.shape != (max(counts), self.size, piece):
            self._parts = np.zeros((max(counts), self.size, piece), grads.dtype)
        for k, part in enumerate(self._parts):  # of a rank that has no more shards, its last again
            self._comm.Alltoall(grads[min(k, len(grads) - 1)], part)
        total = grads[0, self.rank * piece : (self.rank + 1) * piece]
        total[:] = self._parts[0, 0]
        for rank, count in enumerate(counts):
            for k in range(rank == 0, count):
                total += self._parts[k, rank]
        self._comm.Allgather(self._mpi.IN_PLACE, grads[0])

    def add_up_on_gpu(self, grads: Any, parts: Any, add: Callable[[], None]) -> None:
        """`add_up` of one shard a rank, ``grads`` [P], in the memory of a GPU. ``parts`` [R, P / R]
        receives all shards' pieces of this rank, and ``add`` () leaves their sum in its place in
        ``grads``."""
        if self.reduction != "ordered":
            self._comm.Allreduce(self._mpi.IN_PLACE, grads)
            return
        self._comm.Alltoall(grads, parts)
        add()
        self._comm.Allgather(self._mpi.IN_PLACE, grads)

    def not_finite(self) -> list[int]:
        """The ranks that had a gradient that is not finite, in the last step of ordered reduction."""
        found = ~np.isfinite(self._parts).all(axis=(0, 2))
        self._comm.Allreduce(self._mpi.IN_PLACE, found, self._mpi.LOR)
        return np.flatnonzero(found).tolist()


class SharedInference:
    """The forward passes of a backend's `Inference`, each rank some of the images."""

    def __init__(self, inference: Any, ranks: Ranks):
        self.params, self._inference, self._ranks = inference.params, inference, ranks

    def logits(
        self, images: np.ndarray, scale: float | np.ndarray, order: np.ndarray | None = None
    ) -> np.ndarray:
        """logits [N, outputs] of ``images[order]``, on all ranks; of ``images`` themselves where there
        is no order, which every rank computes."""
        logits = self._inference.logits
        if order is None:
            return logits(images, scale)
        starts = self._ranks.starts(len(order))
        begin, end = starts[self._ranks.rank : self._ranks.rank + 2]
        own = logits(images, scale, order[begin:end])
        out = np.empty((len(order), own.shape[1]), own.dtype)
        out[begin:end] = own
        self._ranks.gather_rows(out, starts)
        return out


def _cores() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
