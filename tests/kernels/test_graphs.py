"""Random graphs of every kind of layer by the kernels, forward and backward, against the float64
oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import Add, BatchNorm2d, Conv2d, Flatten, Network, Passes
from minicnn.backends.cpu import Inference
from minicnn.backends.layout import lay_out
from minicnn.kernels.cpu import passes
from tests.graphs import graphs
from tests.kernels.geometries import GEOMETRIES
from tests.networks import (
    oracle_inference,
    oracle_steps,
    oracle_tensors,
    oracle_training,
    random_params,
)
from tests.reference import network as oracle

FROZEN = (
    [
        Conv2d(3, 1, bias=False, name="a"),
        BatchNorm2d(name="b"),
        Conv2d(3, 1, bias=False, inputs=("a",), name="c"),
        Add(inputs=("b", "c")),
        BatchNorm2d(),
        Flatten(),
    ],
    [BatchNorm2d(), Flatten()],
)


def error(found, expected):
    """The largest difference, relative to the largest number that is expected, or to 1."""
    return np.abs(found - expected).max(initial=0) / max(1.0, np.abs(expected).max(initial=0))


@settings(max_examples=200, deadline=None)
@given(
    network=graphs(),
    samples=st.integers(1, 5),
    seed=st.integers(0, 1000),
    fill=st.sampled_from([0.0, np.nan]),
)
def test_graphs_of_any_layers_equal_the_oracle(network, samples, seed, fill):
    assert_equals_oracle(network, samples, seed, fill)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_graphs_that_reach_what_random_ones_seldom_do_equal_the_oracle(name, samples):
    assert_equals_oracle(GEOMETRIES[name], samples, samples, np.nan)


def assert_equals_oracle(network, samples, seed, fill):
    rng = np.random.default_rng(seed)
    params = random_params(network, rng)
    x, dlogits = (
        rng.normal(size=(samples, *network.input_shape)),
        rng.normal(size=(samples, network.outputs)),
    )
    expected = oracle_training(network, params, x, dlogits, key=seed)
    passes = Passes(network, params, samples)
    passes.work[:] = fill
    assert error(passes.forward(x, key=seed), expected.values[-1]) < 1e-8
    assert error(passes.backward(dlogits, key=seed), expected.grads) < 1e-8
    logits = Inference(network, params, threads=1, batch_size=samples).logits(x, 1.0)
    assert error(logits, oracle_inference(network, params, x)) < 1e-8


@pytest.mark.parametrize("layers", FROZEN)
def test_frozen_statistics_equal_the_oracle(layers):
    network = Network((4, 3, 3), layers)
    rng = np.random.default_rng(5)
    params = random_params(network, rng)
    x, dlogits = rng.normal(size=(2, 4, 3, 3)), rng.normal(size=(2, network.outputs))
    steps, tensors = oracle_steps(network), oracle_tensors(network, params)
    values = oracle.forward(steps, x, tensors)
    plan = lay_out(network, 2, True, params.dtype, frozen=True)
    work, grads = np.full(plan.work_size, np.nan), np.zeros_like(params)
    logits, key = np.empty_like(dlogits), np.uint64(0)
    passes.forward_keep(plan.table, params, work, x, logits, key)
    passes.backward(plan.table, params, params.copy(), work, dlogits, grads, key)
    assert error(logits, values[-1]) < 1e-8
    for index, gradients in oracle.backward(steps, values, tensors, dlogits)[0].items():
        name, found = network.layer_names[index], network.unflatten(grads)
        for kind, expected in zip(("weight", "bias"), gradients, strict=False):
            assert f"{name}.{kind}" not in found or error(found[f"{name}.{kind}"], expected) < 1e-8
