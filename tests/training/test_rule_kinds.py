"""The three kinds of optimizer rule: elementwise, whole tensor, whole step; and the schedule of any hyperparameter."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicnn import Conv2d, Dense, Flatten, Network, Optimizer, ReLU, Trainer, load
from minicnn.backends import cpu
from minicnn.errors import DivergedError, PluginError, SettingError, UnknownNameError
from minicnn.kernels.cpu import step as step_kernels
from minicnn.kernels.cpu.rules import compile_tensor_update
from minicnn.optimizers.adam import ADAM, NADAM
from minicnn.optimizers.sgd import MOMENTUM, SGD
from minicnn.rules import Hyperparameter, OptimizerRule, StepRule, TensorRule
from minicnn.rules.operations import axpy, dot, matmul, norm
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.events import BatchDone, EpochDone

RATE = Hyperparameter("learning_rate", 0.1, 0.0, open_minimum=True)
NETWORK = Network((6, 6, 1), [Conv2d(3, 3), ReLU(), Flatten(), Dense(4)])
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (90, 6, 6), dtype=np.uint8), RNG.integers(0, 4, 90)


def prepare_rate(step, state, learning_rate):
    return (learning_rate,)


def train(rule, images=IMAGES, **options):
    """The trainer after a short run, and the events of it."""
    events = []
    given = {"epochs": 2, "batch_size": 16, "threads": 1} | options
    where = {name: given.pop(name) for name in ("output", "resume") if name in given}
    trainer = Trainer(NETWORK, optimizer=rule, **given)
    trainer.fit(images, LABELS, reporters=[events.append], test=(images[:20], LABELS[:20]), **where)
    return trainer, events


# Whole tensors ------------------------------------------------------------------------------------------------------


def lars_update(p, g, velocity, learning_rate, trust):
    """LARS (You et al. 2017): every tensor has a rate in proportion to its own size."""
    rate = learning_rate
    if norm(p) > 0.0:
        rate = learning_rate * trust * norm(p) / (norm(g) + 1e-9)
    for i in range(len(velocity)):
        for j in range(velocity.shape[1]):
            velocity[i, j] = 0.9 * velocity[i, j] + rate * g[i, j]
    axpy(-1.0, velocity, p)


def lars_prepare(step, state, learning_rate, trust):
    state["rates"] += learning_rate
    return learning_rate, trust


LARS = TensorRule(
    "lars", lars_update, lars_prepare, (RATE, Hyperparameter("trust", 0.02)), ("velocity",), (("rates", 0.0),)
)


def test_a_rule_with_norms_follows_its_equation_on_every_tensor_of_a_network():
    rng = np.random.default_rng(1)
    params = rng.normal(size=NETWORK.flat_size)
    expected = {name: tensor.copy() for name, tensor in NETWORK.unflatten(params).items()}
    velocity = {name: np.zeros_like(tensor) for name, tensor in expected.items()}
    optimizer = Optimizer(LARS, NETWORK, np.float64)
    for _ in range(10):
        grads = rng.normal(size=NETWORK.flat_size)
        optimizer.update(params, grads)
        for name, g in NETWORK.unflatten(grads).items():
            rate = 0.1 * 0.02 * np.linalg.norm(expected[name]) / (np.linalg.norm(g) + 1e-9)
            velocity[name] = 0.9 * velocity[name] + rate * g
            expected[name] = expected[name] - velocity[name]
    for name, tensor in NETWORK.unflatten(params).items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-12, err_msg=name)
    assert optimizer.state["rates"] == pytest.approx(1.0)


def shape_update(p, g, learning_rate):
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            p[i, j] = 100.0 * p.shape[0] + p.shape[1]


def test_filters_dense_weights_and_biases_are_matrices():
    params = np.zeros(NETWORK.flat_size, np.float32)
    Optimizer(TensorRule("shape", shape_update, prepare_rate, (RATE,)), NETWORK).update(params, params.copy())
    seen = {name: set(np.unique(tensor).tolist()) for name, tensor in NETWORK.unflatten(params).items()}
    assert seen == {"conv1.weight": {903}, "conv1.bias": {103}, "dense1.weight": {4804}, "dense1.bias": {104}}


def product_update(p, g, a, b, learning_rate):
    matmul(a, b, p)


def product_update_a(p, g, a, b, learning_rate):
    matmul(a, b, p, transpose_a=True)


def product_update_b(p, g, a, b, learning_rate):
    matmul(a, b, p, transpose_b=True)


def product_update_both(p, g, a, b, learning_rate):
    matmul(a, b, p, True, True)


@pytest.mark.parametrize("update", [product_update, product_update_a, product_update_b, product_update_both])
@pytest.mark.parametrize("size", [1, 7, 64, 65, 130])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_compiled_product_is_that_of_numpy(update, size, dtype):
    rng = np.random.default_rng(size)
    a, b = rng.normal(size=(2, size, size)).astype(dtype)
    expected, found = np.empty((size, size)), np.zeros(size * size, dtype)
    update(expected, None, a.astype(np.float64), b.astype(np.float64), 0.0)
    slots = np.stack([a.reshape(-1), b.reshape(-1)])
    rule = TensorRule("product", update, prepare_rate, (RATE,), ("a", "b"))
    tensors = np.array([[0, size, size]])
    cpu.Update(rule, dtype, tensors)(found, found.copy(), slots, np.zeros(1, dtype), tensors)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(found.reshape(size, size), expected, atol=tolerance * math.sqrt(size))


def dot_update(p, g, learning_rate):
    product = dot(p, g)
    axpy(product, g, p)


def test_dot_and_axpy_are_those_of_numpy():
    rng = np.random.default_rng(0)
    params, grads = rng.normal(size=(2, 100))
    expected = params + (params @ grads) * grads
    Optimizer(TensorRule("dot", dot_update, prepare_rate, (RATE,)), 100, np.float64).update(params, grads)
    np.testing.assert_allclose(params, expected, rtol=1e-12)


def wrong_product_update(p, g, learning_rate):
    matmul(p, g, p)


def test_a_product_of_shapes_that_do_not_fit_is_seen_as_not_a_number():
    params = np.ones(6, np.float32)
    Optimizer(TensorRule("wrong", wrong_product_update, prepare_rate, (RATE,)), 6).update(params, params.copy())
    assert np.isnan(params).all()


def test_a_tensor_rule_that_takes_other_arguments_than_it_declares_is_refused():
    rule = TensorRule("short", lambda p, g: None, prepare_rate, (RATE,), ("m",), scratch=("x",))
    with pytest.raises(PluginError, match=r"'short': update must take \(p, g, \*\['m'\], \*scalars, \*\['x'\]\)"):
        compile_tensor_update(rule, np.float32)
    few = replace(LARS, prepare=lambda step, state, learning_rate, trust: (1.0,))
    with pytest.raises(PluginError, match="lars: update takes 2 scalars, but prepare gave 1"):
        Optimizer(few, 5).update(np.zeros(5, np.float32), np.zeros(5, np.float32))


def test_a_second_process_takes_a_tensor_rule_with_a_product_from_the_disk(tmp_path):
    (tmp_path / "rule.py").write_text(
        "import numpy as np\n"
        "from minicnn import Optimizer\n"
        "from minicnn.rules import TensorRule\n"
        "from minicnn.rules.operations import matmul\n"
        "def update(p, g, x):\n"
        "    matmul(p, g, x, transpose_b=True)\n"
        "    p[:] = x\n"
        "params = np.arange(4, dtype=np.float32)\n"
        "rule = TensorRule('mine', update, lambda step, state: (), (), scratch=('x',))\n"
        "optimizer = Optimizer(rule, 1)\n"
        "one = np.full(1, 3, np.float32)\n"
        "optimizer.update(one, np.full(1, 2, np.float32))\n"
        "module = next(m for name, m in __import__('sys').modules.items() if name.startswith('minicnn_optimizer_mine'))\n"
        "print(one[0], module.compiled.cache_hits)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    printed = [
        subprocess.run([sys.executable, "rule.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [result.stdout.split() for result in printed] == [["6.0", "0"], ["6.0", "1"]], printed[0].stderr


# Whole steps --------------------------------------------------------------------------------------------------------


def plain_step(s):
    s.gradient()
    s.update("sgd")


PLAIN = StepRule("plain", plain_step, SGD.hyperparameters, bases=("sgd",))


def lookahead_step(s):
    """Lookahead (Zhang et al. 2019): every five steps the weights go back half the way."""
    slow = s.slots["slow"]
    if s.number == 1:
        s.copy(s.params, slow)
    s.gradient()
    s.update("adam")
    if s.number % 5 == 0:
        s.axpy(-0.5, slow, slow)
        s.axpy(0.5, s.params, slow)
        s.copy(slow, s.params)


LOOKAHEAD = StepRule("lookahead", lookahead_step, ADAM.hyperparameters, bases=(ADAM,), slots=("slow",))


def average_step(s):
    """Momentum with a moving average of the weights, which is what is used; it counts its steps itself."""
    if s.number == 1:
        s.copy(s.params, s.slots["average"])
    s.gradient()
    s.update("momentum")
    s.axpy(-0.1, s.slots["average"], s.slots["average"])
    s.axpy(0.1, s.params, s.slots["average"])
    s.state["steps"] += 1.0


def average_evaluation(s, out):
    s.copy(s.slots["average"], out)


AVERAGE = StepRule("average", average_step, MOMENTUM.hyperparameters, bases=("momentum",), slots=("average",),
                   state=(("steps", 0.0),), evaluation=average_evaluation)  # fmt: skip


def two_gradients_step(s):
    s.gradient()
    s.copy(s.params, s.scratch["start"])
    s.axpy(s.hyper["distance"] / s.norm(s.grads), s.grads, s.params)
    s.gradient()
    s.copy(s.scratch["start"], s.params)
    s.update("nadam")


TWO_GRADIENTS = StepRule("two_gradients", two_gradients_step, (*NADAM.hyperparameters, Hyperparameter("distance", 0.05)),
                         bases=(NADAM,), scratch=("start",))  # fmt: skip


def split_step(s):
    s.gradient()
    s.update("lars", tensors="matrices")
    s.update("adam", tensors="others", learning_rate=0.5 * s.hyper["learning_rate"])


SPLIT = StepRule("split", split_step, (RATE,), bases=(LARS, "adam"))

KINDS = {"elementwise": NADAM, "tensor": LARS, "lookahead": LOOKAHEAD, "average": AVERAGE,
         "two gradients": TWO_GRADIENTS, "split": SPLIT}  # fmt: skip


def test_a_base_rule_alone_trains_as_it_does_by_itself():
    wrapped, plain = train(PLAIN)[0], train("sgd")[0]
    np.testing.assert_array_equal(wrapped.progress.params, plain.progress.params)


def test_lookahead_follows_its_equation():
    rng = np.random.default_rng(0)
    params = rng.normal(size=9)
    fast, slow, adam = params.copy(), params.copy(), Optimizer(ADAM, 9, np.float64)
    optimizer = Optimizer(LOOKAHEAD, 9, np.float64)
    for step in range(1, 18):
        grads = rng.normal(size=9)
        optimizer.update(params, grads)
        adam.update(fast, grads)
        if step % 5 == 0:
            slow += 0.5 * (fast - slow)
            fast = slow.copy()
    np.testing.assert_allclose(params, fast, rtol=1e-12)


def test_matrices_and_others_are_all_tensors():
    rng = np.random.default_rng(0)
    params, both = rng.normal(size=(2, NETWORK.flat_size))
    both[:] = params
    grads = rng.normal(size=NETWORK.flat_size)
    Optimizer(SPLIT, NETWORK, np.float64).update(params, grads)
    matrices, others = both.copy(), both.copy()
    Optimizer(LARS, NETWORK, np.float64, learning_rate=0.1).update(matrices, grads)
    Optimizer(ADAM, NETWORK, np.float64, learning_rate=0.05).update(others, grads)
    found, of_matrices, of_others = (NETWORK.unflatten(flat) for flat in (params, matrices, others))
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, (of_matrices if name.endswith("weight") else of_others)[name])


def test_weights_of_evaluation_are_validated_tested_and_saved_and_the_others_are_trained(tmp_path):
    trainer, events = train(AVERAGE, epochs=1, output=tmp_path)
    average = trainer.progress.slots[0]
    np.testing.assert_array_equal(trainer.model.params, average)
    assert np.abs(average - trainer.progress.params).max() > 1e-4
    (epoch,) = (event for event in events if isinstance(event, EpochDone))
    model = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(model.params[: len(average)], average)
    assert events[-1].test.accuracy == model.evaluate(IMAGES[:20], LABELS[:20]).accuracy
    held_out = np.setdiff1d(np.arange(90), _trained_on())
    figures = model.evaluate(IMAGES[held_out], LABELS[held_out])
    assert epoch.validation_loss == pytest.approx(figures.loss, rel=1e-6)


def _trained_on():
    from minicnn.data import stratified_split

    return stratified_split(LABELS, 0.1, 0)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [3, 6], ids=["in the middle of an epoch", "at its end"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(kind, batch, tmp_path):
    rule = KINDS[kind]
    options = {"epochs": 3, "schedule": "cosine", "warmup_epochs": 1, "clip_grad": 1.0}
    whole, _ = train(rule, **options)
    stopped = Trainer(NETWORK, optimizer=rule, batch_size=16, threads=1, **options)

    def stop(event):
        if isinstance(event, BatchDone) and (event.epoch, event.batch) == (2, batch):
            stopped.interrupt()

    stopped.fit(IMAGES, LABELS, reporters=[stop], test=(IMAGES[:20], LABELS[:20]), output=tmp_path)
    resumed, _ = train(rule, **options, resume=load_checkpoint(tmp_path / "last.safetensors"))
    for name in ("params", "best_params", "slots"):
        np.testing.assert_array_equal(getattr(resumed.progress, name), getattr(whole.progress, name), err_msg=name)
    assert resumed.progress.optimizer_state == whole.progress.optimizer_state
    assert resumed.progress.counters == whole.progress.counters
    assert resumed.progress.counters.optimizer_step == 18


def test_a_run_is_not_resumed_with_a_rule_that_keeps_other_numbers(tmp_path):
    train(AVERAGE, output=tmp_path, epochs=1)
    other = replace(AVERAGE, state=(("something", 0.0),))
    with pytest.raises(SettingError, match="keeps other numbers"):
        train(other, resume=load_checkpoint(tmp_path / "last.safetensors"))


def test_a_model_loads_without_the_rule_that_trained_it(tmp_path):
    train(AVERAGE, output=tmp_path)
    code = f"import minicnn; model = minicnn.load({str(tmp_path)!r}); print(model.training['settings']['optimizer'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "average\n", result.stderr


def test_the_loss_reported_is_that_of_the_first_gradient_and_every_gradient_is_clipped():
    losses, norms = [], []

    def step(s):
        losses.append(s.gradient())
        norms.append(s.norm(s.grads))
        s.axpy(-10.0, s.grads, s.params)
        s.gradient()
        norms.append(s.norm(s.grads))

    _, events = train(StepRule("looks", step, (RATE,)), epochs=1, clip_grad=0.01)
    batches = [event for event in events if isinstance(event, BatchDone)]
    assert batches[0].loss == pytest.approx(losses[0])
    assert len(norms) == 2 * len(batches)
    np.testing.assert_allclose(norms, 0.01, rtol=1e-4)


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_gradient_that_is_not_finite_ends_the_run_with_the_best_weights(which):
    calls = []

    def step(s):
        s.gradient()
        calls.append(s.number)
        if s.number == 9:
            s.axpy(1e38, s.grads, s.params)
            s.axpy(1e38, s.grads, s.params)
        if which == "second":
            s.gradient()
        s.update("sgd")

    rule = StepRule("explodes", step, SGD.hyperparameters, bases=("sgd",))
    trainer = Trainer(NETWORK, optimizer=rule, batch_size=16, epochs=3)
    with pytest.raises(DivergedError, match=f"epoch 2, batch {3 if which == 'second' else 4}; the weights of epoch 1"):
        trainer.fit(IMAGES, LABELS)
    assert calls[-1] == 9
    assert np.isfinite(trainer.model.params).all()


def test_a_step_rule_on_the_full_batch_takes_it():
    trainer, events = train(replace(PLAIN, full_batch=True), batch_size=None)
    assert sum(isinstance(event, BatchDone) for event in events) == trainer.settings.epochs


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda s: None, "wrong: step must call gradient"),
        (lambda s: s.update("sgd"), r"wrong: step must call gradient\(\) before update"),
        (lambda s: (s.gradient(), s.update("sdg")), "unknown base of optimizer wrong 'sdg'; did you mean 'sgd'"),
        (lambda s: (s.gradient(), s.update("sgd", momentum=0.5)), "unknown hyperparameter of sgd 'momentum'"),
        (lambda s: (s.gradient(), s.gradient()), "asks for the gradient at another point"),
    ],
)
def test_a_step_that_is_wrong_says_how(step, message):
    optimizer = Optimizer(StepRule("wrong", step, (RATE,), bases=(SGD,)), 4)
    with pytest.raises((PluginError, UnknownNameError, SettingError), match=message):
        optimizer.update(np.zeros(4, np.float32), np.ones(4, np.float32))


@pytest.mark.parametrize(("bases", "message"), [((SGD, "sgd"), "sgd is there twice"), ((PLAIN,), "plain is a StepRule")])
def test_bases_are_different_rules_that_are_no_step_rules(bases, message):
    with pytest.raises(PluginError, match=message):
        Optimizer(replace(PLAIN, name="outer", bases=bases), 4)


def test_a_base_has_the_hyperparameters_given_else_those_of_the_rule_else_its_defaults():
    seen = []

    def prepare(step, state, a, b, c):
        seen.append((a, b, c))
        return ()

    base = OptimizerRule("base", lambda p, g: p, prepare, tuple(Hyperparameter(name, 1.0) for name in "abc"))
    outer = tuple(Hyperparameter(name, 2.0) for name in "ab")
    rule = StepRule("outer", lambda s: (s.gradient(), s.update("base", a=3.0)), outer, bases=(base,))
    Optimizer(rule, 4).update(np.zeros(4, np.float32), np.ones(4, np.float32))
    assert seen == [(3.0, 2.0, 1.0)]


# Elementwise rules and schedules ------------------------------------------------------------------------------------


def test_elementwise_rules_are_updated_inside_the_one_compiled_step(monkeypatch):
    def forbidden(*_):
        raise AssertionError("the update is a launch of its own")

    monkeypatch.setattr(step_kernels, "update", forbidden)
    before = NETWORK.initialize(np.random.default_rng([0, 0]))
    assert (train("adam")[0].progress.params != before).any()


def _observer(seen):
    def step(s):
        seen.append(dict(s.hyper))
        s.gradient()
        s.update("momentum")

    return StepRule("observer", step, MOMENTUM.hyperparameters, bases=(MOMENTUM,))


def test_any_hyperparameter_can_be_scheduled():
    seen = []
    train(_observer(seen), schedule="exponential", schedule_kwargs={"gamma": 0.25}, schedule_of="momentum",
          optimizer_kwargs={"momentum": 0.8}, learning_rate=0.02, warmup_epochs=1)  # fmt: skip
    batches = len(seen) // 2
    np.testing.assert_allclose([hyper["momentum"] for hyper in seen],
                               [0.8 * 0.25 ** (k / batches) for k in range(2 * batches)])  # fmt: skip
    rates = [0.02 * min(1.0, (k + 1) / batches) for k in range(2 * batches)]  # the warm-up is the learning rate's
    np.testing.assert_allclose([hyper["learning_rate"] for hyper in seen], rates)


def test_the_fused_step_takes_scheduled_hyperparameters_too():
    options = {"schedule": "step", "schedule_kwargs": {"step_size": 100}, "optimizer_kwargs": {"momentum": 0.8}}
    unchanged = train("momentum", **options, schedule_of="momentum")[0].progress.params
    np.testing.assert_array_equal(unchanged, train("momentum", optimizer_kwargs={"momentum": 0.8})[0].progress.params)
    options["schedule_kwargs"] = {"step_size": 1}
    changed = train("momentum", **options, schedule_of="momentum")[0].progress.params
    assert (changed != unchanged).any()


def test_what_is_scheduled_is_stored_and_an_unknown_name_lists_the_known_ones(tmp_path):
    train("momentum", schedule="cosine", schedule_of="weight_decay", optimizer_kwargs={"weight_decay": 0.1}, output=tmp_path)
    assert load_checkpoint(tmp_path / "last.safetensors").settings["schedule_of"] == "weight_decay"
    with pytest.raises(UnknownNameError, match="'momentun'; did you mean 'momentum'"):
        Trainer(NETWORK, optimizer="momentum", schedule_of="momentun")
    with pytest.raises(SettingError, match="schedule_of must be a name"):
        Trainer(NETWORK, schedule_of=3)


def test_a_rule_without_a_learning_rate_can_be_trained():
    rule = OptimizerRule("still", lambda p, g: p, lambda step, state: (), ())
    before = NETWORK.initialize(np.random.default_rng([0, 0]))
    np.testing.assert_array_equal(train(rule)[0].progress.params, before)


def test_a_hyperparameter_may_be_called_anything():
    names = ("size", "dtype", "device", "rule")
    rule = OptimizerRule("named", lambda p, g, a, b, c, d: p - a * g, lambda step, state, **h: tuple(h.values()),
                         tuple(Hyperparameter(name, 0.0) for name in names))  # fmt: skip
    params = np.ones(2)
    Optimizer(rule, 2, np.float64, **dict.fromkeys(names, 0.25)).update(params, np.ones(2))
    np.testing.assert_array_equal(params, [0.75, 0.75])
