"""Runs on augmented and normalized images."""

import numpy as np
import pytest

from minicnn import Augment, BatchNorm2d, Conv2d, Dense, Flatten, Loss, Network, ReLU, Trainer, load
from minicnn.backends import StepInputs, cpu, layout
from minicnn.data.dataset import build_dataset
from minicnn.data.normalization import channel_scale, measure
from minicnn.errors import SettingError, UnknownNameError
from minicnn.plugins import find
from minicnn.training.checkpoint import load_checkpoint

RNG = np.random.default_rng(3)
X = RNG.integers(0, 256, (60, 6, 6, 3), dtype=np.uint8)
Y = np.arange(60) % 3
NETWORK = Network((6, 6, 3), [Conv2d(4, 3), ReLU(), Flatten(), Dense(3)])
AUGMENT = Augment(flip="alternating", crop=2, border="reflect", cutout=2, mixup=0.4, cutmix=0.8)


def trained(**options):
    given = {"epochs": 3, "batch_size": 16, "augment": AUGMENT, "normalize": True} | options
    trainer = Trainer(NETWORK, **given)
    trainer.fit(X, Y)
    return trainer.model.params


def test_threads_change_nothing_but_the_order_of_sums():
    np.testing.assert_allclose(trained(threads=1), trained(threads=2), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"augment": AUGMENT}], ids=["as they are", "augmented"])
def test_all_that_a_step_calls_is_compiled_before_the_first(options, monkeypatch):
    """What reads augmented images was compiled within the first batch, whose time is training's."""
    asked, original = [], cpu.gather.gather_address
    monkeypatch.setattr(
        cpu.gather, "gather_address", lambda *given: asked.append(given) or original(*given)
    )
    dataset = build_dataset("small", (X, Y))
    run = Trainer(NETWORK, epochs=1, batch_size=16, val_split=0, **options).prepared(dataset)
    run.compile()
    compiled = set(asked)
    run.engine.step(run.inputs.batch(run.inputs.order(1), 0), {})
    assert set(asked) == compiled


def test_the_views_of_a_batch_are_the_same_in_any_chunk_and_thread(monkeypatch):
    views, seen = AUGMENT.draw(0, 1, X), []
    network = Network((6, 6, 3), [Flatten(), Dense(3)])
    params = network.initialize(np.random.default_rng(0))
    loss, rule = Loss("cross_entropy", 3), find("optimizer", "sgd")
    for smallest, largest in ((1, 1), (8, 16)):
        monkeypatch.setattr(layout, "_SMALLEST_CHUNK", smallest)
        monkeypatch.setattr(layout, "_LARGEST_CHUNK", largest)
        training = cpu.TrainStep(network, params.copy(), 16, rule, loss.rule, 1)
        batch = StepInputs(np.arange(16), 16.0, 0, np.zeros((1, 2), np.float32)[:, :1], views)
        scalars = np.zeros((1, training._update.scalars), np.float32)
        result = training.step(
            loss.data(X, Y, 1 / 255),
            batch._replace(scalars=scalars),
            np.empty((0, len(params))).astype(np.float32),
        )
        seen.append((result.loss, training.grads.copy()))
    assert seen[0][0] == seen[1][0]
    np.testing.assert_allclose(seen[0][1], seen[1][1], atol=1e-6)


def test_the_loss_of_a_mixture_is_cross_entropy_on_soft_targets():
    network = Network((6, 6, 3), [Flatten(), Dense(3)])
    params = network.initialize(np.random.default_rng(0))
    views, order = Augment(mixup=1.0, cutmix=1.0).draw(0, 1, X), np.arange(20)
    loss, rule = Loss("cross_entropy", 3, label_smoothing=0.1), find("optimizer", "sgd")
    training = cpu.TrainStep(network, params, 20, rule, loss.rule)
    scalars = np.zeros((1, training._update.scalars), np.float32)
    result = training.step(
        loss.data(X, Y, 1 / 255),
        StepInputs(order, 20.0, 0, scalars, views),
        np.empty((0, len(params)), np.float32),
    )
    x = cpu.show(X, order, 1 / 255, views).reshape(20, -1).astype(np.float64)
    weights = network.unflatten(params.astype(np.float64))
    weight, bias = weights["dense1.weight"], weights["dense1.bias"]
    eye, share = np.eye(3), views[:20, 15:16].astype(np.float64)
    target = share * eye[Y[order]] + (1 - share) * eye[Y[views[:20, 13].astype(int)]]
    target = 0.9 * target + 0.1 / 3
    logits = x @ weight + bias
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert result.loss == pytest.approx(-(target * log_p).sum() / 20, rel=1e-5)
    expected = x.T @ (np.exp(log_p) - target) / 20
    found = network.unflatten(training.grads)["dense1.weight"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def images_of_steps(options, **places):
    """(workspaces, images' numbers, images as the first operation has them) of each step."""
    steps, original = [], cpu.TrainStep.step

    def step(training, data, batch, slots, params=None):
        result = original(training, data, batch, slots, params)
        if params is not None:  # the step that compiles
            return result
        works = training._work[: len(batch.order)]
        x, cuts = training.plan.table[0]["x"], np.arange(len(works) + 1) * len(batch.order)
        sizes = np.diff(cuts // len(works)) * X[0].size
        seen = [work[x : x + size] for work, size in zip(works, sizes, strict=True)]
        steps.append((len(works), batch.order.copy(), np.concatenate(seen)))
        return result

    # Batch normalization has each thread keep its images until the step ends.
    network = Network((6, 6, 3), [Conv2d(4, 3), BatchNorm2d(), ReLU(), Flatten(), Dense(3)])
    given = {"epochs": 3, "batch_size": 16, "augment": AUGMENT, "val_split": 0.0, "normalize": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.TrainStep, "step", step)
        patch.setattr(cpu, "_WORTH_A_THREAD", 0)
        Trainer(network, **(given | options)).fit(X, Y, **places)
    return steps


def test_augmented_images_are_bitwise_the_same_on_any_threads_and_after_resuming(tmp_path):
    one, two = (images_of_steps({"threads": threads}) for threads in (1, 2))
    images_of_steps({"threads": 2, "epochs": 2}, output=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "last.safetensors")
    resumed = images_of_steps({"threads": 2}, resume=checkpoint)
    assert [len(steps) for steps in (one, two, resumed)] == [12, 12, 4]
    scale = channel_scale(255.0, measure(X, np.arange(len(X)), 255.0))
    for number, ((_, order, images), other) in enumerate(zip(one, two, strict=True)):
        views = AUGMENT.draw(0, 1 + number // 4, X)
        np.testing.assert_array_equal(images, cpu.show(X, order, scale, views).reshape(-1))
        assert other[0] == 2
        np.testing.assert_array_equal(other[1], order)
        np.testing.assert_array_equal(other[2], images)
    for step, other in zip(two[8:], resumed, strict=True):
        np.testing.assert_array_equal(other[2], step[2])


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    whole = trained(threads=2)
    options = {"batch_size": 16, "augment": AUGMENT, "normalize": True, "threads": 2}
    Trainer(NETWORK, epochs=2, **options).fit(X, Y, output=tmp_path)
    later = Trainer(NETWORK, epochs=3, **options)
    later.fit(X, Y, resume=load_checkpoint(tmp_path / "last.safetensors"))
    np.testing.assert_array_equal(later.model.params, whole)
    other = Trainer(NETWORK, epochs=3, **(options | {"augment": {"flip": True}}))
    with pytest.raises(SettingError, match="augment cannot change"):
        other.fit(X, Y, resume=load_checkpoint(tmp_path / "last.safetensors"))


def test_normalization_is_of_the_training_images_and_goes_with_the_model(tmp_path):
    trainer = Trainer(NETWORK, epochs=1, normalize=True)
    trainer.fit(X[:40], Y[:40], validation=(X[40:], Y[40:]))
    model = trainer.model
    mean, deviation = model.normalization
    np.testing.assert_allclose(mean, (X[:40] / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, (X[:40] / 255).std(axis=(0, 1, 2)), rtol=1e-12)
    seen = (X * model.scale + model.offset).astype(np.float32)
    np.testing.assert_allclose(seen[:40].mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(seen[:40].std(axis=(0, 1, 2)), 1, atol=1e-6)
    logits = np.empty((60, 3), np.float32)
    from minicnn import forward

    forward(*model.njit_arguments(8), seen, logits)
    np.testing.assert_allclose(model.logits(X), logits, atol=1e-5)
    np.testing.assert_allclose(model.logits(X / 255), logits, atol=1e-5)
    model.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.normalization == model.normalization
    np.testing.assert_array_equal(again.logits(X), model.logits(X))
    further = Trainer(again, epochs=1)
    further.fit(X[40:], Y[40:])
    assert further.model.normalization == model.normalization
    plain = Trainer(NETWORK, epochs=1)
    plain.fit(X, Y)
    assert plain.model.normalization is None and plain.model.scale == 1 / 255
    with pytest.raises(SettingError, match="normalize cannot be added to a trained model"):
        Trainer(plain.model, epochs=1, normalize=True).fit(X, Y)


def test_a_resumed_run_normalizes_as_the_model_that_it_went_on_from(tmp_path):
    first = Trainer(NETWORK, epochs=1, normalize=True)
    first.fit(X[:40], Y[:40])
    whole = Trainer(first.model, epochs=3)
    whole.fit(X[40:], Y[40:])
    Trainer(first.model, epochs=1).fit(X[40:], Y[40:], output=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "last.safetensors")
    later = Trainer(NETWORK, epochs=3)  # as train --resume has it, without the first model
    later.fit(X[40:], Y[40:], resume=checkpoint)
    assert later.model.normalization == first.model.normalization
    np.testing.assert_array_equal(later.model.params, whole.model.params)


def test_a_channel_of_one_value_is_only_moved():
    images = np.full((3, 2, 2, 1), 51, np.uint8)
    assert measure(images, np.arange(3), 255.0) == ((0.2,), (1.0,))


def test_what_augmentation_cannot_do_is_said():
    with pytest.raises(UnknownNameError, match="crop"):
        Trainer(NETWORK, augment={"crops": 2})
    with pytest.raises(SettingError, match="mixup and cutmix need a loss of soft targets"):
        Trainer(NETWORK, loss="multi_margin", augment={"mixup": 0.5}).fit(X, Y)
