"""Every layer's forward and backward kernel against the float64 oracle, over many odd shapes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minicnn import Passes
from minicnn.backends.layout import lay_out
from minicnn.errors import NetworkError
from minicnn.kernels.cpu import passes
from minicnn.kernels.cpu.tile import VECTOR_BYTES
from minicnn.network.activations import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from minicnn.network.layers import (
    Add,
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
)
from minicnn.network.network import Network
from tests.networks import oracle_passes, random_params

ROOT = Path(__file__).resolve().parents[2]


def run_passes(network, params, x, dlogits, fill=0):
    """(logits, gradient) by the kernels, from a workspace whose bytes are all ``fill``."""
    plan = lay_out(network, len(x), True, params.dtype)
    work = np.frombuffer(bytes([fill]) * (plan.work_size * params.itemsize), params.dtype).copy()
    transposed = np.full_like(params, np.nan)
    grads, logits = np.zeros_like(params), np.empty((len(x), network.outputs), params.dtype)
    key = np.uint64(0)
    passes.forward_keep(plan.table, params, work, x.astype(params.dtype), logits, key)
    passes.backward(plan.table, params, transposed, work, dlogits.astype(params.dtype), grads, key)
    return logits, grads


def assert_equals_oracle(
    network, samples=3, dtype=np.float64, tolerance=1e-10, seed=0, whole=False
):
    """``whole`` makes small whole numbers of images and weights, so that the largest number of a
    window is often a tie."""
    rng = np.random.default_rng(seed)
    params = random_params(network, rng, dtype)
    x = rng.normal(size=(samples, *network.input_shape)).astype(dtype)
    if whole:
        params, x = np.rint(2 * params), np.rint(x)
    dlogits = rng.normal(size=(samples, network.outputs)).astype(dtype)
    expected_logits, expected_grads = oracle_passes(network, params, x, dlogits)
    logits, grads = run_passes(network, params, x, dlogits)
    scale = max(1.0, np.abs(expected_grads).max(initial=0))
    np.testing.assert_allclose(logits, expected_logits, rtol=tolerance, atol=tolerance * 10)
    np.testing.assert_allclose(grads, expected_grads, rtol=tolerance, atol=tolerance * scale * 10)
    plan = lay_out(network, max(1, samples - 1), False, dtype)
    work = np.full(plan.work_size, np.nan, dtype)
    inferred = np.empty_like(logits)
    passes.forward(plan.table, params, work, x, inferred)
    np.testing.assert_array_equal(
        inferred, logits, err_msg="inference in other chunks differs from training's forward"
    )


@st.composite
def windows(draw, most_kernel=4):
    kernel = (draw(st.integers(1, most_kernel)), draw(st.integers(1, most_kernel)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return kernel, stride


@settings(max_examples=150, deadline=None)
@given(
    window=windows(),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)),
    filters=st.integers(1, 20),
    samples=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_convolutions_of_any_geometry_equal_the_oracle(
    window, padding, dilation, shape, filters, samples, bias, seed
):
    kernel, stride = window
    conv = Conv2d(filters, kernel, stride, padding, dilation, bias)
    try:
        network = Network(
            shape, [Conv2d(3, 1), conv, Flatten()]
        )  # the first layer makes the second compute dx
    except NetworkError:
        assume(False)
    assert_equals_oracle(network, samples, seed=seed)


@settings(max_examples=80, deadline=None)
@given(
    window=windows(),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(2, 40)),
    samples=st.integers(1, 6),
    bias=st.booleans(),
    added=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_depthwise_convolutions_of_any_geometry_equal_the_oracle(
    window, padding, dilation, shape, samples, bias, added, seed
):
    """``added``: dx is added to that of another reader."""
    (kernel, stride), channels = window, shape[2]
    options = (channels, kernel, stride, padding, dilation, bias, channels)
    layers = [Conv2d(channels, 1, name="a"), Conv2d(*options, inputs=("a",)), Flatten(name="b")]
    if added:
        other = [Flatten(inputs=("a",)), Dense(3, name="c"), Dense(3, inputs=("b",), name="d")]
        layers += [*other, Add(inputs=("c", "d"))]
    try:
        network = Network(shape, layers)
    except NetworkError:
        assume(False)
    assert_equals_oracle(network, samples, seed=seed)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(20, 19, 3), (2, 3, 40)])
def test_a_convolution_of_one_pixel_is_a_dense_layer_of_each(shape, bias):
    """More pixels than one product takes, and fewer; one with a stride or padding is none."""
    one = Conv2d(17, 1, bias=bias)
    network = Network(shape, [Conv2d(shape[2], 2, padding="same"), one, ReLU(), Flatten()])
    nodes = lay_out(network, 3, True, np.dtype(np.float64)).nodes
    assert [node.operation for node in nodes[:2]] == ["conv2d", "dense"]
    assert_equals_oracle(network, 3)
    for other in (Conv2d(4, 1, 2), Conv2d(4, 1, padding=1), Conv2d(shape[2], 1, groups=shape[2])):
        nodes = lay_out(Network(shape, [other, Flatten()]), 1, False, np.dtype(np.float32)).nodes
        assert nodes[0].operation != "dense"


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 7)),
    pooled=st.tuples(st.integers(1, 5), st.integers(1, 20)),  # wider than one vector and than two
    filters=st.integers(1, 7),
    samples=st.integers(1, 4),
    bias=st.booleans(),
    rectified=st.booleans(),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_grey_images_in_planes_equal_the_oracle(
    kernel, pooled, filters, samples, bias, rectified, ties, seed
):
    shape = tuple(2 * size + taps - 1 for size, taps in zip(pooled, kernel, strict=True))
    layers = [
        Conv2d(filters, kernel, bias=bias),
        *([ReLU()] if rectified else []),
        MaxPool2d(2),
        Flatten(),
        Dense(3),
    ]
    network = Network((*shape, 1), layers)
    if VECTOR_BYTES == 64:  # eight float64, so up to seven filters go in planes
        fused = lay_out(network, samples, True, np.float64).nodes[0].operation == "conv_pool_grey"
        assert fused == (kernel != (1, 1))  # a dense layer of each pixel
    assert_equals_oracle(network, samples, seed=seed, whole=ties)


@settings(max_examples=80, deadline=None)
@given(
    window=windows(),
    halves=st.tuples(st.booleans(), st.booleans()),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20)),
    samples=st.integers(1, 4),
    kind=st.sampled_from([MaxPool2d, AvgPool2d]),
    fitting=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pooling_of_any_geometry_equals_the_oracle(
    window, halves, shape, samples, kind, fitting, seed
):
    kernel, stride = window
    padding = tuple(k // 2 if half else 0 for k, half in zip(kernel, halves, strict=True))
    if (
        fitting
    ):  # the windows follow each other, and padding makes them as many as would cover the image
        stride, padding = kernel, tuple(k // 2 for k in kernel)
        shape = (
            tuple(k * (size // k + 1) for k, size in zip(kernel, shape, strict=False)) + shape[2:]
        )
    try:
        network = Network(shape, [Conv2d(shape[2], 1), kind(kernel, stride, padding), Flatten()])
    except NetworkError:
        assume(False)
    assert_equals_oracle(network, samples, seed=seed)


@pytest.mark.parametrize(
    "activation", [ReLU(), LeakyReLU(0.2), Sigmoid(), Tanh(), SiLU(), GELU()], ids=repr
)
def test_activations_equal_the_oracle_wherever_they_stand(activation):
    convolution = [Conv2d(5, 3), activation, MaxPool2d(2), activation, activation]
    network = Network(
        (9, 7, 2), [*convolution, Flatten(), Dense(6), activation, Dense(3), activation]
    )
    assert_equals_oracle(network)


DENSE = [(1, 1, 1), (3, 1, 2), (1, 33, 5), (17, 31, 13), (40, 65, 7), (64, 64, 12), (3, 4, 7)]
DENSE += [(100, 10, 1)]
DENSE += [(5, outputs, 1) for outputs in (7, 16, 23, 24, 28, 31, 44, 64, 150)]


@pytest.mark.parametrize(("inputs", "outputs", "samples"), DENSE)
def test_dense_layers_of_any_size_equal_the_oracle(inputs, outputs, samples):
    assert_equals_oracle(
        Network((1, 1, inputs), [Flatten(), Dense(inputs + 1), Dense(outputs, bias=False)]), samples
    )


def test_an_image_has_the_same_logits_bit_by_bit_alone_and_in_a_batch():
    network = Network(
        (9, 8, 2),
        [Conv2d(5, 3), ReLU(), MaxPool2d(2), Flatten(), Dense(150), ReLU(), Dense(40), Dense(3)],
    )
    rng = np.random.default_rng(0)
    params, x = network.initialize(rng), rng.normal(size=(13, 9, 8, 2)).astype(np.float32)
    together = Passes(network, params, 13).forward(x)
    alone = [Passes(network, params, 1).forward(x[i : i + 1]) for i in range(13)]
    np.testing.assert_array_equal(np.concatenate(alone), together)


@pytest.mark.parametrize("wrong", ["plan", "params", "work", "x", "logits", "number", "none"])
def test_forward_refuses_what_does_not_fit_the_network(wrong):
    network = Network((4, 4, 1), [Flatten(), Dense(2)])
    plan = lay_out(network, 2, False, np.float64)
    given = {
        "plan": plan.table,
        "params": np.zeros(network.flat_size),
        "work": np.zeros(plan.work_size),
        "x": np.zeros((3, 4, 4, 1)),
        "logits": np.zeros((3, 2)),
    }
    if wrong == "plan":
        given["plan"] = plan.table[:0]
    elif wrong == "number":
        given = {
            name: array if name == "plan" else array.astype(np.float32)
            for name, array in given.items()
        }
    elif wrong == "x":
        given["x"] = np.zeros((3, 4, 5, 1))
    elif wrong in given:
        given[wrong] = given[wrong][:-1].copy()
    if wrong == "none":
        passes.forward(*given.values())
        return
    with pytest.raises(ValueError, match=r"minicnn\.forward: "):
        passes.forward(*given.values())


def test_same_padding_with_even_kernels_equals_the_oracle():
    assert_equals_oracle(
        Network(
            (7, 6, 2), [Conv2d(4, (4, 2), padding="same"), Conv2d(3, 2, padding="same"), Flatten()]
        )
    )


def test_global_average_pooling_equals_the_oracle():
    assert_equals_oracle(Network((7, 5, 3), [Conv2d(4, 2), GlobalAvgPool2d(), Dense(2)]))


def test_a_network_of_flatten_alone_hands_its_input_on():
    assert_equals_oracle(Network((2, 3, 1), [Flatten()]))


@pytest.mark.parametrize(
    "layers",
    [
        [GlobalAvgPool2d()],
        [AvgPool2d(2), Flatten()],
        [MaxPool2d(2), Flatten()],
        [MaxPool2d(3, 1), Flatten()],
        [Dropout(0.5), Flatten()],
    ],
    ids=str,
)
def test_a_backward_pass_that_no_weight_needs_writes_nothing(layers):
    """There is no place for dx: it was written before the workspace, or at its end."""
    passes = Passes(Network((4, 4, 2), layers), np.zeros(0), 2)
    around = np.full(len(passes.work) + 32, 7.0)
    passes.work = around[16:-16]
    logits = passes.forward(np.ones((2, 4, 4, 2)))
    passes.work[passes.plan.table[-1]["dy"] :][: logits.size] = 1
    before = around.copy()
    assert passes.backward(np.ones(logits.shape)).size == 0
    np.testing.assert_array_equal(around, before)


LENET = [Conv2d(6, 5), ReLU(), MaxPool2d(2), Conv2d(16, 5), ReLU(), MaxPool2d(2), Flatten()]
LENET += [Dense(120), ReLU(), Dense(84), ReLU(), Dense(10)]


def test_lenet_in_float32_equals_the_oracle():
    assert_equals_oracle(Network((28, 28, 1), LENET), samples=5, dtype=np.float32, tolerance=2e-5)


def test_a_workspace_full_of_rubbish_gives_the_same_gradients_bit_by_bit():
    network = Network(
        (12, 11, 2),
        [
            Conv2d(7, 3, 2, 1),
            SiLU(),
            MaxPool2d(3, 1, 1),
            Conv2d(5, 2),
            AvgPool2d(2),
            Tanh(),
            Flatten(),
            Dense(4),
        ],
    )
    rng = np.random.default_rng(1)
    params = random_params(network, rng, np.float32)
    x, dlogits = rng.normal(size=(5, 12, 11, 2)), rng.normal(size=(5, 4))
    zeros, ones = (run_passes(network, params, x, dlogits, fill) for fill in (0x00, 0xFF))
    np.testing.assert_array_equal(zeros[0], ones[0])
    np.testing.assert_array_equal(zeros[1], ones[1])


def test_max_pool_ties_go_to_the_first_element_of_the_window():
    network = Network((2, 2, 1), [Conv2d(1, 1, bias=False), MaxPool2d(2), Flatten()])
    x = np.array([[[[1.0], [5.0]], [[5.0], [5.0]]]])
    looked_at = Passes(
        network,
        network.flatten({"conv1.weight": np.ones((1, 1, 1, 1))}, np.float64),
        1,
        by_operation=True,
    )
    assert looked_at.forward_by_operation(x)[-1] == 5.0
    np.testing.assert_array_equal(
        looked_at.backward_by_operation(np.ones((1, 1)))[0], [[0, 1, 0, 0]]
    )


def test_not_a_number_passes_through_pooling_and_relu():
    network = Network((4, 4, 1), [Conv2d(1, 1), ReLU(), MaxPool2d(2), Flatten()])
    x = np.zeros((1, 4, 4, 1))
    x[0, 1, 1, 0] = np.nan
    logits, _ = run_passes(network, np.ones(network.flat_size), x, np.ones((1, 4)))
    assert np.isnan(logits[0, 0])
    assert not np.isnan(logits[0, 1:]).any()


@pytest.mark.parametrize(
    "activation", [ReLU(), LeakyReLU(0.1), Sigmoid(), Tanh(), SiLU(), GELU()], ids=repr
)
def test_gradients_equal_numeric_derivatives(activation):
    """dL/dw of the kernels against (L(w + h) − L(w − h)) / 2h of their forward pass, L = Σ r ·
    logits, for every weight."""
    first = [
        Conv2d(3, (3, 2), (1, 2), 1),
        activation,
        MaxPool2d(2, 1),
        Conv2d(4, 2, dilation=2),
        activation,
    ]
    second = [AvgPool2d(2, 1, 1), Conv2d(3, 3, 2), Flatten(), Dense(4), activation, Dense(3)]
    network = Network((9, 8, 2), [*first, *second])
    rng = np.random.default_rng(3)
    params = random_params(network, rng)
    x, r = rng.normal(size=(2, 9, 8, 2)), rng.normal(size=(2, 3))
    _, grads = run_passes(network, params, x, r)

    def loss(values):
        return float((run_passes(network, values, x, r)[0] * r).sum())

    for spec in network.parameters:
        for index in range(spec.offset, spec.offset + spec.size):
            step = np.zeros_like(params)
            step[index] = 1e-6
            numeric = (loss(params + step) - loss(params - step)) / 2e-6
            assert abs(grads[index] - numeric) < 1e-6 * max(1, abs(numeric)), (
                f"{spec.name}[{index - spec.offset}]"
            )


# Of processors with narrower vectors than this one, for which the tests above have run, in bytes.
NARROWER = {
    features: width
    for features, width in {"+avx,+avx2,+fma": 32, "+sse2": 16}.items()
    if width < VECTOR_BYTES
}


@pytest.mark.parametrize("features", NARROWER)
@pytest.mark.slow
def test_all_of_this_holds_for_the_vectors_of_other_machines(features):
    """The tests above once more in a process that is told of narrower vectors and fewer
    registers."""
    environment = {**os.environ, "NUMBA_CPU_FEATURES": features}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "not other_machines",
        __file__,
    ]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    width = "from minicnn.kernels.cpu.tile import VECTOR_BYTES; print(VECTOR_BYTES)"
    printed = subprocess.check_output(
        [sys.executable, "-c", width], env=environment, cwd=ROOT, text=True
    )
    assert int(printed) == NARROWER[features]
