"""Every kernel of the passes against the float64 oracle and the CPU's kernels, on the device at
hand.

Not collected by itself: `test_passes.py` runs it in the simulator, and on a GPU where one is asked
for. Shapes are ragged: nothing divides by a tile's size, and tiles of all shapes occur.
"""

import numpy as np
import pytest
from numba import cuda as device_code

from minicnn import Augment, plugins
from minicnn.backends import cpu, cuda, gpu, scale_rows
from minicnn.backends.cpu import Passes
from minicnn.kernels.cuda.rules import compile_update
from minicnn.kernels.cuda.tile import DEPTH_LOG2, shape_of
from minicnn.network.activations import (
    ELU,
    GELU,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minicnn.network.blocks import Branches, Residual
from minicnn.network.layers import (
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Dense,
    Dropout,
    Dropout2d,
    DropPath,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool2d,
    Multiply,
)
from minicnn.network.network import Network
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm
from tests.cuda.launching import Device
from tests.networks import oracle_inference, oracle_passes, oracle_training, random_params
from tests.reference.augment import mixed_view

# NumPy warns where the simulator's 64-bit hash wraps around, as it should.
pytestmark = pytest.mark.filterwarnings("ignore:.*overflow encountered in scalar:RuntimeWarning")


def example(network, samples, seed=0):
    rng = np.random.default_rng(seed)
    params = random_params(network, rng, np.float32)
    x = rng.normal(size=(samples, *network.input_shape)).astype(np.float32)
    return params, x, rng.normal(size=(samples, network.outputs)).astype(np.float32)


def assert_close(found, expected, tolerance=2e-6):
    scale = max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=10 * tolerance, atol=tolerance * scale)


def assert_equals_oracle(network, samples=2, tolerance=2e-6):
    params, x, dlogits = example(network, samples)
    logits, grads = oracle_passes(network, params, x, dlogits)
    device = Device(network, params, samples)
    assert_close(device.forward(x), logits, tolerance)
    assert_close(device.backward(dlogits), grads, tolerance)


@pytest.mark.parametrize(
    ("shape", "convolution", "samples"),
    [
        ((1, 1, 1), Conv2d(1, 1), 1),
        ((5, 6, 1), Conv2d(3, 3), 2),
        ((4, 5, 3), Conv2d(9, (3, 2), padding=(1, 2)), 1),
        ((7, 6, 2), Conv2d(5, (2, 3), stride=(2, 3), padding=1), 2),
        ((7, 8, 2), Conv2d(4, 3, dilation=(2, 3), padding=(2, 1)), 2),
        ((6, 5, 2), Conv2d(3, (3, 2), stride=(3, 2), dilation=(1, 2), bias=False), 1),
        ((3, 3, 7), Conv2d(11, 2, padding=3), 2),
        ((5, 4, 2), Conv2d(31, (4, 2), padding="same"), 1),
        ((9, 9, 1), Conv2d(1, 5, stride=2, padding=4), 1),
        ((6, 5, 2), Conv2d(3, 3, padding=(2, 0, 1, 3)), 2),
        ((7, 5, 2), Conv2d(3, 3, stride=(2, 3), padding="same"), 2),
    ],
)
def test_convolutions_equal_the_oracle(shape, convolution, samples):
    assert_equals_oracle(Network(shape, [Conv2d(2, 1), convolution, Flatten()]), samples)


@pytest.mark.parametrize(
    ("inputs", "outputs", "samples"),
    [(1, 1, 1), (3, 1, 2), (1, 33, 3), (17, 31, 13), (40, 9, 1), (2, 70, 1), (5, 3, 37)],
)
def test_dense_layers_equal_the_oracle(inputs, outputs, samples):
    network = Network((1, 1, inputs), [Flatten(), Dense(inputs + 1), Dense(outputs, bias=False)])
    assert_equals_oracle(network, samples)


@pytest.mark.parametrize("stride", [(2, 2), (3, 1), (2, 4), (4, 6)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_stride_reads_no_more_and_no_less_than_its_taps(stride, dilation):
    network = Network(
        (9, 8, 2),
        [Conv2d(2, 1), Conv2d(3, (3, 2), stride=stride, dilation=dilation, padding=1), Flatten()],
    )
    assert_equals_oracle(network)


def test_threads_share_results_alone_and_in_groups():
    found = {
        int(shape_of(rows, columns)) >> 3 for rows in (1, 9, 40, 300) for columns in (1, 6, 16, 64)
    }
    assert found == set(range(DEPTH_LOG2 + 1))


@pytest.mark.parametrize("grid", [None, 1])
def test_blocks_that_share_a_long_reduction_equal_the_oracle(grid):
    network = Network(
        (3, 3, 30), [Conv2d(2, 3, padding=1), ReLU(), Flatten(), Dense(270), Dense(3)]
    )
    params, x, dlogits = example(network, 2)
    logits, grads = oracle_passes(network, params, x, dlogits)
    device = Device(network, params, 2)
    assert_close(device.forward(x, grid=grid), logits)
    assert_close(device.backward(dlogits, grid=grid), grads)
    assert {"add_forward", "add_backward"} <= set(device.launched)


@pytest.mark.parametrize("kind", [MaxPool2d, AvgPool2d])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(2, 2, 0), ((3, 2), (1, 2), (1, 1)), ((1, 2), (2, 1), 0), (3, 2, 1), ((2, 4), (3, 1), 0)],
)
def test_pooling_equals_the_oracle(kind, kernel, stride, padding):
    layers = [Conv2d(3, 1), kind(kernel, stride, padding), Flatten()]
    assert_equals_oracle(Network((6, 5, 2), layers))


def test_pooling_as_pytorch_has_it_equals_the_oracle():
    for pool in (
        MaxPool2d((3, 2), 2, (1, 0), dilation=(2, 3)),
        MaxPool2d(3, 2, 1, ceil_mode=True),
        AvgPool2d(3, 2, 1, ceil_mode=True),
        AvgPool2d((3, 2), (2, 1), 1, count_include_pad=False),
    ):
        assert_equals_oracle(Network((6, 7, 2), [Conv2d(3, 1), pool, Flatten()]))


ACTIVATIONS = [
    ReLU(),
    LeakyReLU(0.2),
    Sigmoid(),
    Tanh(),
    SiLU(),
    GELU(),
    GELU("tanh"),
    ReLU6(),
    HardSwish(),
    HardSigmoid(),
    ELU(0.7),
    Softplus(),
    Mish(),
    PReLU(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_equal_the_oracle_wherever_they_stand(activation):
    layers = [
        Conv2d(3, 2),
        activation,
        MaxPool2d(2),
        activation,
        activation,
        Flatten(),
        Dense(3),
        activation,
    ]
    assert_equals_oracle(Network((4, 5, 1), layers))


@pytest.mark.parametrize("norm", [BatchNorm2d(), GroupNorm(2), GroupNorm(1), LayerNorm()], ids=str)
def test_normalization_equals_the_oracle_wherever_it_stands(norm):
    layers = [
        Conv2d(4, 2),
        norm,
        ReLU(),
        Conv2d(2, 1),
        norm,
        norm,
        Flatten(),
        Dense(4),
        norm,
        Dense(3),
    ]
    assert_equals_oracle(Network((4, 5, 2), layers), 3, tolerance=1e-5)


def test_convolutions_in_groups_equal_the_oracle():
    for shape, convolution in (
        ((6, 5, 4), Conv2d(6, 3, stride=(2, 1), padding=1, groups=2)),
        ((5, 6, 3), Conv2d(3, (2, 3), dilation=(2, 1), padding=(0, 2, 1, 0), groups=3)),
        ((5, 4, 2), Conv2d(6, 2, stride=2, bias=False, groups=2)),
    ):
        assert_equals_oracle(
            Network(shape, [Conv2d(shape[2], 1), convolution, Flatten(), Dense(2)])
        )


JOINED = {
    "add of three, one read twice": [
        Conv2d(3, 1, name="a"),
        Conv2d(3, 1, name="b"),
        ReLU(),
        Add(inputs=("a", "relu1", "b")),
        Add(inputs=("add1", "add1")),
    ],
    "a residual block": [
        Conv2d(3, 1),
        Residual([Conv2d(3, 3, padding=1), ReLU(), Conv2d(3, 1)]),
        ReLU(),
    ],
    "branches": [
        Conv2d(2, 1),
        Branches([Conv2d(3, 1)], [MaxPool2d(3, 1, 1)], [Conv2d(1, 3, padding=1), Tanh()]),
    ],
    "concat of a value with itself": [Conv2d(2, 1, name="a"), Concat(inputs=("a", "a"))],
    "a gate": [
        Conv2d(3, 1, name="a"),
        GlobalAvgPool2d(),
        Dense(3),
        Sigmoid(name="gate"),
        Multiply(inputs=("a", "gate")),
    ],
    "a product": [
        Conv2d(3, 1, name="a"),
        Conv2d(3, 1, name="b"),
        Multiply(inputs=("a", "b")),
        Add(inputs=("multiply1", "a")),
    ],
    "the image again": [
        Conv2d(2, 1, name="a"),
        Add(inputs=("a", "input")),
        GlobalMaxPool2d(),
        Dense(3),
    ],
}


@pytest.mark.parametrize("name", JOINED)
def test_graphs_equal_the_oracle(name):
    layers = JOINED[name] + ([Flatten()] if not isinstance(JOINED[name][-1], Dense) else [])
    assert_equals_oracle(Network((3, 4, 2), [*layers, Dense(2)]))


def test_softmax_equals_the_oracle():
    assert_equals_oracle(Network((1, 2, 2), [Flatten(), Dense(5), Softmax()]), 3)


@pytest.mark.parametrize("layer", [Dropout(0.3), Dropout2d(0.4), DropPath(0.5)], ids=str)
def test_dropout_drops_what_the_oracle_drops(layer):
    network = Network((3, 4, 2), [Conv2d(5, 1), layer, Flatten(), Dense(3)])
    params, x, dlogits = example(network, 4)
    logits, grads = oracle_passes(network, params, x, dlogits, 2**63 + 5)
    device = Device(network, params, 4)
    assert_close(device.forward(x, key=2**63 + 5), logits)
    assert_close(device.backward(dlogits, key=2**63 + 5), grads)


def test_running_statistics_after_a_step_and_inference_with_them_equal_the_oracle():
    network = Network(
        (3, 4, 2), [Conv2d(5, 1), BatchNorm2d(momentum=0.3), Flatten(), Dense(3), BatchNorm2d()]
    )
    params, x, dlogits = example(network, 4)
    device_network, there, results = (
        gpu.DeviceNetwork(network, 4, True),
        cuda.to_device(params),
        np.zeros((2, 4), np.float32),
    )
    cuda.Images(x.reshape(4, -1), 4, True).gather(
        device_network, np.arange(4), cuda.to_device(np.arange(4)), 0, 4, 1.0
    )
    device_network.forward(there, 4, 0, 0)
    results[0, 3] = 1  # a step that is not finite, and changes nothing
    device_network.finish(there, 4, 0, cuda.to_device(results))
    np.testing.assert_array_equal(there.copy_to_host(), params)
    device_network.finish(there, 4, 1, cuda.to_device(results))
    after = oracle_training(network, params, x, dlogits).params_after
    assert_close(there.copy_to_host(), after)
    assert_close(
        cuda.Inference(network, there, batch_size=3).logits(x, 1.0),
        oracle_inference(network, after, x),
    )


def test_global_average_pooling_equals_the_oracle():
    assert_equals_oracle(Network((5, 3, 2), [Conv2d(3, 2), GlobalAvgPool2d(), Dense(2)]), 3)


def test_a_network_of_flatten_alone_hands_its_input_on():
    assert_equals_oracle(Network((2, 3, 1), [Flatten()]))


CONVOLUTIONS = [
    Conv2d(5, 3, padding=1),
    ReLU(),
    MaxPool2d(2),
    Dropout(0.4),
    Conv2d(3, 2),
    Tanh(),
    Dropout(0.3),
]
NETWORK = Network((6, 7, 2), [*CONVOLUTIONS, Flatten(), Dense(9), ReLU(), Dense(4)])


def test_the_passes_equal_those_of_the_cpu_and_drop_the_same_elements():
    params, x, dlogits = example(NETWORK, 5)
    cpu, device = Passes(NETWORK, params, 5), Device(NETWORK, params, 5)
    assert_close(device.forward(x, key=2**63 + 5), cpu.forward(x, 2**63 + 5))
    assert_close(device.backward(dlogits, key=2**63 + 5), cpu.backward(dlogits, 2**63 + 5))


def test_neither_the_grid_nor_the_workspace_before_changes_a_bit():
    params, x, dlogits = example(NETWORK, 3)
    results = []
    for grid, rubbish in ((None, np.nan), (2, 0.0), (1, -np.inf), (7, 1.0)):
        device = Device(NETWORK, params, 3, rubbish=rubbish)
        options = {"grid": grid, "key": 3, "first_sample": 0}
        results.append([device.forward(x, **options), device.backward(dlogits, **options)])
    for logits, grads in results[1:]:
        np.testing.assert_array_equal(logits, results[0][0])
        np.testing.assert_array_equal(grads, results[0][1])


def test_a_smaller_last_batch_and_added_batches_give_the_gradient_of_all():
    params, x, dlogits = example(NETWORK, 5)
    whole, pieces = Device(NETWORK, params, 5), Device(NETWORK, params, 3)
    whole.forward(x, key=9)
    expected = whole.backward(dlogits, key=9)
    for first, end in ((0, 3), (3, 5)):
        pieces.forward(x[first:end], key=9, first_sample=first)
        grads = pieces.backward(dlogits[first:end], key=9, first_sample=first)
    assert_close(grads, expected)


def test_gather_scales_whole_numbers_in_the_order_of_the_epoch():
    network = Network((2, 3, 1), [Flatten()])
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3, 1)
    device = Device(network, np.zeros(0), 3)
    logits = device.forward(images, order=np.array([3, 0, 2]), scale=0.5)
    np.testing.assert_array_equal(logits, images.reshape(4, 6)[[3, 0, 2]] * np.float32(0.5))


def test_inference_equals_the_training_pass():
    network = Network(
        (6, 7, 2),
        [Conv2d(5, 3), SiLU(), MaxPool2d(2), GELU(), Flatten(), Dense(9), ReLU(), Dense(4)],
    )
    params, x, _ = example(network, 3)
    expected = Device(network, params, 3).forward(x)
    np.testing.assert_array_equal(Device(network, params, 3, training=False).forward(x), expected)


def test_max_pool_ties_go_to_the_first_element_of_the_window():
    network = Network((2, 3, 1), [Conv2d(1, 1, bias=False), MaxPool2d(2, 1), Flatten()])
    device = Device(network, np.ones(1), 1)
    device.forward(np.array([[[[1.0], [5.0], [5.0]], [[5.0], [5.0], [5.0]]]], np.float32))
    device.backward(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(device.numbers(device.table[1]["dx"], 6), [0, 3, 0, 0, 0, 0])


def test_not_a_number_passes_through_pooling_and_relu():
    network = Network(
        (4, 4, 1), [Conv2d(1, 1), ReLU(), MaxPool2d(2), ReLU(), Flatten(), Dense(4), ReLU()]
    )
    for place in ((0, 0), (1, 1)):
        x = np.zeros((1, 4, 4, 1), np.float32)
        x[0, *place, 0] = np.nan
        device = Device(network, np.ones(network.flat_size), 1)
        assert np.isnan(device.forward(x)).all()
    device = Device(
        Network((4, 4, 1), [Conv2d(1, 1), ReLU(), MaxPool2d(2), Flatten()]), np.ones(32), 1
    )
    pooled = device.forward(x)[0]
    assert np.isnan(pooled[0]) and not np.isnan(pooled[1:]).any()


@pytest.mark.parametrize("size", [*range(1, 10), 64, 67])
def test_vectors_of_any_length_are_added_and_measured_whole(size):
    x, y = (np.random.default_rng(size).normal(size=size).astype(np.float32) for _ in range(2))
    there = cuda.to_device(y)
    cuda.axpy(0.5, cuda.to_device(x), there)
    np.testing.assert_allclose(there.copy_to_host(), y + np.float32(0.5) * x, rtol=1e-6)
    assert cuda.norm(cuda.to_device(x)) == pytest.approx(
        np.linalg.norm(x.astype(np.float64)), rel=1e-6
    )


@pytest.mark.parametrize(("offset", "count"), [(0, 7), (1, 1), (2, 9), (3, 5), (4, 8), (5, 3)])
def test_an_update_changes_its_tensors_alone_wherever_they_lie(offset, count):
    rng = np.random.default_rng(offset)
    params, grads, slots = (
        rng.normal(size=shape).astype(np.float32) for shape in (13, 13, (1, 13))
    )
    rule, spans = plugins.find("optimizer", "momentum"), np.array([[offset, offset + count, 0]])
    scalars = np.array([[0.1, 0.9, 1.0, 0.01]], np.float32)[:, : compile_update(rule).scalars]
    results = []
    for backend in (cpu, cuda):
        vectors = [backend.to_device(array.copy()) for array in (params, grads, slots)]
        backend.CompiledUpdate(rule, np.dtype(np.float32))(*vectors, scalars, spans)
        results.append([array.copy_to_host() if backend is cuda else array for array in vectors])
    for there, here in zip(*results, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-6)
    assert np.flatnonzero(results[1][0] != params).tolist() == list(range(offset, offset + count))


@pytest.mark.parametrize("resident", [True, False])
def test_gather_gives_each_channel_its_factor_and_offset(resident):
    device_network = gpu.DeviceNetwork(Network((2, 3, 3), [Flatten()]), 4, False)
    images = np.arange(72, dtype=np.uint8).reshape(4, 2, 3, 3)
    scale, order = np.array([[0.5, 1.0, 2.0], [1.0, 0.0, -3.0]]), np.array([3, 0, 2])
    source = gpu.Images(images.reshape(4, -1), 4, resident)
    source.gather(device_network, order, cuda.to_device(order), 0, 3, scale)
    x = int(device_network.table[0]["x"])
    found = device_network.work.copy_to_host()[x : x + 54].reshape(3, 2, 3, 3)
    np.testing.assert_array_equal(found, images[order] * scale[0] + scale[1])


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(
    "augment",
    [
        Augment(flip=True, flip_vertical=True, crop=2, border="edge", cutout=2),
        Augment(rotate=40, scale=0.3, border="reflect", brightness=0.2, contrast=0.3),
        Augment(mixup=0.5, cutmix=1.0, rotate=20),
    ],
    ids=["moved", "turned", "mixed"],
)
def test_gathered_views_are_those_of_the_oracle(augment, resident):
    device_network = gpu.DeviceNetwork(Network((4, 5, 3), [Flatten()]), 3, False)
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    order, size = np.array([5, 0, 3]), images[0].size
    source = gpu.Images(images.reshape(6, -1), 3, resident)
    views, x = augment.draw(0, 1, images), int(device_network.table[0]["x"])
    for scale in (1 / 255, np.array([[0.5, 1.0, 2.0], [1.0, 0.0, -3.0]], np.float32)):
        given = cuda.to_device(np.append(0, order)), 1, 3, scale, (views, cuda.to_device(views))
        source.gather(device_network, order, *given)
        found = device_network.work.copy_to_host()[x : x + 3 * size].reshape(3, 4, 5, 3)
        expected = [mixed_view(images, i, views, *scale_rows(scale, np.float64)) for i in order]
        assert_close(found, np.array(expected))


# ---- the simulator


def no_barrier(writer, result):
    number, thread = device_code.shared.array(1, np.float32), device_code.threadIdx.x
    if thread == writer:
        number[0] = 1
    result[device_code.blockIdx.x, thread] = number[0]


def barrier_of_two(result):
    if device_code.threadIdx.x < 2:
        device_code.syncthreads()


@pytest.mark.skipif(not device_code.config.ENABLE_CUDASIM, reason="what a GPU does is undefined")
def test_the_simulator_notices_any_missing_barrier_and_one_that_some_threads_never_reach():
    for writer in (0, 3):
        result = np.zeros((2, 4), np.float32)
        device_code.jit(no_barrier)[2, 4](writer, result)
        assert np.isnan(result).any()
    with pytest.raises(RuntimeError, match="2 threads never reach a barrier"):
        device_code.jit(barrier_of_two)[1, 4](np.zeros(1))
