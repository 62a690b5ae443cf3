"""Training and inference by the CUDA backend against the CPU's, on the device at hand: the same
data, the same results.

Not collected by itself: `test_training.py` runs it in the simulator, and on a GPU where one is
asked for.
"""

import json
import math
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from minicnn import (
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    MaxPool2d,
    Network,
    ReLU,
    Settings,
    Trainer,
    load,
    plugins,
)
from minicnn.backends import RunInputs, StepInputs, backend, cpu, cuda, gpu
from minicnn.cli import main
from minicnn.errors import DeviceError, DivergedError, SettingError
from minicnn.kernels.cuda import step
from minicnn.network.activations import PReLU
from minicnn.network.blocks import Residual
from minicnn.network.layers import GlobalAvgPool2d
from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm
from minicnn.network.presets import preset
from minicnn.network.rule_layer import RuleLayer
from minicnn.rules import Hyperparameter, LayerRule, StepRule
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.events import BatchDone

sys.path += [str(path) for path in Path(__file__).resolve().parents[2].glob("plugins/*")]
# NumPy warns where the simulator's 64-bit hash wraps around, as it should.
pytestmark = pytest.mark.filterwarnings("ignore:.*overflow encountered in scalar:RuntimeWarning")

OPTIMIZERS = sorted(entry.name for entry in plugins.entries() if entry.kind == "optimizer")
LOSSES = sorted(entry.name for entry in plugins.entries() if entry.kind == "loss")
LINEAR = Network((2, 3, 1), [Flatten(), Dense(3)])
CONVOLUTIONAL = Network(
    (5, 4, 2), [Conv2d(3, 3), ReLU(), MaxPool2d(2, stride=1), Flatten(), Dropout(0.3), Dense(3)]
)


def example_rules():
    import minicnn_adan
    import minicnn_focal_loss
    import minicnn_muon
    import minicnn_sam
    import minicnn_schedule_free

    optimizers = (
        minicnn_adan.ADAN,
        minicnn_muon.MUON,
        minicnn_sam.SAM,
        minicnn_schedule_free.SCHEDULE_FREE,
    )
    return [{"optimizer": rule} for rule in optimizers] + [{"loss": minicnn_focal_loss.FOCAL}]


def images(network, count, dtype=np.uint8):
    x = np.random.default_rng(5).integers(0, 256, (count, *network.input_shape), dtype=np.uint8)
    return x if dtype == np.uint8 else (x / 255).astype(dtype)


def train(device, network=LINEAR, count=5, x=None, output=None, resume=None, fit=(), **options):
    """(trainer, history, results of the batches) of three steps, the last one of a smaller
    batch."""
    x, batches = images(network, count) if x is None else x, []
    options = {"batch_size": 2, "epochs": 1, "val_split": 0.0, **options}
    trainer = Trainer(network, Settings(device=device), **options)
    reporters = [
        lambda event: (
            batches.append((event.loss, event.accuracy)) if isinstance(event, BatchDone) else None
        )
    ]
    labels = np.arange(len(x)) % network.outputs
    history = trainer.fit(x, labels, reporters=reporters, output=output, resume=resume, **dict(fit))
    return trainer, history, batches


def assert_same_training(**options):
    """The weights, the slots, the state and the figures of every batch are the CPU's."""
    (here, epochs, batches), (there, other_epochs, other_batches) = (
        train(device, **options) for device in ("cpu", "cuda")
    )
    one, other = here.progress, there.progress
    first = here.network.initialize(np.random.default_rng([0, 0]))
    assert np.abs(one.params - first).max() > 1e-6  # else nothing was trained
    assert len(batches) == len(other_batches) >= 1
    np.testing.assert_allclose(other_batches, batches, rtol=1e-5, atol=1e-5)
    for name in ("params", "best_params", "slots"):
        expected = getattr(one, name)
        np.testing.assert_allclose(
            getattr(other, name), expected, rtol=1e-5, atol=1e-5, err_msg=name
        )
    assert (
        other.optimizer_state == one.optimizer_state
        and other.counters.optimizer_step == one.counters.optimizer_step
    )
    assert other_epochs.epochs[0].gradient_norm == pytest.approx(
        epochs.epochs[0].gradient_norm, rel=1e-5
    )


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_of_every_optimizer_equal_the_cpus(name):
    whole = plugins.find("optimizer", name).full_batch
    assert_same_training(optimizer=name, batch_size=None if whole else 2, epochs=3 if whole else 1)


@pytest.mark.parametrize("name", LOSSES)
def test_three_steps_with_every_loss_equal_the_cpus(name):
    assert_same_training(loss=name)


@pytest.mark.parametrize(
    "options", example_rules(), ids=lambda options: next(iter(options.values())).name
)
def test_three_steps_of_the_example_plugins_equal_the_cpus(options):
    assert_same_training(**options)


def prepare(step, state, learning_rate):
    return (learning_rate,)


RATE, DECAY = (Hyperparameter("learning_rate", 0.1),), Hyperparameter("weight_decay", 0.0)


def orthogonal(s):
    """Every operation on a matrix that lies on its side and on one that stands, and a base for the
    others."""
    s.gradient()
    for tensor in s.tensors:
        if not tensor.is_matrix:
            continue
        p, g, slot, scratch = (
            s.matrix(x, tensor) for x in (s.params, s.grads, s.slots["slot"], s.scratch["scratch"])
        )
        wide = p.shape[0] < p.shape[1]
        square = s.matrix(s.scratch["square"], tensor, (min(p.shape), min(p.shape)))
        s.matmul(g, g, square, transpose_a=not wide, transpose_b=wide)
        if wide:
            s.matmul(square, p, scratch, transpose_a=True)
        else:
            s.matmul(p, square, scratch, transpose_b=True)
        s.copy(scratch, slot)
        s.axpy(-0.1 * s.dot(g, slot) / (1.0 + s.norm(slot) ** 2), slot, p)
    s.update("momentum", tensors="others")


MINE = StepRule("mine", orthogonal, (*RATE, DECAY), ("momentum",), ("slot",), ("scratch", "square"))


def test_a_rule_with_vectors_and_matrices_equals_the_cpus():
    assert_same_training(optimizer=MINE)


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", MINE])
def test_weight_decay_of_weights_alone_equals_the_cpus(optimizer):
    assert_same_training(
        optimizer=optimizer, decay="weights", optimizer_kwargs={"weight_decay": 0.3}
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd", MINE])
@pytest.mark.parametrize("freeze", [["conv1", "batchnorm1"], ["conv2"], ["dense*"]], ids=" ".join)
def test_training_with_frozen_layers_equals_the_cpus(freeze, optimizer):
    layers = [Conv2d(3, 3, bias=False), BatchNorm2d(), ReLU(), Conv2d(2, 1), Flatten(), Dense(3)]
    network = Network((4, 4, 1), layers)
    options = {"network": network, "freeze": freeze, "optimizer": optimizer, "clip_grad": 0.1}
    assert_same_training(**options)
    params = train("cuda", **options)[0].progress.params
    first = network.initialize(np.random.default_rng([0, 0]))
    for name, tensor in network.unflatten(first).items():
        if any(fnmatchcase(name.partition(".")[0], pattern) for pattern in freeze):
            assert (tensor == network.unflatten(params)[name]).all(), name


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "adafactor"])
def test_factors_of_tensors_equal_the_cpus(optimizer):
    assert_same_training(
        optimizer=optimizer,
        optimizer_kwargs={"weight_decay": 0.3},
        learning_rate_factors={"bias": 3, "dense1.*": 0.5},
        weight_decay_factors={"weight": 2, "bias": 0},
    )


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_grad": 0.2, "clip_grad_value": 0.02, "schedule": "cosine", "optimizer": "sgd"},
        {"class_weights": [1.0, 2.0, 0.5], "seed": 3},
    ],
    ids=["plain", "clipped and scheduled", "weighted"],
)
def test_a_convolutional_network_with_dropout_equals_the_cpu(options):
    assert_same_training(network=CONVOLUTIONAL, batch_size=3, **options)


def test_training_with_normalization_and_joins_equals_the_cpu():
    """Running statistics too, which are parameters that are not trained."""
    layers = [
        Conv2d(3, 3, padding=1),
        BatchNorm2d(),
        PReLU(),
        Residual([Conv2d(3, 3, padding=1, groups=3), GroupNorm(1)]),
        GlobalAvgPool2d(),
        Dense(3),
        LayerNorm(),
    ]
    assert_same_training(network=Network((4, 3, 2), layers), batch_size=3, optimizer="sgd")


def test_results_read_in_parts_make_no_difference(monkeypatch):
    monkeypatch.setattr(cuda, "_STEPS_PER_CALL", 2)
    assert_same_training(network=CONVOLUTIONAL)


def test_a_step_of_lenet_takes_a_launch_an_operation_and_nothing_is_read_in_between(monkeypatch):
    network, rules = (
        preset("lenet5", (28, 28, 1), 10),
        (plugins.find("optimizer", "adam"), plugins.find("loss", "mse")),
    )
    training = cuda.TrainStep(network, network.initialize(np.random.default_rng(0)), 64, *rules)
    data = RunInputs(
        np.zeros((64, 784), np.uint8),
        np.zeros(64, np.int64),
        1.0,
        np.eye(10, dtype=np.float32),
        np.ones(10, np.float32),
        np.zeros(0, np.float32),
    )
    training.compile(data, None)
    events = []
    monkeypatch.setattr(
        gpu, "launch", lambda kernel, signature, blocks, *arguments: events.append(kernel.__name__)
    )
    training._results_on_gpu = type(
        "Results", (), {"copy_to_host": lambda self, array: events.append("read")}
    )()
    monkeypatch.setattr(cuda.cuda, "to_device", None)
    batch = StepInputs(
        np.arange(64), 64.0, 0, np.zeros((1, compiled_scalars(rules[0])), np.float32)
    )
    training.steps(data, [batch, batch], None)
    assert events == [*events[: len(events) // 2] * 2, "read"]
    # What is compiled of rules: two activations forward and backward, the loss, the update.
    names = ["forward", "add_forward", "backward", "add_backward", "backward_filter", "add_parts"]
    assert [name for name in events[: len(events) // 2] if name not in names] == [
        "gather",
        *["compiled"] * 6,
    ]
    assert len(events) // 2 < 40


def test_the_data_are_copied_to_the_card_once_however_often_a_step_is_made(monkeypatch):
    rules = plugins.find("optimizer", "gd"), plugins.find("loss", "mse")
    training = cuda.TrainStep(LINEAR, LINEAR.initialize(np.random.default_rng(0)), 2, *rules)
    ones, none = np.ones(3, np.float32), np.zeros(0, np.float32)
    rows, targets = images(LINEAR, 3).reshape(3, -1), np.eye(3, dtype=np.float32)
    data = RunInputs(rows, np.arange(3), 1 / 255, targets, ones, none)
    scalars = np.full((1, compiled_scalars(rules[0])), 0.1, np.float32)
    batch, slots = (
        StepInputs(np.arange(2), 2.0, 0, scalars),
        cuda.to_device(np.zeros((0, 1), np.float32)),
    )
    first = training.step(data, batch, slots)
    monkeypatch.setattr(cuda.cuda, "to_device", None)
    assert training.step(data, batch, slots).loss < first.loss


def test_float_images_and_a_batch_of_one_equal_the_cpu():
    assert_same_training(x=images(LINEAR, 3, np.float32), batch_size=1)


def test_data_and_batches_that_do_not_fit_the_card_are_taken_part_by_part(monkeypatch):
    whole, _, figures = train("cuda", CONVOLUTIONAL, batch_size=5)
    two, seen, original = 4 * gpu.DeviceNetwork(CONVOLUTIONAL, 2, True).work.size, [], cuda.Images

    def images_elsewhere(images, most, resident):
        seen.append(most)
        return original(images, most, False)

    monkeypatch.setattr(gpu, "free_memory", lambda: two)
    monkeypatch.setattr(cuda, "Images", images_elsewhere)
    parts, _, figures_of_parts = train("cuda", CONVOLUTIONAL, batch_size=5)
    assert seen[0] == 2  # so the batch was cut
    np.testing.assert_allclose(parts.progress.params, whole.progress.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(figures_of_parts, figures, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # NumPy's, in the simulator
def test_a_step_that_is_not_finite_leaves_the_weights_alone_and_ends_the_run():
    x = images(LINEAR, 6, np.float32)
    data = RunInputs(
        x.reshape(6, -1).copy(),
        np.arange(6) % 3,
        1.0,
        np.eye(3, dtype=np.float32),
        np.ones(3, np.float32),
        np.zeros(1, np.float32),
    )
    data.images[3] = np.inf
    rules = plugins.find("optimizer", "sgd"), plugins.find("loss", "cross_entropy")
    params = LINEAR.initialize(np.random.default_rng(0))
    scalars = np.full((1, compiled_scalars(rules[0])), 0.1, np.float32)
    training = cuda.TrainStep(LINEAR, params, 2, *rules)
    batches = [StepInputs(np.array(order), 2.0, 0, scalars) for order in ([0, 1], [2, 3], [4, 5])]
    first = cuda.TrainStep(LINEAR, params, 2, *rules)
    first.steps(data, batches[:1], cuda.to_device(np.zeros((0, 1), np.float32)))
    results = training.steps(data, batches, cuda.to_device(np.zeros((0, 1), np.float32)))
    assert np.isfinite(results[0].loss) and not np.isfinite(results[1].loss)
    np.testing.assert_array_equal(training.params.copy_to_host(), first.params.copy_to_host())
    with pytest.raises(DivergedError, match="epoch 1"):
        train("cuda", x=x, optimizer="sgd", learning_rate=3e38)


def compiled_scalars(rule):
    return len(
        rule.prepare(
            1, dict(rule.state), **{hyper.name: hyper.default for hyper in rule.hyperparameters}
        )
    )


def test_the_parts_of_a_gradient_are_added_in_their_order_and_its_norm_is_that_of_any_size():
    rng = np.random.default_rng(2)
    for size in (1e-30, 1.0, 1e30):
        parts, grads = (size * rng.normal(size=500)).astype(np.float32), np.zeros(60, np.float32)
        sums = np.array(
            [[0, 50, 10, 55, 7], [52, 4, 60, 55, 7]]
        )  # offset, count, place, distance of two splits, splits
        there, squares = cuda.to_device(grads), cuda.to_device(np.zeros((3, 2), np.float32))
        gpu.run_kernel(
            step.add_parts, 3, cuda.to_device(parts), cuda.to_device(sums), there, squares
        )
        for offset, count, place, distance, splits in sums:
            for split in range(splits):
                grads[offset : offset + count] += parts[place + split * distance :][:count]
        np.testing.assert_array_equal(there.copy_to_host(), grads)
        scale, total = squares.copy_to_host().astype(np.float64).T
        assert math.sqrt((scale**2 * total).sum()) == pytest.approx(
            np.linalg.norm(grads.astype(np.float64)), rel=1e-6
        )


# --- models and checkpoints -----------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_and_a_model_predicts_on_the_other_device(first, second, tmp_path):
    folder = tmp_path
    train(first, output=folder, optimizer="momentum")
    straight = train(first, optimizer="momentum", epochs=2)[0].progress
    resumed = train(
        second, optimizer="momentum", epochs=2, resume=load_checkpoint(folder / "last.safetensors")
    )[0].progress
    np.testing.assert_allclose(resumed.params, straight.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(resumed.slots, straight.slots, rtol=1e-5, atol=1e-6)
    x = images(LINEAR, 7)
    here, there = (
        load(folder / "model.safetensors", device=device).logits(x) for device in (first, second)
    )
    np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6)


def test_validation_and_test_figures_equal_the_cpus():
    x, y = images(CONVOLUTIONAL, 4), np.arange(4) % 3
    fit = {"validation": (x, y), "test": (x[:3], y[:3])}
    ended = [train(device, CONVOLUTIONAL, fit=fit)[1].ended.test for device in ("cpu", "cuda")]
    assert (
        ended[1].loss == pytest.approx(ended[0].loss, rel=1e-5)
        and ended[1].confusion == ended[0].confusion
    )


# --- the interface --------------------------------------------------------------------------------


def test_both_backends_do_the_same_on_the_same_data():
    """Every name that the CUDA backend has, the CPU's has too, and what it computes is the same."""
    assert backend("cuda") is cuda and set(cuda.__all__) <= set(vars(cpu))
    rng = np.random.default_rng(1)
    params = LINEAR.initialize(rng)
    grads, x = (
        rng.normal(size=params.shape).astype(np.float32),
        rng.random((4, 2, 3, 1), np.float32),
    )
    spans = np.array([[0, 18, 0], [32, 35, 0]])
    logits, labels = rng.normal(size=(4, 3)).astype(np.float32), np.array([0, 2, 1, 1])
    rule, loss = plugins.find("optimizer", "momentum"), plugins.find("loss", "cross_entropy")
    found = []
    for device in (cpu, cuda):
        passes = device.Passes(LINEAR, params, 4)
        results = [
            passes.forward(x).copy(),
            passes.backward(logits),
            device.Inference(LINEAR, params).logits(x, 0.5),
        ]
        results += device.batch_loss(
            loss,
            logits,
            labels,
            np.eye(3, dtype=np.float32),
            np.ones(3, np.float32),
            np.zeros(1, np.float32),
        )
        p, g, s = (
            device.to_device(array.copy())
            for array in (params, grads, np.zeros((1, len(params)), np.float32))
        )
        scalars = np.full((1, compiled_scalars(rule)), 0.1, np.float32)
        device.CompiledUpdate(rule, np.dtype(np.float32))(p, g, s, scalars, spans)
        device.axpy(0.5, g, p)
        results += [device.norm(g), device.norm(device.to_device(np.full(5, 1e30, np.float32)))]
        device.copy(p, g)
        for there in (p, g, s):
            host = np.empty(there.shape, np.float32)
            device.to_host(there, host)
            results.append(there if device is cpu else host)
        found.append(results)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_numbers_of_another_precision_are_refused():
    with pytest.raises(SettingError, match="float32"):
        cuda.Passes(LINEAR, LINEAR.initialize(np.random.default_rng(0)).astype(np.float64), 2)


@pytest.mark.parametrize(
    ("shape", "units", "what"),
    [((1, 1, 2**16), 2**15, "weights"), ((2**16, 2**15, 1), 1, "pixels")],
)
def test_a_network_beyond_32_bit_places_is_refused_with_one_line(shape, units, what):
    with pytest.raises(SettingError, match=f"on CUDA a .* fewer than 2147483648 {what}"):
        gpu.lay_out(Network(shape, [Flatten(), Dense(units)]), 1, False)


def test_a_layer_that_only_the_cpu_computes_is_refused_by_name():
    def copies(x, y):
        y[:] = x

    rule = LayerRule("mine", lambda shape: shape, copies, copies)
    network = Network((2, 3, 1), [Flatten(), RuleLayer(rule), Dense(3)])
    with pytest.raises(
        SettingError, match=r"device cuda: layer mine1, mine\(\), .* use the device cpu"
    ):
        cuda.Inference(network, network.initialize(np.random.default_rng(0)))


def test_batch_normalization_is_refused_where_the_batch_does_not_fit(monkeypatch):
    network = Network((2, 3, 1), [Flatten(), Dense(3), BatchNorm2d()])
    fits = 4 * gpu.lay_out(network, 2, True)[0].work_size
    monkeypatch.setattr(gpu, "free_memory", lambda: fits)
    assert gpu.largest_chunk(network, 2, True) == 2
    with pytest.raises(DeviceError, match="batch normalization needs a batch of 100 at once"):
        gpu.largest_chunk(network, 100, True)


def test_gradcheck_compares_the_devices_gradients_with_the_cpus(tmp_path, capsys, monkeypatch):
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\n[[layers]]\ntype = "Conv2d"\nfilters = 2\nkernel_size = 5\nstride = 6\n[[layers]]\ntype = "ReLU"\n'
        '[[layers]]\ntype = "MaxPool2d"\nkernel_size = 2\n[[layers]]\ntype = "Flatten"\n'
        '[[layers]]\ntype = "Dense"\nunits = "classes"\n'
    )
    command = [
        "gradcheck",
        "--model",
        str(tmp_path / "tiny.toml"),
        "--device",
        "cuda",
        "-b",
        "1",
        "--json",
    ]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["device"] == "cuda"
    assert [check["tensor"] for check in report["tensors"]] == [
        "conv1.weight",
        "conv1.bias",
        "dense1.weight",
        "dense1.bias",
    ]
    assert all(
        check["checked"] == check["weights"] and check["numeric"] != 0
        for check in report["tensors"]
    )
    backward = cuda.Passes.backward
    monkeypatch.setattr(
        cuda.Passes, "backward", lambda self, dlogits: backward(self, 1.001 * dlogits)
    )
    assert main(command) == 1
    assert "differs from the CPU's" in capsys.readouterr().err


def test_recording_is_refused_before_the_run_starts(tmp_path):
    trainer = Trainer(LINEAR, device="cuda", record=0, val_split=0.0, batch_size=2, epochs=1)
    with pytest.raises(SettingError, match="record looks at weights and activations on the CPU"):
        trainer.fit(images(LINEAR, 4), np.arange(4) % 3, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"augment": {"flip": "alternating", "crop": 1, "border": "reflect"}, "epochs": 2},
        {"augment": {"rotate": 20, "scale": 0.2, "brightness": 0.3}, "normalize": True},
        {"augment": {"mixup": 0.5, "cutmix": 1.0, "crop": 1}, "class_weights": [1.0, 2.0, 0.5]},
        {"augment": {"mixup": 1.0}, "loss": "binary_cross_entropy"},
    ],
    ids=["moved", "turned", "mixed", "mixed rows"],
)
def test_training_on_augmented_images_equals_the_cpus(options, monkeypatch):
    network = Network((5, 4, 2), [Conv2d(3, 3), ReLU(), Flatten(), Dense(3)])
    assert_same_training(network=network, **options)
    plain, augmented = (
        train("cuda", network, **(options | {"augment": augment}))[0].progress.params
        for augment in ({}, options["augment"])
    )
    assert np.abs(augmented - plain).max() > 1e-4
    monkeypatch.setattr(
        gpu, "free_memory", lambda: 4 * gpu.DeviceNetwork(network, 1, True).work.size
    )
    original = cuda.Images
    monkeypatch.setattr(cuda, "Images", lambda images, most, _: original(images, most, False))
    one_by_one = train("cuda", network, **options)[0].progress.params
    np.testing.assert_allclose(one_by_one, augmented, rtol=1e-5, atol=1e-6)
