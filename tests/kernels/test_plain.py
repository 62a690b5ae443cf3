"""Each fast kernel against the plain loop in its own file, on random graphs and on those that reach
what these seldom do."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU
from minicnn.backends.layout import lay_out
from minicnn.kernels.cpu import passes
from minicnn.program.operations import OPERATIONS
from tests.graphs import graphs
from tests.kernels.geometries import GEOMETRIES
from tests.networks import random_params

# Kernels whose plain loop is another's, and those that are plain loops themselves.
OF_ANOTHER = dict.fromkeys(("grouped_conv2d", "depthwise_conv2d", "winograd_conv2d"), "conv2d")
PLAIN = {
    "add",
    "batch_statistics",
    "concat",
    "dropout",
    "group_norm",
    "identity",
    "multiply",
    "prelu",
    "scale_shift",
    "softmax",
}
MORE = {
    "grey planes": Network((14, 22, 1), [Conv2d(3, 5), MaxPool2d(2), ReLU(), Flatten(), Dense(2)]),
    "Winograd": Network((12, 15, 32), [Conv2d(40, 3, padding="same"), Flatten()]),
}
seen = set()


def plain_of(operation):
    module = OPERATIONS[operation].module if operation in OPERATIONS else "rule"
    if module == "rule" or module in PLAIN:
        return None
    module = OF_ANOTHER.get(module, module)
    return importlib.import_module(f"minicnn.kernels.cpu.{module}").plain


def test_every_kernel_has_a_plain_loop_or_is_one():
    assert all(
        plain_of(name) or row.rule or row.module in PLAIN for name, row in OPERATIONS.items()
    )


def assert_equals_plain(network, samples, seed, dtype=np.float64, tolerance=1e-12, keep=True):
    rng, key = np.random.default_rng(seed), np.uint64(seed)
    params = random_params(network, rng).astype(dtype)
    plan = lay_out(network, samples, True, np.dtype(dtype), keep=keep)
    work = np.full(plan.work_size, np.nan, dtype)
    x = rng.normal(size=(samples, *network.input_shape)).astype(dtype)
    passes.forward_keep(
        plan.table, params, work, x, np.empty((samples, network.outputs), dtype), key
    )
    for index, node in enumerate(plan.nodes if keep else plan.nodes[:1]):
        if (plain := plain_of(node.operation)) is None:
            continue
        record, seen_here = plan.table[index : index + 1], work.copy()
        y = slice(int(record["y"][0]), int(record["y"][0] + samples * record["output_size"][0]))
        seen_here[y] = np.nan
        plain(record, params, seen_here, samples, key, 0)
        scale = max(1.0, np.abs(work[y]).max(initial=0))
        np.testing.assert_allclose(seen_here[y], work[y], rtol=0, atol=tolerance * scale)
        seen.add(node.operation)


@settings(max_examples=60, deadline=None)
@given(network=graphs(), samples=st.integers(1, 4), seed=st.integers(0, 1000))
def test_on_random_graphs(network, samples, seed):
    assert_equals_plain(network, samples, seed)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_on_graphs_that_random_ones_seldom_are(name):
    assert_equals_plain(GEOMETRIES[name], 2, 1)


@pytest.mark.parametrize("name", MORE)
def test_on_those_of_vectors(name):
    assert_equals_plain(MORE[name], 2, 1, np.float32, 1e-5, keep=False)
    fused = {"grey planes": "conv_pool_grey", "Winograd": "winograd_conv2d"}
    assert fused[name] in seen
