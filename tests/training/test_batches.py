"""Which images a run trains on, in which batches, what is held out, and how often the test set is
touched."""

import sys
import traceback

import numpy as np
import pytest

from minicnn import Dataset, Dense, Flatten, Network, Trainer
from minicnn.backends import cpu
from minicnn.data.dataset import Split
from minicnn.errors import DataError, NetworkError, SettingError, UnknownNameError
from minicnn.training import run as run_module
from minicnn.training.events import BatchDone, EpochDone, RunEnded, RunStarted
from tests.training import small


@pytest.fixture
def steps(monkeypatch):
    """The images of every step: indices into the training images."""
    orders, original = [], cpu.TrainStep.step

    def spy(self, data, batch, slots, params=None):
        if params is None:  # else the step that compiles
            orders.append(batch.order.copy())
        return original(self, data, batch, slots, params)

    monkeypatch.setattr(cpu.TrainStep, "step", spy)
    return orders


@pytest.fixture
def evaluated(monkeypatch):
    """What is evaluated, in order: (images, how many of them)."""
    seen, original = [], run_module.evaluate

    def spy(inference, split, scale, classes, loss, order, task):
        seen.append((split.images, len(split) if order is None else len(order)))
        return original(inference, split, scale, classes, loss, order, task)

    monkeypatch.setattr(run_module, "evaluate", spy)
    return seen


# --- batches --------------------------------------------------------------------------------------


def test_every_epoch_takes_every_training_image_once_in_another_order(steps):
    small.train(epochs=3)
    assert [len(order) for order in steps] == [12, 12, 12, 9] * 3
    epochs = [np.concatenate(steps[first : first + 4]) for first in (0, 4, 8)]
    for epoch in epochs:
        assert len(epoch) == 45 and (np.sort(epoch) == np.unique(epochs[0])).all()
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


def test_the_last_batch_of_an_epoch_may_be_smaller():
    _, events = small.train(epochs=1)
    assert [event.images for event in small.of_kind(events, BatchDone)] == [12, 24, 36, 45]
    assert small.of_kind(events, RunStarted)[0].batches == 4


def test_gradient_descent_takes_the_full_batch(steps):
    small.train(optimizer="gd", batch_size=None, epochs=3)
    assert [len(order) for order in steps] == [45] * 3


def test_gradient_descent_refuses_a_batch_size():
    with pytest.raises(SettingError, match="gd takes the full batch, all 45 training images"):
        small.train(optimizer="gd", batch_size=12)


def test_an_explicit_batch_size_above_the_training_images_is_refused():
    with pytest.raises(
        SettingError, match="batch_size 46 is above the number of training images, 45"
    ):
        small.train(batch_size=46)
    assert small.train(batch_size=45, epochs=1)


@pytest.mark.parametrize(("images", "batch"), [(20, 18), (200, 64)])
def test_the_default_batch_size_is_64_or_the_size_of_a_smaller_set(images, batch, steps):
    _, events = small.train(data=small.dataset(images), batch_size=None, epochs=1)
    assert len(steps[0]) == batch
    assert small.of_kind(events, RunStarted)[0].settings["batch_size"] == batch


# --- what is held out -----------------------------------------------------------------------------


def test_the_validation_images_are_held_out_seeded_and_in_proportion(steps):
    labels = small.dataset(60).train.labels
    held_out = {}
    for seed in (0, 0, 1):
        steps.clear()
        small.train(data=small.dataset(60), val_split=0.2, seed=seed, epochs=1)
        trained = np.sort(np.concatenate(steps))
        assert len(trained) == 48 and len(np.unique(trained)) == 48
        rest = np.setdiff1d(np.arange(60), trained)
        assert np.bincount(labels[rest]).tolist() == [4, 4, 4]
        assert held_out.setdefault(seed, rest.tolist()) == rest.tolist()
    assert held_out[0] != held_out[1]


def test_the_limit_is_applied_before_the_split(steps):
    _, events = small.train(limit=30, val_split=0.1, epochs=1)
    assert len(np.concatenate(steps)) == 27
    started = small.of_kind(events, RunStarted)[0]
    assert (started.training_images, started.validation_images) == (27, 3)
    steps.clear()
    small.train(limit=10**6, val_split=0.0, epochs=1)
    assert len(np.concatenate(steps)) == 50


@pytest.mark.parametrize(("limit", "counts"), [(9, [3, 3, 3]), (20, [7, 7, 6]), (3, [1, 1, 1])])
def test_the_limit_takes_of_every_class_its_share_where_images_come_class_by_class(
    limit, counts, steps
):
    x, y = np.zeros((60, 6, 6), np.uint8), np.repeat(np.arange(3), 20)
    for seed in (0, 0, 1):
        Trainer(
            small.network(),
            small.settings(limit=limit, val_split=0, epochs=1, batch_size=1, seed=seed),
        ).fit(x, y)
    runs = [np.sort(np.concatenate(steps[i * limit : (i + 1) * limit])) for i in range(3)]
    assert len(steps) == 3 * limit and runs[0].tolist() == runs[1].tolist() != runs[2].tolist()
    assert sorted(np.bincount(y[runs[0]])) == sorted(counts)


def test_without_a_validation_share_nothing_is_held_out(evaluated, steps):
    trainer, events = small.train(val_split=0.0, epochs=2)
    assert len(np.concatenate(steps)) == 100
    assert [done.validation_loss for done in small.of_kind(events, EpochDone)] == [None, None]
    assert [count for _, count in evaluated] == [20]
    assert trainer.model.training["figures"]["of"] == "training"


def test_validation_images_that_are_given_are_used_and_none_is_held_out(evaluated, steps):
    x, y = small.arrays(50)
    held_out = small.arrays(9, seed=3)
    trainer = Trainer(small.network(), small.settings(epochs=1))
    trainer.fit(x, y, validation=held_out)
    assert len(np.concatenate(steps)) == 50
    assert [count for _, count in evaluated] == [9]
    np.testing.assert_array_equal(evaluated[0][0], held_out[0])


def test_the_test_set_is_touched_once_at_the_end(evaluated):
    data = small.dataset()
    events = []
    trainer = Trainer(small.network(), small.settings(epochs=3))
    trainer.fit(data, reporters=[events.append, lambda event: evaluated.append(type(event))])
    assert [kind for kind in evaluated if kind is EpochDone] == [EpochDone] * 3
    evaluations = [entry for entry in evaluated if isinstance(entry, tuple)]
    assert [count for images, count in evaluations if images is data.train.images] == [5, 5, 5]
    assert [count for images, count in evaluations if images is data.test.images] == [20]
    assert evaluated[-1] is RunEnded and evaluated[-2][0] is data.test.images
    test = events[-1].test
    assert (
        test.images == 20
        and test.accuracy == trainer.model.evaluate(*small.arrays(20, seed=8)).accuracy
    )


class Untouchable(np.ndarray):
    """Images that may not be looked at."""

    def __getitem__(self, key):
        raise AssertionError("the test images were read")

    def reshape(self, *shape):
        raise AssertionError("the test images were read")


def test_an_interrupted_and_a_diverged_run_leave_the_test_set_alone():
    data = small.dataset()
    forbidden = Dataset("forbidden", data.train, data.test, data.classes, data.maximum)
    object.__setattr__(
        forbidden, "test", Split(data.test.images.view(Untouchable), data.test.labels)
    )
    with pytest.raises(AssertionError, match="were read"):
        small.train(data=forbidden, epochs=1)
    trainer = Trainer(small.network(), small.settings())
    trainer.fit(forbidden, reporters=[lambda event: trainer.interrupt()])
    wild = Trainer(small.network(), small.settings(optimizer="sgd", learning_rate=1e30))
    assert list(wild.run(forbidden))[-1].reason == "diverged"


# --- images of every kind -------------------------------------------------------------------------


def test_floats_from_0_to_1_and_bytes_train_alike():
    x, y = small.arrays(50)
    ends = []
    for images in (x, (x / 255).astype(np.float32), x / 255):
        trainer = Trainer(small.network(), small.settings())
        trainer.fit(images, y)
        ends.append(trainer.progress.params)
    np.testing.assert_array_equal(ends[1], ends[2])
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)


def test_grey_images_may_come_without_a_channel_axis():
    x, y = small.arrays(50)
    ends = []
    for images in (x, x[..., 0]):
        trainer = Trainer(small.network(), small.settings())
        trainer.fit(images, y, test=(images[:5], y[:5]))
        ends.append(trainer.progress.params)
    np.testing.assert_array_equal(*ends)


def test_a_declared_maximum_is_scaled_to_1_and_stored_with_the_model():
    x, y = small.arrays(50)
    ends = []
    for images, maximum in ((x // 16, 16.0), (x // 16 * np.float32(1 / 16), None)):
        trainer = Trainer(small.network(), small.settings(data_max=maximum))
        trainer.fit(images, y)
        ends.append(trainer)
    np.testing.assert_allclose(ends[0].progress.params, ends[1].progress.params, atol=1e-5)
    assert (ends[0].model.maximum, ends[1].model.maximum) == (16, 1)
    np.testing.assert_allclose(
        ends[0].model.logits(x // 16), ends[1].model.logits(x // 16 / 16), atol=1e-4
    )
    with pytest.raises(DataError, match="beyond the scale's end 16"):
        Trainer(small.network(), small.settings(data_max=16)).fit(x, y)


def test_two_images_of_one_pixel_train_and_one_class_does_not():
    x = np.array([0, 255], np.uint8).reshape(2, 1, 1)
    trainer = Trainer(Network((1, 1), [Flatten(), Dense(2)]), epochs=20, learning_rate=0.5)
    trainer.fit(x, [0, 1])
    assert trainer.model.predict(x).tolist() == [0, 1]
    with pytest.raises(DataError, match="all training images are of one class, '0'"):
        Trainer(Network((1, 1), [Flatten(), Dense(2)])).fit(x, [0, 0], classes=["0"])


def test_a_validation_or_test_set_may_lack_a_class():
    x, y = small.arrays(50)
    few = x[y == 1][:2], y[y == 1][:2]
    ended = Trainer(small.network(), small.settings()).fit(x, y, validation=few, test=few).ended
    assert ended.test.recall[0] is None and ended.test.images == 2


def test_one_image_of_each_class_leaves_none_for_validation():
    x, y = small.arrays(3)
    trainer = Trainer(small.network(), small.settings(batch_size=None, val_split=0.5))
    assert trainer.fit(x, y).epochs[0].validation_loss is None


# --- what does not fit ----------------------------------------------------------------------------


def test_data_that_do_not_fit_the_network_or_each_other_are_named():
    x, y = small.arrays(50)
    trainer = Trainer(small.network(), small.settings())
    with pytest.raises(NetworkError, match=r"takes images \[6, 6, 1\], but arrays has \[5, 6, 1\]"):
        trainer.fit(x[:, 1:], y)
    with pytest.raises(NetworkError, match="3 outputs, but arrays has 4 classes"):
        trainer.fit(np.concatenate([x, x[:1]]), np.append(y, 3), classes="abcd")
    with pytest.raises(DataError, match="label 3 of training image 4 is outside the 3 classes"):
        trainer.fit(x, np.where(np.arange(50) == 4, 3, y))
    with pytest.raises(DataError, match="class '2' has no training image"):
        trainer.fit(x[y < 2], y[y < 2])
    with pytest.raises(DataError, match="50 training images but 49 labels"):
        trainer.fit(x, y[1:])
    with pytest.raises(DataError, match="labels are missing"):
        trainer.fit(x)
    with pytest.raises(DataError, match="not a finite number"):
        trainer.fit(np.where(np.arange(50)[:, None, None, None] == 3, np.nan, x / 255), y)
    with pytest.raises(DataError, match="test images are float32"):
        trainer.fit(x, y, test=(x / 255, y))
    with pytest.raises(DataError, match="validation images are uint8"):
        trainer.fit(x, y, validation=(x[:, 1:], y))


def test_names_and_values_that_are_wrong_are_refused_before_anything_runs():
    network = small.network()
    for name, options in [
        ("optimizer", {"optimizer": "adm"}),
        ("loss", {"loss": "cross"}),
        ("schedule", {"schedule": "cosin"}),
        ("option of Trainer", {"epoch": 3}),
        (
            "hyperparameter of optimizer sgd",
            {"optimizer": "sgd", "optimizer_kwargs": {"beta1": 0.5}},
        ),
        ("hyperparameter of schedule step", {"schedule": "step", "schedule_kwargs": {"gama": 0.5}}),
        ("hyperparameter of loss cross_entropy", {"loss_kwargs": {"smoothing": 0.5}}),
    ]:
        with pytest.raises(UnknownNameError, match=f"unknown {name}"):
            Trainer(network, **options)
    for text, options in [
        ("learning_rate must be a finite number above 0", {"learning_rate": 0}),
        ("learning_rate must be a finite number above 0", {"learning_rate": -0.1}),
        ("learning_rate must be a finite number", {"learning_rate": float("nan")}),
        ("epochs must be a whole number from 1 on", {"epochs": 0}),
        ("batch_size must be a whole number from 1 on", {"batch_size": 2.5}),
        ("val_split must be a number from 0 to below 1", {"val_split": 1.0}),
        ("threads must be a whole number from 1 to", {"threads": 10**6}),
        ("device must be cpu or cuda, not 'tpu'", {"device": "tpu"}),
        (
            "momentum must be a number in",
            {"optimizer": "momentum", "optimizer_kwargs": {"momentum": 1.5}},
        ),
        ("class_weights must be 3 numbers above 0", {"class_weights": [1, 2]}),
        (
            "class_weights must be balanced, numbers above 0",
            {"class_weights": [1, 2, float("nan")]},
        ),
        ("class_weights must be balanced, numbers above 0", {"class_weights": [1, 2, 0]}),
        ("class_weights must be balanced, numbers above 0", {"class_weights": "even"}),
        ("mse has no class_weights", {"loss": "mse", "class_weights": "balanced"}),
        ("mse has no class_weights", {"loss": "mse", "class_weights": {"a": 2}}),
        ("mse has no class_weights", {"loss": "mse", "class_weights": [1, 1, 1]}),
        ("must be a number", {"loss_kwargs": {"label_smoothing": "much"}}),
    ]:
        with pytest.raises(SettingError, match=text):
            Trainer(network, **options)


def test_there_is_no_model_before_the_first_fit():
    with pytest.raises(SettingError, match="call fit first"):
        _ = Trainer(small.network()).model


def test_eight_frames_lead_from_the_users_loop_to_the_kernel(monkeypatch):
    kernel, found = cpu.step.train_step, []

    def launched(*arguments):
        found.append([frame.f_code.co_name for frame, _ in traceback.walk_stack(None)])
        return kernel(*arguments)

    monkeypatch.setattr(cpu.step, "train_step", launched)
    trainer = Trainer(small.network(), small.settings(epochs=1))
    here = [event for event in trainer.run(small.dataset()) if isinstance(event, BatchDone)]
    assert here
    frames = found[-1][
        : found[-1].index("test_eight_frames_lead_from_the_users_loop_to_the_kernel")
    ]
    assert len([name for name in frames if name not in ("launched", "<listcomp>")]) <= 8


# --- from the loop to the kernel ------------------------------------------------------------------


def test_a_batch_passes_few_calls_between_the_loop_and_the_compiled_step(monkeypatch):
    """Each frame of Python costs up to a microsecond per step, and a reader a look."""
    depths, compiled = [], cpu.step.train_step

    def spy(*arguments):
        frame, depth = sys._getframe(1), 0
        while frame.f_code is not here:
            frame, depth = frame.f_back, depth + 1
        depths.append(depth)
        return compiled(*arguments)

    here = sys._getframe(0).f_code
    monkeypatch.setattr(cpu.step, "train_step", spy)
    for _ in Trainer(small.network(), small.settings(epochs=1)).run(small.dataset()):
        pass
    assert len(depths) > small.BATCHES and max(depths) + 1 <= 8  # `train_step` is one more
