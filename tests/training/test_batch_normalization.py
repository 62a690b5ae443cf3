"""Batch normalization in training: whole-batch statistics across shards, running ones as state,
folded in inference."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numba import njit

import minicnn
from minicnn import (
    BatchNorm2d,
    Conv2d,
    Dense,
    Flatten,
    Loss,
    Model,
    Network,
    ReLU,
    Residual,
    Softmax,
    Trainer,
    plugins,
)
from minicnn.backends import RunInputs, StepInputs, StepOptions, cpu, layout
from minicnn.model_file import load
from minicnn.network.activations import GELU
from minicnn.program import planner
from minicnn.program.fold import fold
from tests.graphs import graphs
from tests.networks import oracle_inference, oracle_training, random_params
from tests.training import small

LAYERS = [
    Conv2d(4, 3, padding="same", bias=False),
    BatchNorm2d(),
    ReLU(),
    Residual([Conv2d(4, 3, padding="same"), BatchNorm2d(momentum=0.3)]),
    Flatten(),
    BatchNorm2d(),
    Dense(5),
    BatchNorm2d(),
    ReLU(),
    Dense(small.CLASSES),
]
NETWORK = Network((6, 6, 1), LAYERS)


def step(params, images, labels, threads, rule="sgd", batch_size=None, network=NETWORK):
    """(training, result) of one step on all ``images`` [N, H, W, C], with loss cross-entropy."""
    loss = Loss("cross_entropy", network.outputs, None, params.dtype)
    optimizer = minicnn.Optimizer(rule, network, params.dtype)
    training = cpu.TrainStep(
        network,
        params,
        batch_size or len(images),
        plugins.find("optimizer", rule),
        loss.rule,
        threads,
        StepOptions(spans=optimizer.spans),
    )
    rows = images.reshape(len(images), -1)
    data = RunInputs(rows, labels, 1.0, loss.one_hot, loss.class_weights, loss.hyperparameters)
    batch = StepInputs(np.arange(len(images)), float(len(images)), 0, optimizer.scalars())
    return training, training.step(data, batch, optimizer.slots)


def go_in_parts(monkeypatch):
    """A shard of any size goes through a segment two samples after the other."""
    monkeypatch.setattr(layout, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(layout, "_SMALLEST_PART", 2)
    monkeypatch.setattr(layout, "_VALUES_BY_WEIGHTS", 0)


def data_of(images, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(images, 6, 6, 1)), rng.integers(0, small.CLASSES, images)


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_on_several_shards_is_the_oracles_on_the_whole_batch(threads, parts, monkeypatch):
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 0)
    if parts:
        go_in_parts(monkeypatch)
    params = random_params(NETWORK, np.random.default_rng(1))
    x, labels = data_of(7)
    logits = oracle_training(NETWORK, params, x, np.zeros((7, small.CLASSES))).values[-1]
    _, dlogits = Loss("cross_entropy", small.CLASSES, None, np.float64)(logits, labels)
    expected = oracle_training(NETWORK, params, x, dlogits)
    training, _ = step(params.copy(), x, labels, threads)
    assert len(training._grads) == threads
    assert training.plan.parts == ({1: 4, 2: 2}[threads] if parts else 1)
    np.testing.assert_allclose(training.grads, expected.grads, atol=1e-10)
    state = slice(NETWORK.trainable_size, None)
    np.testing.assert_allclose(training.params[state], expected.params_after[state], atol=1e-10)
    assert (training.params[state] != params[state]).any()


@settings(max_examples=25, deadline=None)
@given(network=graphs(), images=st.integers(5, 9), seed=st.integers(0, 100))
def test_a_step_in_parts_is_that_on_whole_shards(network, images, seed):
    assume(not isinstance(network.layers[-1], Softmax))
    network = Network(network.input_shape, [*network.layers, BatchNorm2d(), ReLU(), BatchNorm2d()])
    rng = np.random.default_rng(seed)
    params = random_params(network, rng)
    x, labels = (
        rng.normal(size=(images, *network.input_shape)),
        rng.integers(0, network.outputs, images),
    )
    whole, loss = step(params.copy(), x, labels, 2, network=network)
    with pytest.MonkeyPatch.context() as patch:
        go_in_parts(patch)
        parts, same = step(params.copy(), x, labels, 2, network=network)
    assert parts.plan.parts > whole.plan.parts == 1
    assert same.loss == pytest.approx(loss.loss, nan_ok=True)
    scale = 1 + np.nan_to_num(np.abs(whole.grads)).max()
    np.testing.assert_allclose(parts.grads / scale, whole.grads / scale, atol=1e-8)
    np.testing.assert_allclose(parts.params / scale, whole.params / scale, atol=1e-8)


def test_only_what_leaves_the_cache_is_computed_in_parts_and_those_of_wide_layers_are_larger():
    few = [Conv2d(16, 3, padding="same"), BatchNorm2d(), Flatten()]
    found = [
        layout.plan_for_batch(Network((32, 32, 3), layers), batch, True, np.dtype(np.float32))
        for layers, batch in ((few, 32), (few, 33), ([*few, Dense(40)], 129))
    ]
    assert [(plan.parts, plan.table[0]["chunk"]) for plan in found] == [(1, 32), (3, 11), (2, 65)]


AGAIN = [
    *[Conv2d(6, 3, padding="same"), BatchNorm2d(), ReLU()],
    Residual([Conv2d(6, 3, padding="same"), BatchNorm2d(), GELU()]),
    *[Conv2d(6, 3, padding="same"), BatchNorm2d(), Flatten(), Dense(small.CLASSES)],
]


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "in parts"])
def test_what_batch_normalization_writes_again_has_the_same_bits(parts, monkeypatch):
    """The first is read in another segment too, the last is the dense layer's; the second does not
    stay."""
    if parts:
        go_in_parts(monkeypatch)
    network = Network((6, 6, 1), AGAIN)
    params = random_params(network, np.random.default_rng(1))
    again, loss = step(params.copy(), *data_of(7), 2, network=network)
    table, nodes = again.plan.table, again.plan.nodes
    assert [node.layers for node, one in zip(nodes, table, strict=True) if one["again"]] == [(4,)]
    monkeypatch.setattr(planner, "_written_again", lambda *given: {})
    stays, same = step(params.copy(), *data_of(7), 2, network=network)
    assert not stays.plan.table["again"].any()
    assert again.plan.work_size < stays.plan.work_size
    assert loss == same
    np.testing.assert_array_equal(again.params, stays.params)


def test_a_convolution_that_gives_the_logits_reads_normalization_that_stays():
    layers = [Conv2d(4, 3), BatchNorm2d(), Conv2d(small.CLASSES, 4), Flatten()]
    network = Network((6, 6, 1), layers)
    params = random_params(network, np.random.default_rng(1))
    x, labels = data_of(7)
    logits = oracle_training(network, params, x, np.zeros((7, small.CLASSES))).values[-1]
    _, dlogits = Loss("cross_entropy", small.CLASSES, None, np.float64)(logits, labels)
    training, _ = step(params.copy(), x, labels, 2, network=network)
    expected = oracle_training(network, params, x, dlogits)
    np.testing.assert_allclose(training.grads, expected.grads, atol=1e-10)


def test_a_last_batch_of_fewer_images_than_shards_is_one_of_fewer_shards():
    params = random_params(NETWORK, np.random.default_rng(1))
    x, labels = data_of(1)
    one, two = (step(params.copy(), x, labels, threads, batch_size=8)[0] for threads in (1, 2))
    np.testing.assert_array_equal(one.grads, two.grads)
    np.testing.assert_array_equal(one.params, two.params)


def test_a_step_that_is_not_finite_leaves_the_running_statistics_as_they_are():
    params = random_params(NETWORK, np.random.default_rng(1))
    x, labels = data_of(4)
    x[2, 1, 1, 0] = np.nan
    training, result = step(params.copy(), x, labels, 2)
    assert not np.isfinite(result.loss)
    np.testing.assert_array_equal(training.params, params)


def test_a_batch_of_one_number_leaves_the_running_variance():
    params = random_params(NETWORK, np.random.default_rng(1))
    training, _ = step(params.copy(), *data_of(1), 1)
    before, after = NETWORK.unflatten(params), NETWORK.unflatten(training.params)
    for name, same in (("batchnorm1", False), ("batchnorm3", True)):  # the last has one number
        assert (before[f"{name}.running_var"] == after[f"{name}.running_var"]).all() == same
        assert (before[f"{name}.running_mean"] != after[f"{name}.running_mean"]).any()


def test_no_optimizer_touches_the_state():
    for rule in ("adamw", "lion", "momentum"):
        optimizer = minicnn.Optimizer(rule, NETWORK, weight_decay=0.1)
        params = np.ones(NETWORK.flat_size, np.float32)
        optimizer.update(params, np.ones(NETWORK.flat_size, np.float32))
        assert (params[NETWORK.trainable_size :] == 1).all() and (
            params[: NETWORK.trainable_size] != 1
        ).any()
        assert optimizer.slots.shape[1] == NETWORK.trainable_size


@pytest.mark.parametrize("threads", [1, 2])
def test_a_resumed_run_is_bitwise_the_whole_one(threads, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, epochs in ((whole, 4), (parts, 2)):
        folder.mkdir()
        Trainer(NETWORK, small.settings(threads=threads, epochs=epochs)).fit(
            small.dataset(), output=folder
        )
    assert small.tensors(parts) != small.tensors(whole)
    small.resume(parts, epochs=4)
    small.assert_same_run(parts, whole)
    assert "batchnorm1.running_mean" in small.tensors(whole, "model")


def test_inference_folds_it_into_the_layer_before_and_predicts_the_same(tmp_path):
    params = random_params(NETWORK, np.random.default_rng(2))
    folded, weights = fold(NETWORK, params)
    x, _ = data_of(5)
    expected = oracle_inference(NETWORK, params, x)
    kinds = [type(layer).__name__ for layer in folded.layers]
    assert (
        kinds.count("BatchNorm2d") == 1
    )  # the one after Flatten has no weights before it that it could be folded into
    np.testing.assert_allclose(
        cpu.Inference(folded, weights, 1).logits(x, 1.0), expected, atol=1e-10
    )
    np.testing.assert_allclose(
        cpu.Inference(NETWORK, params, 1).logits(x, 1.0), expected, atol=1e-10
    )
    model = Model(
        NETWORK, params.astype(np.float32), tuple("abc"), maximum=1.0, image_dtype="float32"
    )
    model.save(tmp_path / "m.safetensors")
    scaled = np.abs(x).astype(np.float32) / 10
    assert np.array_equal(load(tmp_path / "m.safetensors").logits(scaled), model.logits(scaled))


def test_a_network_without_it_is_not_copied():
    network = small.network()
    params = network.initialize(np.random.default_rng(0))
    assert fold(network, params) == (network, params) and fold(network, params)[1] is params


def test_a_network_with_it_runs_in_the_users_compiled_code():
    forward = minicnn.forward

    @njit
    def both(plan, params, work, images, logits):
        forward(plan, params, work, images, logits)
        return logits.sum()

    params = random_params(NETWORK, np.random.default_rng(2), np.float32)
    model = Model(NETWORK, params, tuple("abc"), maximum=1.0, image_dtype="float32")
    images, logits = (
        np.random.default_rng(0).random((3, 6, 6, 1), np.float32),
        np.empty((3, 3), np.float32),
    )
    both(*model.njit_arguments(), images, logits)
    np.testing.assert_allclose(logits, model.logits(images), rtol=1e-5, atol=1e-6)
