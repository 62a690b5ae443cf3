"""The other process of `revision.py`: `child_revision.py FOLDER CONNECTION`.

Its requests are ("prepare", what), ("call", what) and ("time", what, count), where what is (kind,
network, batch, threads); its answers True, the result, seconds, or a text that says what failed.
"""

# ruff: noqa: E402  # the folder comes first

import sys
from multiprocessing.connection import Connection
from pathlib import Path

folder = Path(sys.argv[1])
connection = Connection(int(sys.argv[2]))
sys.path[0] = str(folder / "source" / "benchmarks")

import environment  # noqa: F401  isort: skip  # of that revision, as all that follows
import timing
from networks import NETWORKS, images_for, initial_weights
from peers import with_minicnn
from peers.jobs import InferenceJob, TrainingJob

import minicnn

if folder not in Path(minicnn.__file__).parents:
    sys.exit(f"{minicnn.__file__} was imported and not the package in {folder}")

calls = {}


def prepare(kind, name, batch, threads):
    """The call of one row; earlier ones are forgotten."""
    network, params = NETWORKS[name], initial_weights(name)
    images, labels = images_for(network.input_shape)
    calls.clear()
    if kind == "training":
        job = TrainingJob(network, params, images, labels, batch, threads)
    else:
        job = InferenceJob(network, params, images[:batch], threads)
    calls[kind, name, batch, threads] = getattr(with_minicnn, kind)(job)
    return True


def timed(call, count):
    """Seconds of ``count`` calls; the answer waits until this process's threads sleep."""
    seconds = timing._run(call, count)
    timing._wait_for_sleep()
    return seconds


while True:
    try:
        verb, what, *rest = connection.recv()
    except EOFError:
        break
    try:
        if verb == "prepare":
            answer = prepare(*what)
        else:
            answer = calls[what]() if verb == "call" else timed(calls[what], *rest)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    connection.send(answer)
