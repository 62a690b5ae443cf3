"""Places in the workspace: no two buffers that are alive together overlap, and what can share a
place does."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import (
    Add,
    BatchNorm2d,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    ReLU,
    Tanh,
    load,
    preset,
)
from minicnn.backends.layout import lay_out
from minicnn.errors import UnknownNameError
from minicnn.kernels.cpu import passes
from minicnn.network.activations import LeakyReLU, Softmax
from minicnn.program.graph import cuts, fuse, lower
from minicnn.program.operations import OPERATIONS
from minicnn.program.planner import make_plan
from tests.graphs import graphs
from tests.networks import random_params
from tests.test_project import ROOT

# Numbers in the workspace of 16 images before values had live ranges, with one lane, in training.
BEFORE = {
    ("lenet5", (28, 28, 1)): 216_160,
    ("vgg-small", (28, 28, 1)): 1_570_208,
    ("mlp", (28, 28, 1)): 39_840,
}


@pytest.mark.parametrize(("name", "shape"), BEFORE)
def test_the_workspace_is_at_most_seven_tenths_of_what_it_was(name, shape):
    assert make_plan(preset(name, shape, 10), 16, True, 1).work_size <= 0.70 * BEFORE[name, shape]


@settings(max_examples=100, deadline=None)
@given(network=graphs(), seed=st.integers(0, 100))
def test_sharing_places_changes_no_bit(network, seed):
    """The same operations laid out so that nothing shares a place."""
    rng = np.random.default_rng(seed)
    params = random_params(network, rng)
    x, dlogits = rng.normal(size=(3, *network.input_shape)), rng.normal(size=(3, network.outputs))
    found = []
    for keep in (False, True):
        plan = lay_out(network, 3, True, params.dtype, keep=keep)
        work, transposed, grads = (
            np.zeros(plan.work_size),
            np.zeros_like(params),
            np.zeros_like(params),
        )
        logits = np.empty((3, network.outputs))
        passes.forward_keep(plan.table, params, work, x, logits, np.uint64(0))
        passes.backward(plan.table, params, transposed, work, dlogits, grads, np.uint64(0))
        found.append((plan.work_size, logits, grads))
    (shared_size, *shared), (apart_size, *apart) = found
    assert shared_size <= apart_size
    np.testing.assert_array_equal(shared[0], apart[0])
    np.testing.assert_array_equal(shared[1], apart[1])


@pytest.mark.parametrize("units", [4, 5])
def test_softmax_gives_the_same_bits_wherever_its_numbers_lie(units):
    """Its sum was taken in another order where input and output were apart."""
    network = Network((1, 1, 2), [Flatten(), Dense(units), Softmax()])
    for seed in range(10):
        test_sharing_places_changes_no_bit.hypothesis.inner_test(network, seed)


def test_memory_of_a_chain_does_not_grow_with_its_length_in_inference():
    def chain(length):
        return Network((8, 8, 4), [*[Conv2d(4, 3, padding=1) for _ in range(length)], Flatten()])

    assert make_plan(chain(20), 4, False, 1).work_size == make_plan(chain(3), 4, False, 1).work_size


def test_a_negative_slope_of_a_leaky_relu_is_refused():
    with pytest.raises(
        ValueError, match=r"negative_slope must be a number in \[0, inf\), not -0\.3"
    ):
        LeakyReLU(-0.3)


def test_the_gradient_of_the_logits_has_a_place_though_nothing_needs_it():
    """The loss, and `Passes.backward`, write it: without a place they wrote before and behind the
    workspace."""
    for layers in ([Flatten()], [MaxPool2d(2), Flatten()]):
        plan = make_plan(Network((4, 4, 1), layers), 3, True, 1)
        dy, size = int(plan.table[-1]["dy"]), 3 * int(plan.table[-1]["output_size"])
        assert 0 <= dy <= plan.work_size - size


def test_every_operation_has_kernels_on_both_devices():
    for name, row in OPERATIONS.items():
        for device in ("cpu", "cuda"):
            path = ROOT / "minicnn" / "kernels" / device / f"{row.module}.py"
            assert (
                row.rule is not None
                or path.is_file()
                or (device == "cuda" and name in ("conv_pool_grey", "winograd_conv2d"))
            ), path


def test_a_class_whose_operation_is_not_in_the_table_is_refused(monkeypatch):
    monkeypatch.setattr(ReLU, "operation", "rely")
    with pytest.raises(UnknownNameError, match="unknown operation of ReLU 'rely'; did you mean"):
        lower(Network((5, 5), [ReLU(), Flatten()]), frozen=True)


def test_a_relu_that_only_a_max_pooling_reads_is_fused_into_it_and_the_node_stands_for_both():
    network = Network((6, 6, 2), [Conv2d(3, 3), ReLU(), MaxPool2d(2), Flatten()])
    nodes = fuse(lower(network, frozen=False), 1).nodes
    assert [(node.operation, node.layers) for node in nodes[:2]] == [
        ("conv2d", (0,)),
        ("max_pool2d", (1, 2)),
    ]


def ended_with_relu(layers, training, lanes=8):
    """The operations of a network of these layers that end with a ReLU."""
    network = Network((6, 5, 3), [*layers, Flatten(), Dense(2)])
    nodes = fuse(lower(network, frozen=not training), lanes, training).nodes
    return [
        (node.operation, len(node.layers))
        for node in nodes
        if node.fields.get("relu") or node.row.fields.get("relu")
    ]


def test_operations_end_with_the_relu_after_them():
    conv = Conv2d(3, 3, padding=1, name="a")
    depthwise = Conv2d(3, 3, groups=3)
    total = [conv, Conv2d(3, 1, name="b"), Add(inputs=("a", "b")), ReLU()]
    assert ended_with_relu([conv, ReLU(), depthwise, ReLU()], False) == [
        ("conv2d", 2),
        ("depthwise_conv2d", 2),
    ]
    assert ended_with_relu([conv, ReLU(), depthwise, ReLU()], True) == []  # dx would need y
    norm = [conv, BatchNorm2d(), ReLU()]
    assert ended_with_relu(norm, True) == [("batch_statistics", 1), ("batch_norm", 2)]
    assert ended_with_relu(norm, False) == [("scale_shift", 2)]
    assert [ended_with_relu(total, training) for training in (False, True)] == [
        [("add_relu", 2)]
    ] * 2
    assert ended_with_relu(norm, True, lanes=1) == []  # CUDA, and who looks at each layer


def test_an_output_that_another_layer_reads_does_not_end_with_a_relu():
    read_twice = [Conv2d(3, 1, name="a"), ReLU(name="b"), Add(inputs=("a", "b"))]
    assert ended_with_relu(read_twice, False) == []


def test_a_program_can_be_cut_where_only_one_value_is_read_later():
    chain = lower(Network((6, 6, 2), [Conv2d(3, 3), ReLU(), Flatten()]), frozen=True)
    assert cuts(chain.nodes) == [0, 1, 2]


@pytest.mark.parametrize("name", ["lenet5", "vgg-small"])
def test_a_model_file_of_the_time_before_the_graph_predicts_the_same(name):
    folder = ROOT / "tests" / "fixtures" / "models"
    stored = np.load(folder / f"{name}.npz")
    np.testing.assert_allclose(
        load(folder / f"{name}.safetensors").logits(stored["images"]),
        stored["logits"],
        rtol=1e-5,
        atol=1e-6,
    )


def test_an_edit_of_one_kernel_leaves_the_machine_code_of_the_others_in_use(tmp_path):
    code = (
        "from minicnn.kernels.sources import digest_of\n"
        "print(*(digest_of(f'minicnn.kernels.cpu.{n}') for n in ('conv2d', 'max_pool2d', 'passes')))"
    )
    package = tmp_path / "minicnn"
    subprocess.run(["cp", "-r", str(ROOT / "minicnn"), str(package)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def digests():
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    conv, pool, walker = digests()
    with (package / "kernels" / "cpu" / "max_pool2d.py").open("a") as file:
        file.write("# edited\n")
    assert digests()[0] == conv and digests()[1] != pool and digests()[2] == walker
    with (package / "kernels" / "cpu" / "tile.py").open("a") as file:
        file.write("# edited\n")
    assert not {conv, pool, walker} & set(digests())


def test_where_values_lie_apart_no_operation_writes_where_another_wrote():
    """But for those that change a value in its place."""
    network = Network(
        (8, 8, 4), [*[Conv2d(4, 3, padding=1) for _ in range(5)], Tanh(), Flatten(), Dense(3)]
    )
    table = make_plan(network, 1, False, 8, apart=True).table
    spans = [(op["x"], op["x"] + op["input_size"]) for op in table]
    spans.append((table[-1]["y"], table[-1]["y"] + 3))
    distinct = sorted(set(spans))
    assert len(distinct) >= 7
    assert all(before[1] <= after[0] for before, after in pairwise(distinct))
