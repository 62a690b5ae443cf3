"""Layers that are frozen: their parameters stay as they are to the bit, and the others learn."""

import json
from dataclasses import replace

import numpy as np
import pytest

from minicnn import (
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Network,
    ReLU,
    Settings,
    Trainer,
    load,
)
from minicnn.backends import cpu
from minicnn.backends.layout import lay_out
from minicnn.cli import main
from minicnn.errors import NetworkError, SettingError, UnknownNameError
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.events import BatchDone, RunStarted
from tests.training import small
from tests.training.test_resume import stop_at
from tests.training.test_rule_kinds import AVERAGE, PLAIN

NETWORK = Network(
    (6, 6, 1),
    [
        Conv2d(3, 3),
        BatchNorm2d(),
        ReLU(),
        Conv2d(4, 3, padding=1, name="mid"),
        ReLU(),
        Flatten(),
        Dropout(0.3),
        Dense(8),
        ReLU(),
        Dense(3),
    ],
)
PATTERNS = [["conv1", "batchnorm*"], ["mid"], ["dense1", "conv?"], ["*1"]]


def trainer_of(freeze, **options):
    return Trainer(NETWORK, small.settings(freeze=freeze, **options))


def changed(trainer, params):
    """The layers with a tensor, or state, that is another than at the start."""
    first = NETWORK.initialize(np.random.default_rng([0, 0]))
    views = zip(NETWORK.unflatten(first).items(), NETWORK.unflatten(params).values(), strict=True)
    return {name.partition(".")[0] for (name, one), other in views if (one != other).any()}


def names_that_match(patterns):
    wanted = {
        "conv1": ("conv1", "conv?", "*1"),
        "batchnorm1": ("batchnorm*", "*1"),
        "mid": ("mid",),
        "dense1": ("dense1", "*1"),
        "dense2": (),
    }
    return {name for name, matching in wanted.items() if set(matching) & set(patterns)}


OPTIMIZERS = {
    "adam with decay": {"optimizer_kwargs": {"weight_decay": 0.1}},
    "decay of weights alone": {
        "optimizer": "adamw",
        "optimizer_kwargs": {"weight_decay": 0.1},
        "decay": "weights",
    },
    "moving average": {"ema": 0.7},
    "step rule": {"optimizer": PLAIN},
    "with other weights to evaluate": {"optimizer": AVERAGE},
}


@pytest.mark.parametrize("options", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("freeze", PATTERNS, ids=" ".join)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_learns(freeze, options):
    settings = dict(options)
    rule = {"optimizer": settings.pop("optimizer")} if "optimizer" in settings else {}
    trainer = Trainer(NETWORK, small.settings(freeze=freeze, **settings), **rule)
    trainer.fit(small.dataset())
    learned = {"conv1", "batchnorm1", "mid", "dense1", "dense2"} - names_that_match(freeze)
    assert changed(trainer, trainer.progress.params) == learned
    assert changed(trainer, trainer.model.params) == learned
    for spec in NETWORK.parameters:
        frozen = spec.kind != "state" and spec.name.partition(".")[0] not in learned
        if frozen and rule.get("optimizer") is not AVERAGE:  # which sums up the weights themselves
            assert not trainer.progress.slots[:, spec.offset : spec.offset + spec.size].any()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_a_step_is_that_of_the_gradient_with_the_frozen_part_left_out(threads, clip_norm):
    """Also of its norm, by which it is clipped: written out in NumPy."""
    network = small.network(dropout=0)
    x, y = small.arrays(12)
    captured = {}

    def run(freeze, clip):
        original = cpu.TrainStep.step

        def spy(self, data, batch, slots, params=None):
            before = self.params.copy()
            result = original(self, data, batch, slots, params)
            if params is None:  # else the step that compiles
                captured.setdefault("grads", self.grads.copy())
                captured.update(before=before, after=self.params.copy(), norm=result.gradient_norm)
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu.TrainStep, "step", spy)
            options = {"optimizer": "sgd", "learning_rate": 0.5, "clip_grad": clip or None}
            settings = small.settings(
                freeze=freeze, epochs=1, threads=threads, val_split=0.0, **options
            )
            Trainer(network, settings).fit(x, y)

    run(None, 0.0)
    whole = captured["grads"].astype(np.float64)
    frozen = [spec for spec in network.parameters if spec.name.startswith("conv")]
    for spec in frozen:
        assert whole[spec.offset : spec.offset + spec.size].any()
        whole[spec.offset : spec.offset + spec.size] = 0
    norm = np.sqrt((whole**2).sum())
    run(["conv*"], clip_norm)
    assert captured["norm"] == pytest.approx(norm, rel=1e-5)
    step = 0.5 * whole * (min(1.0, clip_norm / norm) if clip_norm else 1.0)
    np.testing.assert_allclose(captured["after"], captured["before"] - step, rtol=1e-5, atol=1e-7)


def test_frozen_normalization_trains_with_its_running_statistics():
    """The loss of the first batch is that of inference on its images."""
    network = Network((6, 6, 1), [Conv2d(3, 3), BatchNorm2d(), ReLU(), Flatten(), Dense(3)])
    x, y = small.arrays(12)
    losses = {}
    for freeze in (None, ["batchnorm1"]):
        events = []
        trainer = Trainer(network, small.settings(freeze=freeze, epochs=1, val_split=0.0))
        first = trainer.network.initialize(np.random.default_rng([0, 0]))
        trainer.fit(x, y, reporters=[events.append])
        losses[freeze is None] = small.of_kind(events, BatchDone)[0].loss
    logits = cpu.Inference(network, first).logits(x, 1 / 255).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(12), y].mean()
    assert losses[False] == pytest.approx(expected, rel=1e-5)
    assert abs(losses[True] - expected) > 1e-3


def test_layers_before_the_first_that_is_trained_have_no_backward_pass():
    frozen = lay_out(NETWORK.freeze(["conv1", "batchnorm1"]), 4, True, np.dtype(np.float32))
    whole = lay_out(NETWORK, 4, True, np.dtype(np.float32))
    assert (whole.table["backward"] != 0).all()
    without = [
        node.layers[-1]
        for node, at in zip(frozen.nodes, frozen.table["backward"], strict=True)
        if not at
    ]
    assert without == [0, 1, 2]  # conv1, batchnorm1, relu1
    assert frozen.work_size < whole.work_size


@pytest.mark.parametrize("freeze", PATTERNS, ids=" ".join)
def test_a_run_that_is_resumed_ends_bitwise_the_same(freeze, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    trainer_of(freeze, ema=0.9).fit(small.dataset(), output=whole)
    trainer = trainer_of(freeze, ema=0.9)
    trainer.fit(small.dataset(), output=parts, reporters=[stop_at(2, 2)(trainer)])
    assert load_checkpoint(parts / "last.safetensors").settings["freeze"] == freeze
    small.resume(parts)
    small.assert_same_run(parts, whole)
    with pytest.raises(SettingError, match="freeze cannot change when a run is resumed"):
        small.resume(parts, freeze=["dense2"], epochs=5)


def test_a_model_that_was_trained_so_is_a_model_like_any_other():
    trainer = trainer_of(["conv1"])
    trainer.fit(small.dataset())
    assert trainer.network.frozen == {0} and trainer.model.network.frozen == frozenset()
    again = Trainer(trainer.model, small.settings(epochs=1))
    again.fit(small.dataset())
    assert (again.progress.params[:9] != trainer.model.params[:9]).any()


@pytest.mark.parametrize(
    ("freeze", "error", "words"),
    [
        (
            ["conv9*"],
            UnknownNameError,
            r"unknown layer to freeze 'conv9\*'.*batchnorm1, conv1, dense1",
        ),
        (["relu1"], UnknownNameError, "known: batchnorm1, conv1, dense1, dense2, mid"),
        (["*"], NetworkError, "no parameter of the network network is left to train"),
        (["conv1", "Mid"], UnknownNameError, "did you mean 'mid'"),
        ([], SettingError, r"freeze must be names or patterns, not \[\]"),
        ("conv1", SettingError, "freeze must be names or patterns, not 'conv1'"),
        ([1], SettingError, "freeze must be names or patterns"),
    ],
)
def test_what_cannot_be_frozen_is_refused(freeze, error, words):
    with pytest.raises(error, match=words):
        Trainer(NETWORK, freeze=freeze)


def test_a_network_without_parameters_is_not_trained():
    with pytest.raises(NetworkError, match="no parameter of the network network is left to train"):
        Trainer(Network((6, 6, 1), [Flatten()]))


def test_the_settings_survive_their_file(tmp_path):
    from minicnn.training.settings import read_settings

    settings = Settings(freeze=["conv*", "mid"])
    (tmp_path / "config.toml").write_text(settings.to_toml())
    assert read_settings(tmp_path / "config.toml") == settings
    assert replace(settings, freeze=("mid",)).freeze == ["mid"]


def test_the_run_says_how_many_parameters_are_trained():
    events = []
    trainer_of(["conv1"], epochs=1).fit(small.dataset(), reporters=[events.append])
    started = small.of_kind(events, RunStarted)[0]
    assert started.trained == started.parameters - 30 == NETWORK.parameter_count - 30
    assert started.shown["freeze"] == ["conv1"]


def test_fine_tuning_on_the_command_line(tmp_path, capsys):
    """A head on the features of a model that another program's file brought in."""
    pytest.importorskip("onnx")
    x, y = small.arrays(60)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    trainer_of(None, epochs=1).fit(x, y, output=tmp_path / "first")
    assert main(["export", str(tmp_path / "first"), str(tmp_path / "net.onnx")]) == 0
    imported = tmp_path / "model.safetensors"
    assert main(["import", str(tmp_path / "net.onnx"), "-o", str(imported)]) == 0
    convolutions = [
        name
        for name, layer in zip(
            load(imported).network.layer_names, load(imported).network.layers, strict=True
        )
        if isinstance(layer, Conv2d)
    ]
    assert convolutions
    capsys.readouterr()
    command = ["train", "--data", str(tmp_path / "data.npz"), "--init", str(imported)]
    command += ["--output", str(tmp_path / "run"), "--epochs", "2", "--freeze", *convolutions]
    assert main(command) == 0
    assert "of them trained" in capsys.readouterr().out
    before, after = (load(path).params for path in (imported, tmp_path / "run"))
    network = load(imported).network
    for name, old in network.unflatten(before).items():
        same = (old == network.unflatten(after)[name]).all()
        assert same == (name.partition(".")[0] in convolutions), name
    assert "freeze" in (tmp_path / "run" / "config.toml").read_text()
    assert main([*command[:-1], "nothing*", "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_summary_counts_what_is_trained(capsys):
    assert main(["summary", "--model", "lenet5", "--freeze", "conv*", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["total"]["parameters"] == 44_426
    assert shown["trained"] == 44_426 - 156 - 2416
    assert main(["summary", "--model", "lenet5", "--freeze", "conv*"]) == 0
    assert "41,854 of the 44,426 parameters are trained" in capsys.readouterr().out
