"""Convolutions of 3×3 by Winograd's tiles: against the oracle, and where they are chosen."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minicnn import Conv2d, Dense, Flatten, Model, Network, ReLU, forward
from minicnn.backends.cpu import Inference
from minicnn.backends.layout import lay_out
from minicnn.errors import NetworkError
from minicnn.network.layers import Add
from minicnn.program import graph
from minicnn.program.planner import make_plan
from tests.kernels.test_passes import assert_equals_oracle, run_passes
from tests.networks import oracle_passes, random_params


@pytest.fixture
def everywhere(monkeypatch):
    """Whatever is 3×3 with stride 1 goes by tiles."""
    choose_everywhere(monkeypatch)


def choose_everywhere(patch):
    patch.setattr(graph, "WINOGRAD_CHANNELS", 1)
    patch.setattr(graph, "WINOGRAD_OUTPUTS", {True: 1, False: 1})
    patch.setattr(graph, "WINOGRAD_INSIDE", 0)


def operations(network, lanes=8, training=True):
    return [node.operation for node in make_plan(network, 2, training, lanes).nodes]


@given(
    shape=st.tuples(st.integers(1, 15), st.integers(1, 15), st.integers(1, 20)),
    filters=st.integers(1, 20),
    padding=st.one_of(st.just("same"), st.tuples(*[st.integers(0, 4)] * 4)),
    samples=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(
    shape=(3, 4, 3), filters=2, padding=(6, 4, 5, 6), samples=1, bias=True, seed=0
)  # tiles that read padding alone
@example(
    shape=(4, 7, 20), filters=18, padding=(1, 1, 1, 1), samples=4, bias=True, seed=0
)  # a last panel that is narrower
@settings(max_examples=40, deadline=None)
def test_tiles_equal_the_oracle(shape, filters, padding, samples, bias, seed):
    with pytest.MonkeyPatch.context() as patch:
        choose_everywhere(patch)
        conv = Conv2d(filters, 3, padding=padding, bias=bias)
        try:  # the first layer makes the second compute dx
            network = Network(shape, [Conv2d(shape[2], 1), conv, Flatten()])
        except NetworkError:
            assume(False)
        assert operations(network)[1] == "winograd_conv2d"
        assert_equals_oracle(network, samples, seed=seed)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_value_with_several_readers_gets_the_sum_of_their_gradients(everywhere, dtype):
    layers = [
        Conv2d(9, 3, padding=1, name="a"),
        Conv2d(5, 3, padding=1, name="b"),
        Conv2d(5, 3, padding=1, inputs=("a",), name="c"),
        Add(inputs=("b", "c")),
        Flatten(),
    ]
    network = Network((14, 7, 8), layers)
    assert operations(network).count("winograd_conv2d") == 3
    assert_equals_oracle(network, dtype=dtype, tolerance=1e-10 if dtype == np.float64 else 1e-4)


def test_the_first_layer_by_tiles_equals_the_oracle(everywhere):
    network = Network((5, 6, 2), [Conv2d(3, 3), Flatten()])
    assert operations(network)[0] == "winograd_conv2d"
    assert_equals_oracle(network)


def test_the_error_in_float32_is_what_the_kernel_says():
    network = Network((16, 16, 64), [Conv2d(64, 3, padding=1), Conv2d(64, 3, padding=1), Flatten()])
    assert operations(network)[:2] == ["winograd_conv2d"] * 2
    rng = np.random.default_rng(1)
    params = random_params(network, rng, np.float32)
    x = rng.normal(size=(2, *network.input_shape)).astype(np.float32)
    dlogits = rng.normal(size=(2, network.outputs)).astype(np.float32)
    for found, true in zip(
        run_passes(network, params, x, dlogits),
        oracle_passes(network, params, x, dlogits),
        strict=True,
    ):
        assert np.abs(found - true).max() < 0.8e-6 * np.abs(true).max()


@pytest.mark.parametrize(("channels", "error"), [(16, 3.3e-7), (64, 2.6e-7), (256, 4.3e-7)])
def test_sums_over_many_channels_err_little_more_than_over_few(channels, error):
    network = Network((12, 12, channels), [Conv2d(channels, 3, padding=1), Flatten()])
    assert operations(network)[0] == "winograd_conv2d"
    rng = np.random.default_rng(1)
    params = random_params(network, rng, np.float32)
    x = np.maximum(rng.normal(size=(2, *network.input_shape)), 0).astype(np.float32)
    found, _ = run_passes(network, params, x, np.zeros((2, network.outputs), np.float32))
    true, _ = oracle_passes(network, params, x, np.zeros((2, network.outputs)))
    assert np.sqrt(np.square(found - true).mean() / np.square(true).mean()) < error


def test_gradients_equal_numeric_derivatives(everywhere):
    network = Network((6, 5, 2), [Conv2d(3, 3, padding=1), Conv2d(2, 3), Flatten(), Dense(2)])
    rng = np.random.default_rng(3)
    params = random_params(network, rng)
    x, r = rng.normal(size=(2, 6, 5, 2)), rng.normal(size=(2, 2))
    _, grads = run_passes(network, params, x, r)
    for index in range(network.flat_size):
        step = np.zeros_like(params)
        step[index] = 1e-6
        high, low = (
            (run_passes(network, params + sign * step, x, r)[0] * r).sum() for sign in (1, -1)
        )
        numeric = (high - low) / 2e-6
        assert abs(grads[index] - numeric) < 1e-6 * max(1, abs(numeric)), index


def test_inference_is_the_same_on_every_number_of_threads():
    network = Network((12, 13, 32), [Conv2d(32, 3, padding=1), ReLU(), Flatten(), Dense(3)])
    rng = np.random.default_rng(0)
    params = random_params(network, rng, np.float32)
    images = rng.normal(size=(37, *network.input_shape)).astype(np.float32)
    assert "winograd_conv2d" in [n.operation for n in Inference(network, params, 1).plan.nodes]
    one, two = (Inference(network, params, threads).logits(images, 1.0) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("shape", "conv", "chosen"),
    [
        ((32, 32, 64), Conv2d(64, 3, padding=1), True),
        ((14, 14, 32), Conv2d(64, 3, padding="same"), True),
        ((8, 8, 128), Conv2d(128, 3, padding=1), True),
        ((7, 7, 64), Conv2d(64, 3, padding=1), True),
        ((4, 4, 32), Conv2d(32, 3, padding=1), True),
        ((32, 32, 16), Conv2d(16, 3, padding=1), True),
        ((32, 32, 16), Conv2d(12, 3, padding=1), False),
        ((5, 5, 64), Conv2d(64, 3, padding=1), False),
        ((3, 3, 64), Conv2d(64, 3, padding=1), False),
        ((9, 9, 64), Conv2d(64, 3, padding=1), False),  # tiles of 12×12
        ((28, 28, 1), Conv2d(32, 3, padding=1), False),
        ((32, 32, 64), Conv2d(64, 3, 2, padding=1), False),
        ((32, 32, 64), Conv2d(64, 3, dilation=2), False),
        ((32, 32, 64), Conv2d(64, 5), False),
        ((32, 32, 64), Conv2d(64, 3, groups=2), False),
    ],
    ids=str,
)
def test_tiles_are_chosen_where_they_were_measured_to_be_faster(shape, conv, chosen, monkeypatch):
    network = Network(shape, [conv, Flatten()])
    assert (operations(network)[0] == "winograd_conv2d") == chosen
    assert operations(network, lanes=1)[0] != "winograd_conv2d"  # on a GPU
    monkeypatch.setenv("MINICNN_WINOGRAD", "0")
    assert operations(network)[0] != "winograd_conv2d"


def test_the_plan_of_the_switch_computes_the_same(monkeypatch):
    network = Network((8, 8, 32), [Conv2d(32, 3, padding=1), Flatten()])
    rng = np.random.default_rng(0)
    params, x = random_params(network, rng), rng.normal(size=(2, 8, 8, 32))
    tiles, _ = run_passes(network, params, x, np.ones((2, network.outputs)))
    monkeypatch.setenv("MINICNN_WINOGRAD", "0")
    assert lay_out(network, 2, True, params.dtype).nodes[0].operation == "conv2d"
    direct, _ = run_passes(network, params, x, np.ones((2, network.outputs)))
    np.testing.assert_allclose(tiles, direct, rtol=1e-10, atol=1e-10)


def test_maps_of_a_few_tiles_are_left_to_the_direct_sum():
    for size, chosen in ((4, False), (7, True), (8, True)):
        network = Network((size, size, 32), [Conv2d(32, 3, padding=1), Flatten()])
        assert (operations(network, training=False)[0] == "winograd_conv2d") == chosen


@pytest.mark.parametrize(
    ("size", "channels", "chunk", "chosen"),
    [(8, 200, 1, False), (8, 200, 2, True), (12, 200, 1, True), (8, 128, 1, True)],
)
def test_filters_larger_than_the_cache_are_read_as_they_are_for_few_outputs_of_one_image(
    size, channels, chunk, chosen
):
    network = Network((size, size, channels), [Conv2d(200, 3, padding=1), Flatten()])
    plan = make_plan(network, chunk, False, 8)
    assert (plan.nodes[0].operation == "winograd_conv2d") == chosen
    assert make_plan(network, 1, True, 8).nodes[0].operation == "winograd_conv2d"


def test_one_image_by_the_direct_sum_equals_a_batch_by_tiles():
    network = Network((7, 7, 184), [Conv2d(184, 3, padding=1), Flatten(), Dense(3)])
    rng = np.random.default_rng(0)
    params = random_params(network, rng, np.float32)
    images = rng.normal(size=(5, *network.input_shape)).astype(np.float32)
    inference = Inference(network, params, constant=True)
    assert inference.plan.nodes[0].operation == "winograd_conv2d"
    batch = inference.logits(images, 1.0)
    for image, expected in zip(images, batch, strict=True):
        one = inference.logits(image[np.newaxis], 1.0)[0]
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5 * np.abs(batch).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("channels", "filters"), [(9, 5), (16, 17)])
def test_filters_are_transformed_once_where_weights_never_change(
    everywhere, dtype, channels, filters
):
    layers = [Conv2d(filters, 3, padding=1), ReLU(), Conv2d(channels, 3), Flatten(), Dense(3)]
    network, rng = Network((6, 7, channels), layers), np.random.default_rng(0)
    params = random_params(network, rng).astype(dtype)
    x = rng.normal(size=(5, 6, 7, channels)).astype(dtype)
    often, once = (Inference(network, params, 1, constant=constant) for constant in (False, True))
    expected = often.logits(x, 1.0)
    np.testing.assert_array_equal(once.logits(x, 1.0), expected)
    kept, table = params.copy(), once.plan.table
    params[:] = 0
    np.testing.assert_array_equal(once.logits(x, 1.0), expected)
    assert not np.array_equal(often.logits(x, 1.0), expected)
    np.testing.assert_array_equal(once.params[: len(kept)], kept)
    places = [record["prepared"] for record in table if record["prepared"] >= 0]
    assert len(places) == 2 and len(once.params) == table[0]["params_size"] > len(params)
    for begin, end in zip(places, [*places[1:], len(once.params)], strict=True):
        assert begin >= len(params) and once.params[begin:end].any()


def test_compiled_code_of_the_users_gets_filters_that_are_transformed():
    network = Network((8, 8, 32), [Conv2d(32, 3, padding=1), Flatten(), Dense(3)])
    rng = np.random.default_rng(0)
    model = Model(network, random_params(network, rng).astype(np.float32), ("a", "b", "c"))
    x, logits = rng.random((3, 8, 8, 32), np.float32), np.empty((3, 3), np.float32)
    plan, params, work = model.njit_arguments(2)
    assert plan[0]["prepared"] > 0
    forward(plan, params, work, x, logits)
    expected = Inference(network, model.params, 1).logits(x, 1.0)
    np.testing.assert_array_equal(logits, expected)
