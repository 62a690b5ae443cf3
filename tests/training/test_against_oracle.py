"""The trainer beside the whole computation written out in NumPy float64, with nothing of minicnn's
kernels or rules."""

import numpy as np
import pytest

from minicnn import Trainer
from minicnn.backends import cpu
from tests.networks import oracle_passes
from tests.reference import losses as reference_losses
from tests.reference import optimizers as reference_optimizers
from tests.training import small

SGD = {"learning_rate": 0.2, "weight_decay": 0.0}
ADAM = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.03}
WEIGHTS = [0.5, 2.0, 1.25]
CASES = {
    "sgd": {},
    "class weights": {"class_weights": WEIGHTS},
    "label smoothing": {"loss_kwargs": {"label_smoothing": 0.2}},
    "both": {"loss_kwargs": {"label_smoothing": 0.2}, "class_weights": WEIGHTS},
    "weight decay": {"optimizer_kwargs": {"weight_decay": 0.1}},
    "clip by norm": {"clip_grad": 1.2},
    "clip by value": {"clip_grad_value": 0.02},
    "clip by norm, then by value": {"clip_grad": 1.2, "clip_grad_value": 0.05},
    "squared error": {"loss": "mse"},
    "adam with all": {
        "optimizer": "adam",
        "learning_rate": 0.01,
        "optimizer_kwargs": {"weight_decay": 0.03},
        "loss_kwargs": {"label_smoothing": 0.1},
        "class_weights": WEIGHTS,
        "clip_grad": 0.5,
    },
}


def trained(monkeypatch, **options):
    """(trainer, first weights, [(images of the step, its result)]) of a run of small batches, the
    last one smaller."""
    steps, original = [], cpu.TrainStep.step

    def spy(self, data, batch, slots, params=None):
        before = self.params.copy()
        result = original(self, data, batch, slots, params)
        if params is None:  # else the step that compiles
            steps.append((batch.order.copy(), result, before))
        return result

    monkeypatch.setattr(cpu.TrainStep, "step", spy)
    chosen = {
        "optimizer": "sgd",
        "learning_rate": 0.2,
        "epochs": 2,
        "val_split": 0.0,
        "seed": 3,
    } | options
    trainer = Trainer(small.network(dropout=0), small.settings(**chosen))
    trainer.fit(small.dataset(test=False))
    return trainer, steps[0][2], [(order, result) for order, result, _ in steps]


def loss_and_slope(logits, labels, loss="cross_entropy", loss_kwargs=None, class_weights=None):
    kwargs = dict(loss_kwargs or {})
    if class_weights is not None:
        kwargs["class_weights"] = np.array(class_weights)
    targets = np.eye(small.CLASSES)[labels] if loss == "mse" else labels

    def function(x):
        return getattr(reference_losses, loss)(x, targets, **kwargs)

    return function(logits), reference_losses.numeric_gradient(function, logits)


def oracle_run(network, params, orders, options):
    """[(loss, correct, gradient norm)] of every step, and the last weights."""
    images, labels = small.dataset().train.images / 255, small.dataset().train.labels
    optimizer = options.get("optimizer", "sgd")
    hyperparameters = {"sgd": SGD, "adam": ADAM}[optimizer] | options.get("optimizer_kwargs", {})
    loss_options = {
        name: value for name, value in options.items() if name.startswith(("loss", "class_"))
    }
    params, memory, found = params.astype(np.float64), {}, []
    for step, order in enumerate(orders, start=1):
        logits, _ = oracle_passes(
            network, params, images[order], np.zeros((len(order), small.CLASSES))
        )
        loss, dlogits = loss_and_slope(logits, labels[order], **loss_options)
        _, slope = oracle_passes(network, params, images[order], dlogits)
        norm = np.sqrt((slope**2).sum())
        found.append((loss, (logits.argmax(axis=1) == labels[order]).sum(), norm))
        if norm > options.get("clip_grad", np.inf):
            slope *= options["clip_grad"] / norm
        if "clip_grad_value" in options:
            slope = np.clip(slope, -options["clip_grad_value"], options["clip_grad_value"])
        params = getattr(reference_optimizers, optimizer)(
            params, slope, step, memory, **hyperparameters
        )
    return found, params


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_losses_gradient_norms_and_weights_are_the_oracles(case, threads, monkeypatch):
    options = CASES[case]
    trainer, first, steps = trained(monkeypatch, **options, threads=threads)
    orders = [order for order, _ in steps]
    assert [len(order) for order in orders] == [12, 12, 12, 12, 2] * 2
    expected, params = oracle_run(trainer.network, first, orders, options)
    results = [result for _, result in steps]
    np.testing.assert_allclose(
        [result.loss for result in results], [loss for loss, _, _ in expected], rtol=1e-5
    )
    assert [result.correct for result in results] == [correct for _, correct, _ in expected]
    norms = [norm for _, _, norm in expected]
    np.testing.assert_allclose([result.gradient_norm for result in results], norms, rtol=1e-4)
    np.testing.assert_allclose(trainer.progress.params, params, rtol=1e-4, atol=1e-5)
    if "clip_grad" in options:
        assert (
            max(norms) > options["clip_grad"] > min(norms)
        )  # some steps were clipped and some were not


@pytest.mark.parametrize("case", [case for case in CASES if case != "sgd"])
def test_every_setting_of_the_cases_makes_a_difference(case, monkeypatch):
    plain, other = (
        trained(monkeypatch, **CASES[name])[0].progress.params for name in ("sgd", case)
    )
    assert np.abs(plain - other).max() > 1e-3


def test_balanced_class_weights_are_the_inverse_of_the_classes_shares(monkeypatch):
    keep = np.concatenate(
        [np.arange(50)[small.dataset().train.labels == k][: 4 * k + 4] for k in range(3)]
    )
    images, labels = small.dataset().train.images[keep], small.dataset().train.labels[keep]
    runs, expected = [], [24 / (3 * count) for count in (4, 8, 12)]
    for weights in ("balanced", expected, {2: expected[2], "0": expected[0]}):
        trainer = Trainer(small.network(), small.settings(val_split=0.0, class_weights=weights))
        started = next(trainer.run(trainer._dataset((images, labels), None, None, None)))
        trainer.fit(images, labels)
        runs.append(trainer.progress.params)
        np.testing.assert_allclose(
            trainer.model.training["loss"]["class_weights"], expected, rtol=1e-6
        )
        named = dict(zip("012", expected, strict=True))
        assert started.settings["class_weights"] == started.shown["class_weights"] == named
    assert expected[1] == 1.0
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def test_an_epochs_figures_are_means_over_its_images(monkeypatch):
    trainer, _, steps = trained(monkeypatch, epochs=1)
    history = Trainer(trainer.network, trainer.settings).fit(small.dataset(test=False))
    sizes = np.array([len(order) for order, _ in steps])
    losses = np.array([result.loss for _, result in steps])
    [epoch] = history.epochs
    assert epoch.train_loss == pytest.approx((losses * sizes).sum() / sizes.sum(), rel=1e-12)
    assert epoch.train_accuracy == sum(result.correct for _, result in steps) / 50
    assert epoch.gradient_norm == pytest.approx(
        np.mean([result.gradient_norm for _, result in steps]), rel=1e-12
    )
    assert epoch.validation_loss is None and epoch.validation_accuracy is None
