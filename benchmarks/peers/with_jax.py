"""JAX on the CPU: one jitted function a step, in minicnn's own layouts (NHWC, HWIO), Adam written
out.

JAX takes its number of threads from the machine when it starts and cannot change it afterwards: it
takes part in rows with as many threads as the machine has cores, and in no others.
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU
from peers.jobs import InferenceJob, Peer, TrainingJob
from peers.layout import scaled

Weights = dict[str, jax.Array]


def _forward(network: Network, weights: Weights, x: jax.Array) -> jax.Array:
    for name, layer in zip(network.layer_names, network.layers, strict=True):
        if isinstance(layer, Conv2d):
            padding = "SAME" if layer.padding == "same" else "VALID"
            x = lax.conv_general_dilated(
                x,
                weights[f"{name}.weight"],
                tuple(layer.stride),
                padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = x + weights[f"{name}.bias"]
        elif isinstance(layer, Dense):
            x = x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
        elif isinstance(layer, MaxPool2d):
            # Faster on the CPU than reduce_window, whose gradient is a slow scatter. All windows
            # here are disjoint.
            n, height, width, channels = x.shape
            rows, columns = layer.kernel_size
            x = x.reshape(n, height // rows, rows, width // columns, columns, channels).max(
                axis=(2, 4)
            )
        elif isinstance(layer, ReLU):
            x = jax.nn.relu(x)
        elif isinstance(layer, Flatten):
            x = x.reshape(len(x), -1)
    return x


def _can(job: TrainingJob | InferenceJob) -> bool:
    """A chain of the layers above, and all the machine's threads."""
    known = (Conv2d, Dense, MaxPool2d, ReLU, Flatten)
    return job.threads == os.cpu_count() and all(
        isinstance(layer, known) for layer in job.network.layers
    )


def _weights(network: Network, params: np.ndarray) -> Weights:
    return {name: jnp.array(tensor) for name, tensor in network.unflatten(params).items()}


def training(job: TrainingJob) -> Callable[[], float] | None:
    """A call that makes the next training step on ready-made float32 batches."""
    if not _can(job):
        return None

    def mean_loss(weights: Weights, x: jax.Array, labels: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(_forward(job.network, weights, x))
        return -jnp.take_along_axis(logs, labels[:, None], axis=1).mean()

    def adam(state: tuple, x: jax.Array, labels: jax.Array) -> tuple:
        weights, means, squares, step = state
        loss, grads = jax.value_and_grad(mean_loss)(weights, x, labels)
        step = step + 1
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, grads)
        squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, squares, grads)
        size, root = 1e-3 / (1 - 0.9**step), jnp.sqrt(1 - 0.999**step)
        weights = jax.tree.map(
            lambda w, m, v: w - size * m / (jnp.sqrt(v) / root + 1e-8), weights, means, squares
        )
        return (weights, means, squares, step), loss

    step = jax.jit(adam, donate_argnums=0)
    weights = _weights(job.network, job.params)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = (weights, zeros, jax.tree.map(jnp.zeros_like, weights), jnp.float32(0))
    cuts = [slice(i * job.batch, (i + 1) * job.batch) for i in range(job.batches)]
    x = scaled(job.images)
    batches = [(jnp.array(x[cut]), jnp.array(job.labels[cut].astype(np.int32))) for cut in cuts]
    count = 0

    def next_step() -> float:
        nonlocal count, state
        state, loss = step(state, *batches[count % len(batches)])
        count += 1
        return float(loss)

    return next_step


def inference(job: InferenceJob) -> Callable[[], np.ndarray] | None:
    """The jitted forward pass on a ready-made float32 batch."""
    if not _can(job):
        return None
    function = jax.jit(lambda weights, x: _forward(job.network, weights, x))
    weights, x = _weights(job.network, job.params), jnp.array(scaled(job.images))
    return lambda: np.asarray(function(weights, x))


def peers() -> list[Peer]:
    """One setting."""
    return [Peer("jax jit", training, inference)]
