"""Random graphs of every kind of layer by the kernels, forward and backward, against the float64
oracle."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import Passes
from minicnn.backends.cpu import Inference
from tests.graphs import graphs
from tests.networks import oracle_inference, oracle_training, random_params


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
