"""The two kinds of optimizer rule, elementwise and whole step, and the schedule of any
hyperparameter."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from minicnn import BatchNorm2d, Conv2d, Dense, Flatten, Network, Optimizer, ReLU, Trainer, load
from minicnn.backends import cpu
from minicnn.errors import DivergedError, PluginError, SettingError, UnknownNameError
from minicnn.kernels.cpu import step as step_kernels
from minicnn.optimizers.adam import ADAM, ADAMW, NADAM
from minicnn.optimizers.sgd import MOMENTUM, SGD
from minicnn.rules import Hyperparameter, OptimizerRule, StepRule
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


# Vectors and matrices
# -----------------------------------------------------------------------------------------------


def lars_step(s):
    """LARS (You et al. 2017): every tensor has a rate in proportion to its own size."""
    s.gradient()
    velocity = s.slots["velocity"]
    s.scale(0.9, velocity)
    for tensor in s.tensors:
        p, g, v = (s.matrix(x, tensor) for x in (s.params, s.grads, velocity))
        size, rate = s.norm(p), s.hyper["learning_rate"]
        s.axpy(rate * s.hyper["trust"] * size / (s.norm(g) + 1e-9) if size > 0 else rate, g, v)
    s.axpy(-1.0, velocity, s.params)
    s.state["rates"] += s.hyper["learning_rate"]


LARS = StepRule(
    "lars",
    lars_step,
    (RATE, Hyperparameter("trust", 0.02)),
    slots=("velocity",),
    state=(("rates", 0.0),),
)


def test_lars_follows_its_equation_on_every_tensor_of_a_network():
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


def lamb_step(s):
    """LAMB (You et al. 2020): the length of AdamW's step is that of the tensor; what AdamW would do
    is taken from a copy."""
    s.gradient()
    before, change = s.scratch["before"], s.scratch["change"]
    s.copy(s.params, before)
    s.update("adamw", learning_rate=1.0)
    s.copy(s.params, change)
    s.axpy(-1.0, before, change)
    s.copy(before, s.params)
    for tensor in s.tensors:
        p, d = s.matrix(s.params, tensor), s.matrix(change, tensor)
        size, length = s.norm(p), s.norm(d)
        s.axpy(s.hyper["learning_rate"] * (size / length if size > 0 < length else 1.0), d, p)


LAMB = StepRule(
    "lamb", lamb_step, ADAMW.hyperparameters, bases=("adamw",), scratch=("before", "change")
)


def test_lamb_follows_its_equation_on_every_tensor_of_a_network():
    rng = np.random.default_rng(1)
    params = rng.normal(size=NETWORK.flat_size)
    expected = {name: tensor.copy() for name, tensor in NETWORK.unflatten(params).items()}
    mean, square = (
        {name: np.zeros_like(tensor) for name, tensor in expected.items()} for _ in range(2)
    )
    optimizer = Optimizer(LAMB, NETWORK, np.float64, weight_decay=0.2, learning_rate=0.03)
    for t in range(1, 11):
        grads = rng.normal(size=NETWORK.flat_size)
        optimizer.update(params, grads)
        for name, g in NETWORK.unflatten(grads).items():
            w = expected[name]
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.999 * square[name] + 0.001 * g * g
            r = (
                mean[name] / (1 - 0.9**t) / (np.sqrt(square[name] / (1 - 0.999**t)) + 1e-8)
                + 0.2 * w
            )
            expected[name] = w - 0.03 * np.linalg.norm(w) / np.linalg.norm(r) * r
    for name, tensor in NETWORK.unflatten(params).items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-9, err_msg=name)


def looked_at(step, size=NETWORK, dtype=np.float64, **options):
    """Run ``step`` once on ones as parameters and twos as gradient; the parameters after it."""
    count = size if isinstance(size, int) else size.flat_size
    params = np.ones(count, dtype)
    Optimizer(StepRule("looks", step, (RATE,), **options), size, dtype).update(
        params, np.full(count, 2, dtype)
    )
    return params


def test_a_rule_knows_the_tensors_of_its_network():
    network = Network(
        (6, 6, 1), [Conv2d(3, 3), ReLU(), Conv2d(5, 2, bias=False), Flatten(), Dense(4)]
    )
    tables = []
    looked_at(lambda s: (s.gradient(), tables.append(s.tensors)), network)
    assert [(t.name, t.shape, t.kind, t.layer, t.fan_in, t.first, t.last) for t in tables[0]] == [
        ("conv1.weight", (3, 3, 1, 3), "weight", 0, 9, True, False),
        ("conv1.bias", (3,), "bias", 0, 9, True, False),
        ("conv2.weight", (2, 2, 3, 5), "weight", 2, 12, False, False),
        ("dense1.weight", (45, 4), "weight", 4, 45, False, True),
        ("dense1.bias", (4,), "bias", 4, 45, False, True),
    ]
    assert [t.matrix_shape for t in tables[0]] == [(9, 3), (1, 3), (12, 5), (45, 4), (1, 4)]
    assert [t.is_matrix for t in tables[0]] == [True, False, True, True, False]
    assert all(t.decays for t in tables[0])


def test_a_vector_alone_is_one_tensor():
    tables = []
    looked_at(lambda s: (s.gradient(), tables.append(s.tensors)), 7)
    ((name, shape, kind),) = [(t.name, t.shape, t.kind) for t in tables[0]]
    assert (name, shape, kind) == ("params", (7,), "weight")


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (64, 64, 64), (65, 130, 66), (2, 131, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_product_of_matrices_is_that_of_numpy(transpose_a, transpose_b, shape, dtype):
    (rows, inner, columns), rng = shape, np.random.default_rng(0)
    a = rng.normal(size=(inner, rows) if transpose_a else (rows, inner)).astype(dtype)
    b = rng.normal(size=(columns, inner) if transpose_b else (inner, columns)).astype(dtype)
    out = np.full((rows, columns), np.nan, dtype)
    looked_at(lambda s: (s.gradient(), s.matmul(a, b, out, transpose_a, transpose_b)), 3)
    a, b = (x.astype(np.float64) for x in (a.T if transpose_a else a, b.T if transpose_b else b))
    np.testing.assert_allclose(
        out, a @ b, atol=(1e-5 if dtype == np.float32 else 1e-13) * math.sqrt(inner)
    )


def test_dot_norm_axpy_scale_and_copy_take_vectors_and_matrices():
    rng, found = np.random.default_rng(0), []
    x, y = rng.normal(size=(2, 6, 9))
    for a, b in ((x.reshape(-1), y.reshape(-1)), (x, y)):
        copy, total = np.zeros_like(a), b.copy()

        def step(s, a=a, b=b, copy=copy, total=total):
            s.gradient()
            s.axpy(0.5, a, total)
            s.copy(a, copy)
            s.scale(3.0, copy)
            found.append((s.dot(a, b), s.norm(a)))

        looked_at(step, 3)
        np.testing.assert_allclose(total, b + 0.5 * a, rtol=1e-14)
        np.testing.assert_array_equal(copy, 3.0 * a)
    np.testing.assert_allclose(found, [((x * y).sum(), np.linalg.norm(x))] * 2, rtol=1e-12)


def test_a_matrix_is_a_part_of_its_vector_and_room_in_it_may_have_another_shape():
    def step(s):
        s.gradient()
        weight, bias = s.tensors[2:]
        assert s.matrix(s.params, weight).shape == (48, 4)
        s.axpy(1.0, s.matrix(s.grads, weight, (3, 7)), s.matrix(s.params, weight, (3, 7)))
        s.axpy(-1.0, s.matrix(s.grads, bias), s.matrix(s.params, bias))

    tensors = NETWORK.unflatten(looked_at(step))
    np.testing.assert_array_equal(
        tensors["dense1.weight"].reshape(-1), np.repeat([3.0, 1.0], [21, 171])
    )
    assert (tensors["conv1.weight"] == 1).all() and (tensors["dense1.bias"] == -1).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda s: s.matmul(
                s.matrix(s.params, s.tensors[0]),
                s.matrix(s.grads, s.tensors[0]),
                s.params[:9].reshape(3, 3),
            ),
            r"looks: matmul cannot multiply \[9, 3\], \[9, 3\], \[3, 3\]",
        ),
        (
            lambda s: s.axpy(1.0, s.params[:3], s.params[:4]),
            r"must be of one shape, not \[3\], \[4\]",
        ),
        (lambda s: s.copy(s.params[:1], s.params[:4]), r"must be of one shape"),
        (lambda s: s.dot(s.params[:1], s.params[:4]), r"must be of one shape"),
        (
            lambda s: s.matrix(s.params, s.tensors[1], (2, 2)),
            r"conv1.bias, 3 numbers, has no room for a matrix \[2, 2\]",
        ),
        (
            lambda s: s.update("sgd", "matrix"),
            "unknown choice of tensors 'matrix'; did you mean 'matrices'",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused_before_anything_is_computed(step, message):
    with pytest.raises((PluginError, UnknownNameError), match=message):
        looked_at(lambda s: (s.gradient(), step(s)), bases=(SGD,))


# Whole steps
# --------------------------------------------------------------------------------------------------------


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


LOOKAHEAD = StepRule(
    "lookahead", lookahead_step, ADAM.hyperparameters, bases=(ADAM,), slots=("slow",)
)


def average_step(s):
    """Momentum with a moving average of the weights, which is what is used; it counts its steps
    itself."""
    if s.number == 1:
        s.copy(s.params, s.slots["average"])
    s.gradient()
    s.update("momentum")
    s.axpy(-0.1, s.slots["average"], s.slots["average"])
    s.axpy(0.1, s.params, s.slots["average"])
    s.state["steps"] += 1.0


def average_evaluation(s, out):
    s.copy(s.slots["average"], out)


AVERAGE = StepRule(
    "average",
    average_step,
    MOMENTUM.hyperparameters,
    bases=("momentum",),
    slots=("average",),
    state=(("steps", 0.0),),
    evaluation=average_evaluation,
)


def two_gradients_step(s):
    s.gradient()
    s.copy(s.params, s.scratch["start"])
    s.axpy(s.hyper["distance"] / s.norm(s.grads), s.grads, s.params)
    s.gradient()
    s.copy(s.scratch["start"], s.params)
    s.update("nadam")


TWO_GRADIENTS = StepRule(
    "two_gradients",
    two_gradients_step,
    (*NADAM.hyperparameters, Hyperparameter("distance", 0.05)),
    bases=(NADAM,),
    scratch=("start",),
)


def split_step(s):
    s.gradient()
    s.update("nadam", tensors="matrices")
    s.update("adam", tensors="others", learning_rate=0.5 * s.hyper["learning_rate"])


SPLIT = StepRule("split", split_step, (RATE,), bases=(NADAM, "adam"))

KINDS = {
    "elementwise": NADAM,
    "tensors": LARS,
    "lookahead": LOOKAHEAD,
    "average": AVERAGE,
    "two gradients": TWO_GRADIENTS,
    "split": SPLIT,
}


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
    Optimizer(NADAM, NETWORK, np.float64, learning_rate=0.1).update(matrices, grads)
    Optimizer(ADAM, NETWORK, np.float64, learning_rate=0.05).update(others, grads)
    found, of_matrices, of_others = (NETWORK.unflatten(flat) for flat in (params, matrices, others))
    for name, tensor in found.items():
        np.testing.assert_array_equal(
            tensor, (of_matrices if name.endswith("weight") else of_others)[name]
        )


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
        np.testing.assert_array_equal(
            getattr(resumed.progress, name), getattr(whole.progress, name), err_msg=name
        )
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
    with pytest.raises(
        DivergedError,
        match=f"epoch 2, batch {3 if which == 'second' else 4}; the weights of epoch 1",
    ):
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
        (
            lambda s: (s.gradient(), s.update("sdg")),
            "unknown base of optimizer wrong 'sdg'; did you mean 'sgd'",
        ),
        (
            lambda s: (s.gradient(), s.update("sgd", momentum=0.5)),
            "unknown hyperparameter of sgd 'momentum'",
        ),
        (lambda s: (s.gradient(), s.gradient()), "asks for the gradient at another point"),
    ],
)
def test_a_step_that_is_wrong_says_how(step, message):
    optimizer = Optimizer(StepRule("wrong", step, (RATE,), bases=(SGD,)), 4)
    with pytest.raises((PluginError, UnknownNameError, SettingError), match=message):
        optimizer.update(np.zeros(4, np.float32), np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("bases", "message"), [((SGD, "sgd"), "sgd is there twice"), ((PLAIN,), "plain is a StepRule")]
)
def test_bases_are_different_rules_that_are_no_step_rules(bases, message):
    with pytest.raises(PluginError, match=message):
        Optimizer(replace(PLAIN, name="outer", bases=bases), 4)


def test_a_base_has_the_hyperparameters_given_else_those_of_the_rule_else_its_defaults():
    seen = []

    def prepare(step, state, a, b, c):
        seen.append((a, b, c))
        return ()

    base = OptimizerRule(
        "base", lambda p, g: p, prepare, tuple(Hyperparameter(name, 1.0) for name in "abc")
    )
    outer = tuple(Hyperparameter(name, 2.0) for name in "ab")
    rule = StepRule(
        "outer", lambda s: (s.gradient(), s.update("base", a=3.0)), outer, bases=(base,)
    )
    Optimizer(rule, 4).update(np.zeros(4, np.float32), np.ones(4, np.float32))
    assert seen == [(3.0, 2.0, 1.0)]


@pytest.mark.parametrize("base", ["adamw", "nadam"])
def test_a_batch_in_two_parts_is_one_step_of_a_base(base):
    """Bias corrections, and NAdam's product of momenta, are those of the rule by itself."""

    def step(s):
        s.gradient()
        s.update(base, "matrices")
        s.update(base, [tensor for tensor in s.tensors if not tensor.is_matrix])

    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(11, NETWORK.flat_size))
    rules = base, StepRule("parts", step, (), bases=(base,))
    optimizers, ends = [Optimizer(rule, NETWORK, np.float64) for rule in rules], []
    for optimizer in optimizers:
        params = start.copy()
        for grads in gradients:
            optimizer.update(params, grads)
        ends.append(NETWORK.unflatten(params))
    for name, tensor in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], tensor, err_msg=name)
    assert {value for key, value in optimizers[1].state.items() if key.endswith(".step")} == {10.0}


def test_a_tensor_that_rests_for_a_batch_is_a_step_behind():
    steps = []

    def prepare(step, state):
        steps.append(step)
        return ()

    def step(s):
        s.gradient()
        s.update("base", [tensor for tensor in s.tensors if s.number != 2 or tensor.is_matrix])

    rule = StepRule(
        "rests", step, (), bases=(OptimizerRule("base", lambda p, g: p - g, prepare, ()),)
    )
    optimizer, params = Optimizer(rule, NETWORK), np.zeros(NETWORK.flat_size, np.float32)
    for _ in range(3):
        optimizer.update(params, np.ones_like(params))
    assert sorted(steps) == [1, 2, 2, 3]
    moved = {name: set(np.unique(tensor)) for name, tensor in NETWORK.unflatten(params).items()}
    assert moved == {
        "conv1.weight": {-3},
        "conv1.bias": {-2},
        "dense1.weight": {-3},
        "dense1.bias": {-2},
    }


# Weight decay
# -------------------------------------------------------------------------------------------------------


def decayed_step(s):
    """The base decays with AdamW; what the rule decays itself follows the table."""
    s.gradient()
    for tensor in s.tensors:
        if tensor.decays:
            p = s.matrix(s.params, tensor)
            s.axpy(-0.01 * s.hyper["weight_decay"], p, p)
    s.update("adamw")


DECAYED = StepRule("decayed", decayed_step, ADAMW.hyperparameters, bases=(ADAMW,))


@pytest.mark.parametrize(
    "rule",
    [
        "sgd",
        "momentum",
        "nesterov",
        "rmsprop",
        "rmsprop_momentum",
        "amsgrad",
        "radam",
        "adamax",
        "adagrad",
        "adadelta",
        "adafactor",
        "adam",
        "adamw",
        "adamw_amsgrad",
        "nadam",
        "lion",
        DECAYED,
    ],
)
def test_weight_decay_leaves_biases_alone_where_it_is_asked_to(rule):
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(5, NETWORK.flat_size))
    ends = {}
    for decay, weight_decay in (("all", 0.3), ("weights", 0.3), ("all", 0.0)):
        params = start.copy()
        optimizer = Optimizer(rule, NETWORK, np.float64, "cpu", decay, weight_decay=weight_decay)
        for grads in gradients:
            optimizer.update(params, grads)
        ends[decay, weight_decay] = NETWORK.unflatten(params)
    for name, tensor in ends["weights", 0.3].items():
        same, other = ("all", 0.3), ("all", 0.0)
        if name.endswith("bias"):
            same, other = other, same
        np.testing.assert_array_equal(tensor, ends[same][name], err_msg=name)
        assert (tensor != ends[other][name]).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_fused_step_decays_as_a_step_of_its_own_does(threads, monkeypatch):
    """With tensors so large that the threads meet in the middle of one, and with clipping."""
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 0)
    network = Network((6, 6, 1), [Flatten(), Dense(150), ReLU(), Dense(70), ReLU(), Dense(4)])
    wrapped = StepRule(
        "wrapped",
        lambda s: (s.gradient(), s.update("adamw")),
        ADAMW.hyperparameters,
        bases=(ADAMW,),
    )
    ends = []
    for rule in (ADAMW, wrapped):
        trainer = Trainer(
            network,
            optimizer=rule,
            optimizer_kwargs={"weight_decay": 0.5},
            decay="weights",
            batch_size=16,
            threads=threads,
            clip_grad=0.1,
            schedule="cosine",
            schedule_of="weight_decay",
            epochs=2,
        )
        trainer.fit(IMAGES, LABELS)
        ends.append(trainer.progress.params)
    np.testing.assert_array_equal(ends[0], ends[1])


def test_a_run_that_spares_biases_is_resumed_as_one(tmp_path):
    options = {"optimizer_kwargs": {"weight_decay": 0.5}, "decay": "weights"}
    whole, _ = train("nadam", epochs=3, **options)
    train("nadam", epochs=1, output=tmp_path, **options)
    resumed, _ = train(
        "nadam", epochs=3, resume=load_checkpoint(tmp_path / "last.safetensors"), **options
    )
    np.testing.assert_array_equal(resumed.progress.params, whole.progress.params)
    assert resumed.progress.optimizer_state == whole.progress.optimizer_state != {}
    every, _ = train("nadam", epochs=3, optimizer_kwargs={"weight_decay": 0.5})
    assert (every.progress.params != whole.progress.params).any()


def test_a_decay_that_is_none_or_that_the_rule_does_not_have_is_refused():
    with pytest.raises(SettingError, match="decay must be all or weights, not 'biases'"):
        Trainer(NETWORK, decay="biases")
    with pytest.raises(
        SettingError, match="optimizer gd has no weight_decay: decay must be all, not 'weights'"
    ):
        Trainer(NETWORK, optimizer="gd", decay="weights")


# Factors of the tensors
# ---------------------------------------------------------------------------------------------------

FACTORS = {"learning_rate": {"bias": 3, "conv*": 0.5}, "weight_decay": {"conv1.weight": 0}}


STILL = OptimizerRule("still", lambda p, g: p, lambda step, state: (), ())


def test_the_last_factor_that_fits_a_tensor_counts():
    optimizer = Optimizer("adamw", NETWORK, np.float32, "cpu", "all", FACTORS)
    assert [(t.name, t.learning_rate, t.weight_decay, t.decays) for t in optimizer.tensors] == [
        ("conv1.weight", 0.5, 0, False),
        ("conv1.bias", 0.5, 1, True),
        ("dense1.weight", 1, 1, True),
        ("dense1.bias", 3, 1, True),
    ]


def test_each_group_has_a_state_of_its_own():
    """A rule whose state depends on the learning rate: the sum of its own."""

    def prepare(step, state, learning_rate):
        state["sum"] += learning_rate
        return (state["sum"],)

    rule = OptimizerRule(
        "sums", lambda p, g, total: p - total * g, prepare, (RATE,), state=(("sum", 0.0),)
    )
    factors = {"learning_rate": {"bias": 3, "conv1.weight": 0}}
    given = np.ones(NETWORK.flat_size)
    params = np.zeros_like(given)
    optimizer = Optimizer(rule, NETWORK, np.float64, "cpu", "all", factors, learning_rate=0.5)
    for _ in range(2):
        optimizer.update(params, given)
    found = {name: set(np.unique(view)) for name, view in NETWORK.unflatten(params).items()}
    assert found == {
        "conv1.weight": {0.0},
        "conv1.bias": {-4.5},
        "dense1.weight": {-1.5},
        "dense1.bias": {-4.5},
    }
    assert optimizer.state == {"sum": 0.0, "sum.1": 3.0, "sum.2": 1.0}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["adamw", "nadam", "adafactor"])
def test_a_run_with_factors_is_resumed_bitwise(name, threads, tmp_path):
    options = {
        "learning_rate_factors": {"bias": 3, "conv*": 0.5},
        "weight_decay_factors": {"conv1.weight": 0},
        "optimizer_kwargs": {"weight_decay": 0.3},
        "threads": threads,
    }
    whole, _ = train(name, epochs=3, **options)
    train(name, epochs=1, output=tmp_path, **options)
    checkpoint = load_checkpoint(tmp_path / "last.safetensors")
    resumed, _ = train(name, epochs=3, resume=checkpoint, **options)
    np.testing.assert_array_equal(resumed.progress.params, whole.progress.params)
    assert resumed.progress.optimizer_state == whole.progress.optimizer_state
    for left_out in ("learning_rate_factors", "weight_decay_factors"):
        other, _ = train(name, epochs=3, **(options | {left_out: {}}))
        assert (other.progress.params != whole.progress.params).any()


def test_the_fused_step_has_the_factors_of_a_step_of_its_own():
    options = {
        "learning_rate_factors": {"bias": 3, "conv*": 0.5},
        "weight_decay_factors": {"conv1.weight": 0},
        "optimizer_kwargs": {"weight_decay": 0.3},
    }
    ends = [
        train(rule, epochs=2, **options)[0].progress.params
        for rule in (ADAMW, replace(DECAYED, step=_alone, by_tensor=True))
    ]
    np.testing.assert_array_equal(ends[0], ends[1])


def _alone(s):
    s.gradient()
    s.update("adamw")


def test_a_tensor_whose_factor_is_0_stays_where_it_is():
    trainer, _ = train("adamw", epochs=1, learning_rate_factors={"conv1.*": 0})
    first = NETWORK.unflatten(NETWORK.initialize(np.random.default_rng([0, 0])))
    for name, tensor in NETWORK.unflatten(trainer.progress.params).items():
        assert (tensor == first[name]).all() == name.startswith("conv1")


@pytest.mark.parametrize(
    ("text", "optimizer", "options"),
    [
        ("factors of learning_rate: bias must be a number in", "sgd", {"bias": -1}),
        ("factors of learning_rate: bias must be a number in", "sgd", {"bias": float("nan")}),
        ("factors of learning_rate: bias must be a number", "sgd", {"bias": "much"}),
        ("unknown tensor or kind of tensor 'biases'; did you mean", "sgd", {"biases": 1}),
        ("unknown tensor or kind of tensor 'conv2", "sgd", {"conv2.*": 1}),
        ("optimizer decayed does not take factors of learning_rate", DECAYED, {"bias": 2}),
        ("optimizer still has no learning_rate, so it has no factors", STILL, {"bias": 2}),
    ],
)
def test_factors_that_mean_nothing_are_refused(text, optimizer, options):
    with pytest.raises((SettingError, UnknownNameError), match=text):
        Trainer(NETWORK, optimizer=optimizer, learning_rate_factors=options)


# Elementwise rules and schedules
# ------------------------------------------------------------------------------------


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
    train(
        _observer(seen),
        schedule="exponential",
        schedule_kwargs={"gamma": 0.25},
        schedule_of="momentum",
        optimizer_kwargs={"momentum": 0.8},
        learning_rate=0.02,
        warmup_epochs=1,
    )
    batches = len(seen) // 2
    np.testing.assert_allclose(
        [hyper["momentum"] for hyper in seen],
        [0.8 * 0.25 ** (k / batches) for k in range(2 * batches)],
    )
    rates = [
        0.02 * min(1.0, (k + 1) / batches) for k in range(2 * batches)
    ]  # the warm-up is the learning rate's
    np.testing.assert_allclose([hyper["learning_rate"] for hyper in seen], rates)


def test_schedule_and_warm_up_can_count_steps():
    seen = []
    train(
        _observer(seen),
        schedule="multi_step",
        schedule_unit="step",
        schedule_kwargs={"milestones": [3], "gamma": 0.5},
        learning_rate=0.02,
        warmup_steps=2,
    )
    rates = [0.02 * min(1, (k + 1) / 2) * (0.5 if k >= 3 else 1) for k in range(len(seen))]
    np.testing.assert_allclose([hyper["learning_rate"] for hyper in seen], rates)
    with pytest.raises(SettingError, match="warmup_epochs and warmup_steps exclude each other"):
        Trainer(NETWORK, warmup_epochs=1, warmup_steps=2)


def test_the_fused_step_takes_scheduled_hyperparameters_too():
    options = {
        "schedule": "step",
        "schedule_kwargs": {"step_size": 100},
        "optimizer_kwargs": {"momentum": 0.8},
    }
    unchanged = train("momentum", **options, schedule_of="momentum")[0].progress.params
    np.testing.assert_array_equal(
        unchanged, train("momentum", optimizer_kwargs={"momentum": 0.8})[0].progress.params
    )
    options["schedule_kwargs"] = {"step_size": 1}
    changed = train("momentum", **options, schedule_of="momentum")[0].progress.params
    assert (changed != unchanged).any()


def test_what_is_scheduled_is_stored_and_an_unknown_name_lists_the_known_ones(tmp_path):
    train(
        "momentum",
        schedule="cosine",
        schedule_of="weight_decay",
        optimizer_kwargs={"weight_decay": 0.1},
        output=tmp_path,
    )
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
    rule = OptimizerRule(
        "named",
        lambda p, g, a, b, c, d: p - a * g,
        lambda step, state, **h: tuple(h.values()),
        tuple(Hyperparameter(name, 0.0) for name in names),
    )
    params = np.ones(2)
    Optimizer(rule, 2, np.float64, **dict.fromkeys(names, 0.25)).update(params, np.ones(2))
    np.testing.assert_array_equal(params, [0.75, 0.75])


# State behind what is trained
# ----------------------------------------------------------------------------------------

NORMALIZED = Network(
    (6, 6, 1), [Conv2d(3, 3, bias=False), BatchNorm2d(), ReLU(), Flatten(), Dense(4)]
)


@pytest.mark.parametrize(
    "rule", ["adamw", LARS, AVERAGE], ids=lambda rule: getattr(rule, "name", rule)
)
def test_running_means_are_no_business_of_an_optimizer(rule):
    rng = np.random.default_rng(0)
    params, grads = rng.normal(size=(2, NORMALIZED.flat_size))
    grads[NORMALIZED.trainable_size :] = np.nan
    before, out = params.copy(), np.empty_like(params)
    optimizer = Optimizer(rule, NORMALIZED, np.float64)
    optimizer.update(params, grads)
    optimizer.evaluation(params, out)
    trained = NORMALIZED.trainable_size
    assert optimizer.slots.shape[1] == trained < NORMALIZED.flat_size
    assert np.isfinite(params).all() and (params != before)[: NORMALIZED.parameters[0].size].all()
    np.testing.assert_array_equal(params[trained:], before[trained:])
    np.testing.assert_array_equal(out[trained:], before[trained:])


def test_scales_and_shifts_are_known_and_spared_by_weight_decay():
    optimizer = Optimizer("adamw", NORMALIZED, np.float32, "cpu", "weights")
    assert [(t.name, t.kind, t.first, t.last, t.fan_in, t.decays) for t in optimizer.tensors] == [
        ("conv1.weight", "weight", True, False, 9, True),
        ("batchnorm1.weight", "scale", False, False, 1, False),
        ("batchnorm1.bias", "shift", False, False, 1, False),
        ("dense1.weight", "weight", False, True, 48, True),
        ("dense1.bias", "bias", False, True, 48, False),
    ]
