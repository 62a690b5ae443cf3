"""The same seed and threads give the same run bit by bit; dropout is a function of seed, step,
layer, sample, element."""

import numpy as np
import pytest

from minicnn import (
    Conv2d,
    Dense,
    Dropout,
    Dropout2d,
    DropPath,
    Flatten,
    Loss,
    Network,
    Optimizer,
    Passes,
    ReLU,
    Residual,
    Trainer,
)
from minicnn.backends import cpu, layout
from minicnn.training.checkpoint import Checkpoint
from minicnn.training.events import BatchDone, EpochDone
from minicnn.training.inputs import fingerprint
from minicnn.training.run import Run
from tests.training import small

WIDE = Network((6, 6, 1), [Conv2d(24, 3), ReLU(), Flatten(), Dropout(0.2), Dense(3)])


@pytest.fixture(autouse=True)
def every_step_is_worth_a_second_thread(monkeypatch):
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 0)


def prepared(trainer, data):
    """A run with its kernels compiled, before its first step."""
    prepared_run = Run(trainer, data, None, None)
    prepared_run.compile()
    return prepared_run


def run(network, threads, seed=0):
    trainer, events = Trainer(network, small.settings(threads=threads, seed=seed)), []
    trainer.fit(small.dataset(), reporters=[events.append])
    losses = [event.loss for event in events if isinstance(event, BatchDone)]
    validation = [event.validation_loss for event in events if isinstance(event, EpochDone)]
    return trainer.progress.params, losses, validation


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("network", [small.network(), WIDE], ids=["small", "wide"])
def test_the_same_seed_and_threads_give_the_same_run_bit_by_bit(network, threads):
    first, second = run(network, threads), run(network, threads)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1:] == second[1:]


def test_two_threads_differ_from_one_by_rounding_alone():
    rules = Trainer(WIDE).optimizer_rule, Trainer(WIDE).loss_rule
    training = cpu.TrainStep(WIDE, WIDE.initialize(np.random.default_rng(0)), 12, *rules, threads=2)
    assert training.threads == 2 and len(training._grads) == 2
    one, two = run(WIDE, 1), run(WIDE, 2)
    np.testing.assert_allclose(two[1], one[1], rtol=1e-5)
    np.testing.assert_allclose(two[0], one[0], atol=1e-4)
    assert (two[0] != one[0]).any()  # else nothing was divided


def test_whatever_the_kernels_read_in_vectors_begins_on_a_cache_line():
    trainer = Trainer(WIDE, small.settings(threads=2, optimizer="adam"))
    trainer.fit(small.dataset())
    checkpoint = Checkpoint(
        WIDE, trainer.settings.to_dict(), trainer.progress, fingerprint(small.dataset().train)
    )
    for resumed in (None, checkpoint):
        run = Run(trainer, small.dataset(), None, resumed)
        run.compile()
        training = run.engine.training
        rows = [
            *training._work,
            *training._grads,
            *training._transposed,
            *run.engine.inference._workspaces[0],
        ]
        for array in (
            training.params,
            run.engine.inference.params,
            run.optimizer.slots,
            run.model(None).params,
            *rows,
        ):
            assert array.ctypes.data % 64 == 0
        assert (
            training._totals.strides[0] >= 128
        )  # two threads write them, and lines are fetched in pairs


def test_another_seed_gives_other_weights_another_split_another_order_and_another_dropout():
    data, orders = small.dataset(), []
    trainers = [Trainer(small.network(), small.settings(seed=seed)) for seed in (0, 1)]
    for trainer in trainers:
        run = prepared(trainer, data)
        orders.append(
            (run.inputs.train, run.inputs.order(1), run.inputs.order(2), run.progress.params)
        )
    (train, first, second, params), (other_train, other_first, _, other_params) = orders
    assert (train != other_train).any() and (params != other_params).any()
    assert (first != second).any() and (
        np.argsort(np.argsort(first)) != np.argsort(np.argsort(other_first))
    ).any()
    losses = []
    for seed in (0, 1):  # the same weights and images, so that dropout alone makes a difference
        run = prepared(Trainer(small.network(), small.settings(seed=seed)), data)
        run.progress.params[:] = params
        losses.append(run.engine.step(np.arange(12), {"learning_rate": 0.001}).loss)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_dropout_is_the_same_for_any_chunks(threads, monkeypatch):
    found = []
    for chunk in (1, 2, 5, 16):
        monkeypatch.setattr(layout, "_SMALLEST_CHUNK", chunk)
        monkeypatch.setattr(layout, "_LARGEST_CHUNK", chunk)
        settings = small.settings(threads=threads, batch_size=45)
        run = prepared(Trainer(small.network(dropout=0.6), settings), small.dataset())
        assert run.engine.training.plan.table["chunk"][0] == chunk
        found.append(run.engine.step(np.arange(45), {"learning_rate": 0.001}))
    assert len({result.loss for result in found}) == 1
    np.testing.assert_allclose(
        [result.gradient_norm for result in found], found[0].gradient_norm, rtol=1e-5
    )


def test_dropout_is_the_same_for_any_number_of_threads():
    runs = [
        prepared(Trainer(WIDE, small.settings(threads=threads)), small.dataset())
        for threads in (1, 2)
    ]
    one, two = (run.engine.step(np.arange(12), {"learning_rate": 0.001}) for run in runs)
    assert one.loss == pytest.approx(two.loss, rel=1e-6)


def masks(rate, samples=64, features=300, key=1):
    """What is kept, [samples, features], by a dropout layer behind a dense layer that gives
    ones."""
    network = Network((1, 1, 1), [Flatten(), Dense(features), Dropout(rate)])
    params = network.flatten(
        {"dense1.weight": np.zeros((1, features)), "dense1.bias": np.ones(features)}
    )
    passes = Passes(network, params, samples)
    kept = passes.forward(np.zeros((samples, 1, 1, 1)), key).copy()
    assert set(np.unique(kept)) == {0, np.float32(1 / (1 - rate))}
    return kept > 0, passes


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_share_that_it_promises(rate):
    kept, _ = masks(rate)
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < 4 * deviation
    for axis in (0, 1):  # in every sample and for every feature
        count = kept.shape[axis]
        assert np.abs(kept.mean(axis=axis) - (1 - rate)).max() < 6 * np.sqrt(
            rate * (1 - rate) / count
        )


def test_dropouts_masks_do_not_depend_on_each_other():
    kept = masks(0.5)[0] * 2.0 - 1
    others = [
        kept[:, 1:],
        kept[1:],
        masks(0.5, key=2)[0] * 2.0 - 1,
        masks(0.5, key=2**63 + 1)[0] * 2.0 - 1,
    ]
    for other in others:
        here = kept[: len(other), : other.shape[1]]
        assert abs((here * other).mean()) < 4 / np.sqrt(here.size)


def test_stochastic_depth_leaves_the_branch_out_for_whole_samples():
    """y = x + 2 · branch where it is kept, x where it is not; with all samples x + branch in
    inference."""
    network = Network((1, 1, 4), [Flatten(), Residual([Dense(4), DropPath(0.5)])])
    rng = np.random.default_rng(0)
    params = rng.normal(size=network.flat_size)
    x, dy = rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
    passes = Passes(network, params, 400)
    y = passes.forward(x.reshape(400, 1, 1, 4), 3)
    weights = network.unflatten(params)
    branch = x @ weights["dense1.weight"] + weights["dense1.bias"]
    kept = np.isclose(y, x + 2 * branch).all(axis=1)
    assert (kept != np.isclose(y, x).all(axis=1)).all() and 150 < kept.sum() < 250
    found = network.unflatten(passes.backward(dy, 3))
    np.testing.assert_allclose(found["dense1.weight"], 2 * x[kept].T @ dy[kept])
    np.testing.assert_allclose(found["dense1.bias"], 2 * dy[kept].sum(axis=0))
    inference = cpu.Inference(network, params).logits(x.reshape(400, 1, 1, 4), 1.0)
    np.testing.assert_allclose(inference, x + branch)


def test_dropout2d_drops_whole_channels():
    network = Network((2, 3, 50), [Conv2d(50, 1), Dropout2d(0.25), Flatten()])
    params = network.flatten(
        {"conv1.weight": np.zeros((1, 1, 50, 50)), "conv1.bias": np.ones(50)}
    ).astype(np.float64)
    y = Passes(network, params, 40).forward(np.zeros((40, 2, 3, 50)), 3).reshape(40, 6, 50)
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3])
    assert (y == y[:, :1]).all() and 0.7 < (y > 0).mean() < 0.8


def test_two_dropout_layers_have_masks_of_their_own():
    network = Network((1, 1, 1), [Flatten(), Dense(4000), Dropout(0.5), Dropout(0.5)])
    params = network.flatten({"dense1.weight": np.zeros((1, 4000)), "dense1.bias": np.ones(4000)})
    kept = Passes(network, params, 1).forward(np.zeros((1, 1, 1, 1)), 3) > 0
    assert abs(kept.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_the_backward_pass_drops_what_the_forward_pass_dropped():
    for sample in range(3):
        kept, passes = masks(0.4, samples=3)
        dlogits = np.zeros((3, 300), np.float32)
        dlogits[sample] = 1
        biases = passes.plan.table[0]["bias"] + np.arange(300)
        found = passes.backward(dlogits, key=1)[biases]
        np.testing.assert_array_equal(found, kept[sample] / np.float32(0.6))
        assert (passes.backward(dlogits, key=2)[biases] != found).any()


def test_the_four_lines_of_the_teaching_texts_are_the_trainers_step():
    data = small.dataset()
    trainer = Trainer(
        small.network(dropout=0),
        small.settings(optimizer="adam", epochs=1, batch_size=45, threads=1),
    )
    run = prepared(trainer, data)
    order = run.inputs.order(1)
    params = run.progress.params.copy()
    passes, loss = Passes(trainer.network, params, 45), Loss("cross_entropy", small.CLASSES)
    optimizer = Optimizer("adam", len(params))
    for _ in range(3):
        result = run.engine.step(order, {"learning_rate": 0.001})
        logits = passes.forward(data.train.images[order] * np.float32(data.scale))
        value, dlogits = loss(logits, data.train.labels[order])
        grads = passes.backward(dlogits)
        optimizer.update(params, grads)
        assert value == pytest.approx(result.loss, rel=1e-5)
        assert np.linalg.norm(grads) == pytest.approx(result.gradient_norm, rel=1e-4)
    np.testing.assert_allclose(params, run.progress.params, atol=1e-5)


def test_dropout_masks_of_neighbouring_steps_and_layers_differ():
    network = Network(
        (1, 1, 64), [Conv2d(64, 1), Dropout(0.5), Conv2d(64, 1), Dropout(0.5), Flatten()]
    )
    params = np.zeros(network.flat_size, np.float32)
    for name, tensor in network.unflatten(params).items():
        tensor[:] = 0 if name.endswith("weight") else 1
    passes = cpu.Passes(network, params, 1, by_operation=True)
    masks = {}
    for key in range(8):
        passes.forward_by_operation(np.zeros((1, 1, 1, 64), np.float32), key)
        for node, record in zip(passes.plan.nodes, passes.plan.table, strict=True):
            if node.operation != "dropout":
                continue
            kept = passes.work[record["y"] :][:64] != 0
            assert kept.tobytes() not in masks, (
                f"step {key}, layer {record['layer']} repeats {masks.get(kept.tobytes())}"
            )
            masks[kept.tobytes()] = key, int(record["layer"])
