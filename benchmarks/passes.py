"""Rows for whole networks: training steps, inference by batches and image by image, and the second
thread."""

from collections.abc import Callable, Iterable

import numpy as np
from floor import inference_work, training_work
from networks import NETWORKS, images_for, initial_weights
from peers import with_minicnn
from peers.jobs import InferenceJob, TrainingJob
from rows import Context, Row, RowFailed, Task
from timing import Contestant, measure, spread

MINICNN = with_minicnn.MINICNN.name
_CHECKED_STEPS = 5
_LOOP_IMAGES = 64  # images of one call of the user's compiled loop


def tasks(threads: list[int]) -> list[Task]:
    """All rows of whole networks."""
    found = []
    most = max(threads)
    for count in threads:
        for name in NETWORKS:
            for batch in (16, 64, 256):
                headline = count == most and (batch == 64 or (name, batch) == ("LeNet-5", 16))
                found.append(
                    Task(
                        "training",
                        f"{name}, batch {batch}",
                        count,
                        _training(name, batch, count),
                        headline,
                    )
                )
    for count in threads:
        for name in NETWORKS:
            for batch in (1, 64, 1024):
                headline = count == most and name != "colour" and (batch > 1 or name == "LeNet-5")
                title = f"{name}, batch {batch}" if batch > 1 else f"{name}, one image from Python"
                found.append(
                    Task("inference", title, count, _inference(name, batch, count), headline)
                )
            headline = count == most and name == "LeNet-5"
            title = f"{name}, one image in an @njit loop"
            found.append(Task("inference", title, count, _inference_in_loop(name, count), headline))
    if most > 1:
        for name in NETWORKS:
            title = f"{name}, batch 64"
            found.append(Task("second thread", title, 2, _second_thread(name), name == "LeNet-5"))
    return found


def _training(name: str, batch: int, threads: int) -> Callable[[Context], Row]:
    def run(context: Context) -> Row:
        images, labels = images_for(NETWORKS[name].input_shape)
        job = TrainingJob(NETWORKS[name], initial_weights(name), images, labels, batch, threads)
        contestants, losses = [], {}
        for peer in (with_minicnn.MINICNN, *context.peers):
            step = peer.training(job)
            if step is not None:
                losses[peer.name] = np.array([step() for _ in range(_CHECKED_STEPS)])
                contestants.append(Contestant(peer.name, step, batch))
        _check_losses(context, name, losses, relative=1e-3)
        row = Row("training", f"{name}, batch {batch}", threads)
        return _compare(context, row, contestants, training_work(NETWORKS[name]))

    return run


def _inference(name: str, batch: int, threads: int) -> Callable[[Context], Row]:
    def run(context: Context) -> Row:
        title = f"{name}, batch {batch}" if batch > 1 else f"{name}, one image from Python"
        job = _inference_job(name, batch, threads)
        calls = (
            (peer.name, job, peer.inference(job)) for peer in (with_minicnn.MINICNN, *context.peers)
        )
        return _infer(context, Row("inference", title, threads), calls)

    return run


def _inference_in_loop(name: str, threads: int) -> Callable[[Context], Row]:
    """minicnn takes image after image in compiled code, on one thread; the peers one image a call,
    from Python."""

    def run(context: Context) -> Row:
        row = Row("inference", f"{name}, one image in an @njit loop", threads)
        many, one = _inference_job(name, _LOOP_IMAGES, threads), _inference_job(name, 1, threads)
        calls = (
            (peer.name, many, peer.in_njit_loop(many))
            if peer.in_njit_loop
            else (peer.name, one, peer.inference(one))
            for peer in (with_minicnn.MINICNN, *context.peers)
        )
        return _infer(context, row, calls)

    return run


def _inference_job(name: str, batch: int, threads: int) -> InferenceJob:
    images, _ = images_for(NETWORKS[name].input_shape)
    return InferenceJob(NETWORKS[name], initial_weights(name), images[:batch], threads)


def _infer(
    context: Context,
    row: Row,
    calls: Iterable[tuple[str, InferenceJob, Callable[[], np.ndarray] | None]],
) -> Row:
    contestants, logits, work = [], {}, 0
    for name, job, call in calls:
        if call is not None:
            logits[name], work = call().copy(), inference_work(job.network)
            contestants.append(Contestant(name, call, len(job.images)))
    least = min(map(len, logits.values()))
    heads = {name: found[:least] for name, found in logits.items()}
    _check(context, heads, "logits", relative=1e-4)
    return _compare(context, row, contestants, work)


def _second_thread(name: str) -> Callable[[Context], Row]:
    def run(context: Context) -> Row:
        images, labels = images_for(NETWORKS[name].input_shape)
        network, params = NETWORKS[name], initial_weights(name)
        contestants, losses = [], {}
        for threads in (2, 1):
            step = with_minicnn.training(TrainingJob(network, params, images, labels, 64, threads))
            title = MINICNN if threads == 2 else "minicnn, one thread"
            losses[title] = np.array([step() for _ in range(_CHECKED_STEPS)])
            contestants.append(Contestant(title, step, 64))
        _check_losses(context, name, losses, relative=1e-4)
        seconds = measure(contestants, context.effort)
        row = Row("second thread", f"{name}, batch 64", 2)
        row.best_peer = "minicnn, one thread"
        row.faster_than[row.best_peer] = spread(seconds[row.best_peer] / seconds[MINICNN])
        return row

    return run


def _check_losses(
    context: Context, name: str, losses: dict[str, np.ndarray], relative: float
) -> None:
    """The first losses, before any step, and those after it. With batch normalization Adam, which
    divides each gradient by its size, carries the rounding of the smallest into the weights:
    mobilenet-v1-025 in PyTorch differs from itself in another layout by 3% after five steps, so a
    tenth is asked for. `losses_equal_pytorch.py` looks closer."""
    first = {peer: found[:1] for peer, found in losses.items()}
    _check(context, first, "first losses", relative=1e-4)
    # Another precision is another way down after the first step.
    losses = {peer: found for peer, found in losses.items() if not _rounding(context, peer)}
    is_normalized = any(spec.kind == "state" for spec in NETWORKS[name].parameters)
    relative = 0.1 if is_normalized else relative
    _check(context, losses, "losses of the first steps", relative=relative)


def _check(context: Context, results: dict[str, np.ndarray], what: str, relative: float) -> None:
    """Raise `RowFailed` unless all computed what minicnn did, relative to the largest number."""
    ours = results[MINICNN]
    for name, theirs in results.items():
        difference = float(np.max(np.abs(ours - theirs)) / np.max(np.abs(ours)))
        if not difference <= max(relative, _rounding(context, name)):  # catches not-a-number too
            raise RowFailed(f"{what} of minicnn and {name} differ by a relative {difference:.1e}")


def _compare(context: Context, row: Row, contestants: list[Contestant], work: int) -> Row:
    """Time all and the tile in turns; fill in the ratios."""
    threads = (
        1 if "@njit" in row.name else row.threads
    )  # the loop has one thread, whatever the peers have
    seconds = measure([*contestants, context.tile.contestant(threads)], context.effort)
    ours = seconds[MINICNN]
    row.over_floor = spread(ours / (work * seconds.pop("tile")))
    row.microseconds = {name: float(np.median(values)) * 1e6 for name, values in seconds.items()}
    row.faster_than = {
        name: spread(values / ours) for name, values in seconds.items() if name != MINICNN
    }
    row.best_peer = _best(context, row)
    return row


def _best(context: Context, row: Row) -> str | None:
    """The peer with the least time, of those that compute in float32."""
    exact = [name for name in row.faster_than if not _rounding(context, name)]
    return min(exact, key=row.microseconds.__getitem__, default=None)


def _rounding(context: Context, name: str) -> float:
    return sum(peer.rounding for peer in context.peers if peer.name == name)
