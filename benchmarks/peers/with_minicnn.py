"""minicnn: training by the fused step, inference by the public model and inside a user's own
compiled loop."""

from collections.abc import Callable

import numpy as np
from numba import njit

import minicnn
from minicnn.backends import StepInputs
from minicnn.backends.cpu import TrainStep
from minicnn.plugins import find
from peers.jobs import InferenceJob, Peer, TrainingJob
from peers.layout import scaled


def training(job: TrainingJob, optimizer: str = "adam") -> Callable[[], float]:
    """A call that makes the next training step, from uint8 images in shuffled places to updated
    weights."""
    network, params = job.network, job.params.copy()
    rules = find("optimizer", optimizer), find("loss", "cross_entropy")
    step = TrainStep(network, params, job.batch, *rules, job.threads)
    state = minicnn.Optimizer(rules[0], network.flat_size)
    loss = minicnn.Loss(rules[1], network.outputs)
    places = np.random.default_rng(5).permutation(
        len(job.images)
    )  # image i of the job lies at places[i]
    images, labels = np.empty_like(job.images), np.empty_like(job.labels)
    images[places], labels[places] = job.images, job.labels
    rows = images.reshape(len(images), -1)
    orders = [
        np.ascontiguousarray(places[i * job.batch : (i + 1) * job.batch])
        for i in range(job.batches)
    ]
    data, count = loss.data(rows, labels, 1 / 255), 0

    def next_step() -> float:
        nonlocal count
        order = orders[count % len(orders)]
        count += 1
        batch = StepInputs(order, loss.divisor(labels[order]), count, state.scalars())
        return step.step(data, batch, state.slots).loss

    return next_step


def inference(job: InferenceJob) -> Callable[[], np.ndarray]:
    """`Model.logits` of the uint8 images, with all its checks: what a user calls."""
    classes = tuple(str(k) for k in range(job.network.outputs))
    model = minicnn.Model(job.network, job.params, classes, threads=job.threads)
    return lambda: model.logits(job.images)


forward = minicnn.forward  # compiled code needs the function itself, not the lazily loaded name


@njit(cache=True)
def _one_by_one(plan, params, work, images, logits):
    """A user's loop: one image after another through `minicnn.forward`."""
    for i in range(len(images)):
        forward(plan, params, work, images[i : i + 1], logits[i : i + 1])


def inference_in_njit_loop(job: InferenceJob) -> Callable[[], np.ndarray]:
    """The images of the job one by one in a compiled loop, on one thread."""
    classes = tuple(str(k) for k in range(job.network.outputs))
    model = minicnn.Model(job.network, job.params, classes)
    plan, params, work = model.njit_arguments()
    images = scaled(job.images)
    logits = np.empty((len(images), job.network.outputs), np.float32)

    def call() -> np.ndarray:
        _one_by_one(plan, params, work, images, logits)
        return logits

    return call


MINICNN = Peer("minicnn", training, inference, inference_in_njit_loop)
