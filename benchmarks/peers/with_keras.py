"""TensorFlow through Keras, each step one ``tf.function``, plain or compiled by XLA, with Keras'
Adam.

Its threads are those of the machine and cannot be changed once it has started: it takes part in
rows with as many threads as the machine has cores, and in no others.
"""

import os
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from peers.jobs import InferenceJob, Peer, TrainingJob
from peers.keras_graph import to_keras
from peers.layout import scaled


def training(xla: bool, job: TrainingJob) -> Callable[[], float] | None:
    """A call that makes the next training step on ready-made float32 batches."""
    if job.threads != os.cpu_count():
        return None
    model, optimizer = to_keras(job.network, job.params), keras.optimizers.Adam(epsilon=1e-8)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=xla)
    def step(x, labels):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(grads, model.trainable_variables)
        return loss

    cuts = [slice(i * job.batch, (i + 1) * job.batch) for i in range(job.batches)]
    x = scaled(job.images)
    batches = [(tf.constant(x[cut]), tf.constant(job.labels[cut])) for cut in cuts]
    count = 0

    def next_step() -> float:
        nonlocal count
        loss = step(*batches[count % len(batches)])
        count += 1
        return float(loss)

    return next_step


def inference(xla: bool, job: InferenceJob) -> Callable[[], np.ndarray] | None:
    """The model on a ready-made float32 batch."""
    if job.threads != os.cpu_count():
        return None
    model, x = to_keras(job.network, job.params), tf.constant(scaled(job.images))
    function = tf.function(lambda x: model(x, training=False), jit_compile=xla)
    return lambda: function(x).numpy()


def peers() -> list[Peer]:
    """Two settings, of which either may be the faster one."""
    return [
        Peer(name, partial(training, xla), partial(inference, xla))
        for name, xla in (("keras", False), ("keras xla", True))
    ]
