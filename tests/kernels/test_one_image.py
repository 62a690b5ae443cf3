"""One image on several threads: its operations cut into pieces, and who computes them."""

import itertools
import math
import threading
from collections import Counter

import numpy as np
import pytest
from numba import njit

from minicnn import (
    GELU,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    Model,
    Network,
    ReLU,
    Residual,
    Tanh,
    preset,
)
from minicnn.backends import one_image as one_image_of
from minicnn.backends.one_image import OneImage
from minicnn.kernels.cpu import gather, team
from minicnn.kernels.cpu.passes import forward_chunk
from minicnn.kernels.cpu.tile import ENTRY
from minicnn.program import pieces

WINDOWS = Network(
    (23, 9, 3),
    [
        *(Conv2d(8, (5, 3), stride=(2, 1), padding=(2, 1)), ReLU(), MaxPool2d(3, 1, padding=1)),
        *(Conv2d(8, 3, padding="same", dilation=2, groups=8), GELU(), Conv2d(16, 1), ReLU()),
        *(Conv2d(32, 3, padding="same", groups=4), AvgPool2d(2, 2, ceil_mode=True), Flatten()),
        *(Dense(48), ReLU(), Dense(5)),
    ],
)
BRANCHES = Network(
    (16, 15, 32),
    [
        *(Conv2d(32, 3, padding="same"), BatchNorm2d(), ReLU()),
        Residual([Conv2d(32, 3, padding="same"), ReLU(), Conv2d(32, 3, padding="same")]),
        *(BatchNorm2d(), ReLU(), MaxPool2d(2), AvgPool2d(3, 2, padding=1), GlobalAvgPool2d()),
        Dense(7),
    ],
)
FILTERS = Network(  # by which large convolutions are cut
    (6, 5, 64),
    [
        *(Conv2d(260, 3, padding="same"), ReLU(), MaxPool2d(2), GELU()),
        *(Conv2d(72, 3, 2, padding=1), ReLU(), Flatten(), Dense(48), Tanh(), Dense(5)),
    ],
)
ONE_LINE = Network((1, 40, 3), [Conv2d(32, 1), ReLU(), Conv2d(48, 1), Flatten(), Dense(64)])
PADDED = Network(  # above and below by as many rows as the filters have
    (12, 7, 3),
    [
        *(Conv2d(8, 3, padding="same", dilation=(3, 1)), ReLU(), Tanh()),
        *(Conv2d(8, 3, padding=(5, 3, 3, 4)), GELU(), Flatten(), Dense(5)),
    ],
)
UNLIKE = Network(  # side by side, of more and of fewer rows
    (12, 5, 8),
    [
        Conv2d(8, 3, 4, padding=1, name="few"),
        Conv2d(8, 3, padding=1, inputs=("input",), name="many"),
        *(GlobalAvgPool2d(inputs=("few",), name="a"), GlobalAvgPool2d(inputs=("many",), name="b")),
        *(Add(inputs=("a", "b")), Dense(3)),
    ],
)
NETWORKS = {
    "unlike": UNLIKE,
    "windows": WINDOWS,
    "branches": BRANCHES,
    "filters": FILTERS,
    "line": ONE_LINE,
    "padded": PADDED,
    "mobilenet": preset("mobilenet-v1-025", (32, 32, 3), 10),
}


def model_of(network, threads):
    params = network.initialize(np.random.default_rng(0))
    return Model(network, params, tuple(map(str, range(network.outputs))), threads=threads)


def images_of(network, count):
    return np.random.default_rng(1).integers(0, 256, (count, *network.input_shape)).astype(np.uint8)


@pytest.fixture
def everything_pays(monkeypatch):
    monkeypatch.setattr(pieces, "_WORTH", 0.0)


@njit(**ENTRY)
def walk(table, params, work):
    forward_chunk(table, params, work, 1, np.uint64(0), 0)


def one_image(inference):
    return OneImage(inference.network, inference.params, inference.plan, inference.threads)


def one_of(network, threads):
    """What computes one image by so many threads, of which the machine need not have as many."""
    inference = model_of(network, 1)._inference
    inference.threads = threads
    return one_image(inference)


def test_plans_of_all_models_share_one_dtype():
    """Of another object Numba compares the fields at each call from Python."""
    tables = [
        model._inference._one._job[k]
        for model in (model_of(ONE_LINE, 1), model_of(WINDOWS, 1))
        for k in (0, 2)
    ]
    assert len({id(table.dtype) for table in tables}) == 1


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_tasks_of_a_stage_may_be_taken_in_any_order(network, parts, everything_pays):
    one, image = one_of(network, parts), images_of(network, 1)
    (table, tasks, plan, _), params = one._job, one._params
    x = image.reshape(-1) / np.float32(255)
    results = []
    for step in (1, -1):
        work = np.full(one._size, np.nan, np.float32)
        work[plan[0]["x"] :][: x.size] = x
        begin = 0
        while begin < len(tasks):
            end = tasks[begin, 2]
            for first, last, _ in tasks[begin:end][::step]:
                walk(table[first:last], params, work)
            begin = end
        results.append(work[plan[-1]["y"] :][: plan[-1]["output_size"]])
    whole = np.full(one._size, np.nan, np.float32)
    whole[plan[0]["x"] :][: x.size] = x
    walk(plan, params, whole)
    expected = whole[plan[-1]["y"] :][: plan[-1]["output_size"]]
    np.testing.assert_array_equal(results, [expected, expected])
    assert len(table) > len(plan)  # it was cut
    assert len(set(tasks[:, 2])) < len(plan)  # and stages have several operations


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_threads_change_no_bit_of_one_image(network, everything_pays):
    images = images_of(network, 6)
    alone, two = (model_of(network, threads) for threads in (1, 2))
    expected = alone.logits(images)
    for i in 50 * list(range(6)):
        np.testing.assert_array_equal(two.logits(images[i : i + 1]), expected[i : i + 1])


def test_the_caller_waits_for_no_thread_that_does_not_run(everything_pays, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    network = WINDOWS
    expected = model_of(network, 1).logits(images_of(network, 1))
    one, out = one_of(network, 4), np.empty((1, network.outputs), np.float32)
    alone = team.Team(4)
    monkeypatch.setattr(team, "of", lambda threads: alone)
    gather_at = gather.gather_address(out.dtype, np.uint8, False)
    scale = np.array([[1 / 255], [0]], np.float32)
    reading = one_image_of.Reading(np.dtype(np.uint8), 1 / 255, gather_at, scale)
    image, one._alone = images_of(network, 1).reshape(1, -1), 0
    for _ in range(3):
        one(reading, image, out)
        np.testing.assert_array_equal(out, expected)


def test_small_operations_are_not_cut():
    inference = model_of(preset("lenet5", (28, 28, 1), 10), 2)._inference
    assert len(one_image(inference)._job[1]) == 1


def test_a_stage_is_worth_what_all_its_operations_take():
    """Neither of the two would pay by itself."""
    depthwise, pointwise = Conv2d(64, 3, padding="same", groups=64), Conv2d(64, 1)
    last = [GlobalAvgPool2d(), Dense(3)]
    alone = one_of(Network((6, 6, 64), [pointwise, *last]), 2)
    assert len(alone._job[1]) == 1
    both = one_of(Network((6, 6, 64), [depthwise, pointwise, *last]), 2)
    assert np.diff(both._job[1][:, :2]).ravel().tolist() == [2, 2, 2]


def test_a_shortcut_is_computed_beside_the_main_path():
    """And so are the sum of both, and its ReLU: a stage for each 3×3 convolution, and the last."""
    tasks = one_of(preset("resnet8", (32, 32, 3), 10), 2)._job[1]
    assert len(set(tasks[:, 2])) == 8


def test_large_operations_are_cut():
    one = one_of(preset("vgg-small", (28, 28, 1), 10), 2)
    stages = Counter(one._job[1][:, 2])
    assert max(stages.values()) == 2 and len(one._job[0]) > len(one._job[2])


@pytest.fixture
def windows(everything_pays, monkeypatch):
    """One image at a time of a model on two threads, each 1 ms after the one before, and what it
    counts by: whether an image was shared."""
    made, clock = team.Team(2), itertools.count(0, 500_000)
    monkeypatch.setattr(team, "of", lambda threads: made)
    monkeypatch.setattr(one_image_of, "perf_counter_ns", clock.__next__)
    state, image = made.call(lambda state: state), images_of(WINDOWS, 1)
    model = model_of(WINDOWS, 2)

    def is_shared(least):
        """Of an image that takes 0.5 ms, where one by one thread takes ``least`` ns."""
        before, model._inference._one._least = state[team._OVER], least
        model.logits(image)
        return bool(state[team._OVER] > before)

    return model._inference._one, is_shared


def test_the_first_images_are_computed_alone(windows):
    _, is_shared = windows
    assert [is_shared(1e15) for _ in range(100)] == [False] * 8 + [True] * 92


def test_after_an_image_that_took_too_long_the_caller_computes_alone_for_a_while(windows):
    one, is_shared = windows
    one._alone = 0
    shared = [is_shared(0) for _ in range(100)]
    # For 8 images at least, and for 4, 8, 16, 32, 64 ms.
    assert [i for i in range(100) if shared[i]] == [0, 9, 18, 35, 68]
    assert one._next == 128_000_000


def test_sharing_that_is_of_no_use_ends_too(windows):
    one, is_shared = windows
    one._alone = 0
    assert [is_shared(499_999) for _ in range(50)] == [True] * 16 + [False] * 8 + [True] * 16 + (
        [False] * 8 + [True] * 2
    )


def test_sharing_that_pays_again_soon_forgets_that_it_did_not(windows):
    one, is_shared = windows
    one._alone, one._next = 0, 128_000_000
    assert all(is_shared(math.inf) for _ in range(100))  # each takes less than infinitely long
    assert one._next < 8_000_000
    assert is_shared(0) and one._least == math.inf  # the machine may be slower by now
    assert not is_shared(one._least) and one._least == 500_000
