"""The forward pass in a user's own compiled code, nothing allocated once it runs, nothing compiled
twice."""

import json
import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from numba import njit
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.core.runtime import _nrt_python, rtsys

import minicnn
from minicnn import Conv2d, Dense, Dropout, Flatten, MaxPool2d, Model, Network, ReLU, Trainer
from minicnn.kernels.cpu import infer, passes, step, team
from minicnn.training.run import Run
from tests.training import small

forward = minicnn.forward

NETWORKS = [
    small.network(),
    Network(
        (9, 7, 2),
        [
            Conv2d(5, 3, padding="same"),
            ReLU(),
            MaxPool2d(2),
            Conv2d(4, 2),
            ReLU(),
            Flatten(),
            Dense(4),
        ],
    ),
    Network((3, 3, 1), [Flatten(), Dense(2)]),
    Network((2, 2, 1), [Flatten()]),
]


def model_of(network):
    params = network.initialize(np.random.default_rng(2))
    return Model(
        network, params, tuple(map(str, range(network.outputs))), maximum=1.0, image_dtype="float32"
    )


def images_for(network, count):
    return np.random.default_rng(3).random((count, *network.input_shape), dtype=np.float32)


@njit
def one_image_at_a_time(plan, params, work, images, logits):
    for i in range(len(images)):
        forward(plan, params, work, images[i : i + 1], logits[i : i + 1])


@njit
def follow_the_largest(plan, params, work, image, logits, steps):
    """A simulation: the network's answer changes its next input."""
    flat = image.reshape(-1)
    for _ in range(steps):
        forward(plan, params, work, image, logits)
        place = (logits[0].argmax() * 7) % len(flat)
        flat[place] = 1 - flat[place]


@njit
def with_an_array_each_time(image, steps):
    total = 0.0
    for _ in range(steps):
        total += np.empty(len(image) + 1)[0] * 0
    return total


# --- equal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: " ".join(network.layer_names))
def test_a_users_compiled_function_computes_what_the_model_computes_bit_by_bit(network):
    model, images = model_of(network), images_for(network, 21)
    expected = model.logits(images)
    for batch_size in (1, 4, 21, 50):
        plan, params, work = model.njit_arguments(batch_size)
        work[:] = np.nan
        for function in (one_image_at_a_time, forward):
            logits = np.full((21, network.outputs), np.nan, np.float32)
            function(plan, params, work, images, logits)
            np.testing.assert_array_equal(logits, expected)


def test_a_network_inside_a_compiled_loop_does_what_it_does_outside():
    network = NETWORKS[1]
    model = model_of(network)
    inside, outside = images_for(network, 1), images_for(network, 1)
    follow_the_largest(*model.njit_arguments(), inside, np.empty((1, 4), np.float32), 25)
    for _ in range(25):
        flat, logits = outside.reshape(-1), model.logits(outside)
        place = (int(logits[0].argmax()) * 7) % flat.size
        flat[place] = 1 - flat[place]
    np.testing.assert_array_equal(inside, outside)
    assert (inside != images_for(network, 1)).any()


def test_the_scale_of_the_model_takes_bytes_to_what_forward_wants():
    model = small.train(epochs=1)[0].model
    images, _ = small.arrays(10)
    logits = np.empty((10, 3), np.float32)
    forward(*model.njit_arguments(4), images * np.float32(model.scale), logits)
    np.testing.assert_array_equal(logits, model.logits(images))


def test_weights_may_be_changed_between_two_calls():
    model, images = model_of(NETWORKS[0]), images_for(NETWORKS[0], 2)
    arguments, logits = model.njit_arguments(2), np.empty((2, 3), np.float32)
    forward(*arguments, images, logits)
    before = logits.copy()
    arguments.params[:] *= 2
    forward(*arguments, images, logits)
    assert (logits != before).any()
    np.testing.assert_array_equal(logits, model.logits(images))


# --- no allocation --------------------------------------------------------------------------------


@pytest.fixture
def allocations():
    """A function that counts the arrays that compiled code allocates in a call."""
    rtsys.initialize(cpu_target.target_context)
    _nrt_python.memsys_enable_stats()

    def count(function, *arguments):
        function(*arguments)  # compiled, and warm
        before = rtsys.get_allocation_stats().mi_alloc
        function(*arguments)
        return rtsys.get_allocation_stats().mi_alloc - before

    yield count
    _nrt_python.memsys_disable_stats()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: " ".join(network.layer_names))
def test_forward_allocates_nothing(network, allocations):
    model, image = model_of(network), images_for(network, 1)
    logits = np.empty((1, network.outputs), np.float32)
    once = allocations(follow_the_largest, *model.njit_arguments(), image, logits, 1)
    assert allocations(follow_the_largest, *model.njit_arguments(), image, logits, 101) == once
    assert (
        allocations(with_an_array_each_time, image, 101)
        - allocations(with_an_array_each_time, image, 1)
        == 100
    )


def prepared(network, images=400, batch_size=100, **options):
    """A run, compiled, before its first step."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, *network.input_shape), dtype=np.uint8)
    options = {"batch_size": batch_size, "threads": 2, "val_split": 0.0} | options
    trainer = Trainer(network, **options)
    run = Run(
        trainer,
        trainer._dataset((x, np.arange(images) % network.outputs), None, None, None),
        None,
        None,
    )
    run.compile()
    return run


@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_step_allocates_the_same_for_any_batch_and_network(
    threads, allocations, monkeypatch
):
    """What Numba allocates a launch are the headers of the arguments: as many for one image as for
    a hundred. The other thread, which has one as well whenever it wakes up, sleeps."""
    with monkeypatch.context() as before_it_starts:
        before_it_starts.setattr(threading.Thread, "start", lambda thread: None)
        asleep = team.Team(2)
    monkeypatch.setattr(team, "of", lambda threads: asleep)
    deep = Network(
        (6, 6, 1), [*[Conv2d(8, 3, padding="same"), ReLU(), Dropout(0.1)] * 4, Flatten(), Dense(3)]
    )
    found = set()
    for network in (small.network(), deep):
        run = prepared(network, threads=threads)
        for count in (1, 7, 100):
            found.add(allocations(run.engine.step, np.arange(count), {"learning_rate": 0.001}))
    assert len(found) == 1 and found.pop() < 40


def test_a_training_step_makes_no_large_array_on_the_host_and_keeps_none():
    network = Network((6, 6, 1), [Flatten(), Dense(2000), ReLU(), Dense(3)])
    run = prepared(network, optimizer="adam")
    order = np.arange(100)
    for _ in range(5):
        run.engine.step(order, {"learning_rate": 0.001})
    tracemalloc.start()
    try:
        run.engine.step(order, {"learning_rate": 0.001})
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(50):
            run.engine.step(order, {"learning_rate": 0.001})
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert network.flat_size * 4 > 300_000
    assert peak - before < 10_000
    assert after - before < 2_000


# --- no compilation -------------------------------------------------------------------------------


def test_nothing_is_compiled_at_the_second_step_for_the_second_network_or_another_batch_size():
    def signatures():
        functions = [
            *vars(step).values(),
            *vars(infer).values(),
            *vars(passes).values(),
            one_image_at_a_time,
        ]
        dispatchers = [getattr(function, "dispatcher", function) for function in functions]
        return {
            id(entry): len(entry.signatures)
            for entry in dispatchers
            if isinstance(entry, Dispatcher)
        }

    small.train(epochs=1)
    model, images = model_of(NETWORKS[0]), images_for(NETWORKS[0], 2)
    model.logits(images)
    model.logits(images_for(NETWORKS[0], 20_000))  # on both threads
    one_image_at_a_time(*model.njit_arguments(), images, np.empty((2, 3), np.float32))
    before = signatures()
    assert (
        before[id(step.train_step.dispatcher)] > 0
        and before[id(infer.infer.dispatcher)] > 0
        and before[id(one_image_at_a_time)] == 1
    )
    for network in NETWORKS[:3]:
        for batch_size in (1, 13, 64):
            for options in (
                {"optimizer": "lion", "loss": "mse"},
                {"clip_grad": 1.0, "schedule": "cosine"},
            ):
                run = prepared(network, images=70, batch_size=batch_size, **options)
                run.engine.step(np.arange(batch_size), {"learning_rate": 0.1})
                run.engine.step(np.arange(batch_size), {"learning_rate": 0.1})
        model, images = model_of(network), images_for(network, 5)
        model.logits(images)
        one_image_at_a_time(
            *model.njit_arguments(3), images, np.empty((5, network.outputs), np.float32)
        )
    assert signatures() == before


USERS_FILE = """
import json, sys
import numpy as np
from numba import njit
from numba.core.dispatcher import Dispatcher
import minicnn
from minicnn import Conv2d, Dense, Flatten, Loss, Model, Network, Optimizer, ReLU

forward = minicnn.forward

@njit(cache=True)
def simulate(plan, params, work, image, logits):
    for _ in range(3):
        forward(plan, params, work, image, logits)
        image[0, 0, 0, 0] = logits[0, 0]

network = Network((5, 5, 1), [Conv2d(2, 3), ReLU(), Flatten(), Dense(2)])
model = Model(network, network.initialize(np.random.default_rng(0)), ("a", "b"))
image, logits = np.ones((1, 5, 5, 1), np.float32), np.empty((1, 2), np.float32)
simulate(*model.njit_arguments(), image, logits)
answer = model.logits(np.full((4, 5, 5, 1), 9, np.uint8))
value, slope = Loss("cross_entropy", 2)(answer, np.array([0, 1, 0, 1]))
Optimizer("adam", network.flat_size).update(model.params.copy(), np.ones_like(model.params))
modules = [module for name, module in sys.modules.items() if name.startswith("minicnn.kernels")]
functions = {f.__name__: f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher)}
functions["simulate"] = simulate
hits = {name: sum(f.stats.cache_hits.values()) for name, f in functions.items()}
misses = {name: sum(f.stats.cache_misses.values()) for name, f in functions.items()}
print(json.dumps([hits, misses, [logits.tolist(), value, model.params.tolist()]]))
"""


def start(file, cache, *arguments):
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(file), *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def answer_of(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output)


ADDRESSES = """
import json, sys
import numpy as np
from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network
from minicnn.backends.layout import lay_out
from minicnn.kernels.cpu import passes

if "embedded" in sys.argv:
    sys.executable = "/usr/bin/another-program"
compiled, made = passes.compiled, []
passes.compiled = lambda *given: made.append(compiled(*given)) or made[-1]
network = Network((8, 8, 2), [Conv2d(2, 3), MaxPool2d(2), Flatten(), Dense(2)])
table = lay_out(network, 1, True, np.dtype(np.float32)).table
print(json.dumps([bool(table["forward"].all()), sum(kernel.cache_hits for kernel in made)]))
"""


@pytest.mark.parametrize("program", ["python", pytest.param("embedded", marks=pytest.mark.slow)])
def test_a_second_process_compiles_half_of_the_kernels_where_one_can_be_started(tmp_path, program):
    file = tmp_path / "addresses.py"
    file.write_text(ADDRESSES)
    there, from_the_disk = answer_of(start(file, tmp_path / "cache", program))
    assert there and (from_the_disk >= 3) == (program == "python" and os.cpu_count() > 1)


@pytest.mark.slow
def test_two_processes_fill_an_empty_cache_at_once_and_the_third_compiles_nothing(tmp_path):
    file = tmp_path / "users.py"
    file.write_text(USERS_FILE)
    together = [start(file, tmp_path / "cache") for _ in range(2)]
    first, second = [answer_of(process) for process in together]
    third_hits, third_misses, third = answer_of(start(file, tmp_path / "cache"))
    assert first[2] == second[2] == third
    assert sum(first[1].values()) + sum(second[1].values()) > 4
    assert sum(third_misses.values()) == 0
    assert third_hits["simulate"] == third_hits["loss_of"] == third_hits["update"] == 1
