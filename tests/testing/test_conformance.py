"""The conformance kit: the built-in rules pass it, and every check finds the fault that it is
for."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from numba import njit

from minicnn import plugins, testing
from minicnn.activations import RULES
from minicnn.rules import (
    ActivationRule,
    Hyperparameter,
    LayerRule,
    LossRule,
    OptimizerRule,
    ScheduleRule,
    StepRule,
)
from minicnn.testing import checks, training
from minicnn.testing.checks import CheckFailed, CheckWarning
from minicnn.training import optimizer, run


@pytest.fixture(autouse=True)
def cuda_is_checked_elsewhere(monkeypatch):
    """In `test_on_cuda.py` and `tests/cuda`: it takes two processes a rule."""
    for module in (testing.optimizers, testing.losses):
        monkeypatch.setattr(module, "works_on_cuda", lambda rule: "elsewhere")


RATE = Hyperparameter("learning_rate", 0.01, 0.0, open_minimum=True, meaning="step size η")


def results(checks):
    return {check.name: check.result for check in checks}


def failed(checks):
    return {check.name: check.detail for check in checks if not check.passed}


@pytest.mark.parametrize("kind", ["optimizer", "loss", "schedule"])
def test_every_built_in_rule_passes(kind):
    check = {
        "optimizer": testing.check_optimizer,
        "loss": testing.check_loss,
        "schedule": testing.check_schedule,
    }[kind]
    for name in plugins.names(kind):
        checks = check(plugins.find(kind, name))
        assert not failed(checks), (name, failed(checks))
        assert len(checks) >= 5
        for found in checks:
            assert found.detail and "\n" not in found.detail
            assert found.result == "passed" or (kind, found.name) == ("schedule", "declaration"), (
                name,
                found,
            )


# --- optimizers -----------------------------------------------------------------------------------


def test_the_names_of_built_in_activations_are_theirs_and_taken_for_others():
    for rule in RULES.values():
        assert "equation and source" in testing.checks_of_layer(rule)["declaration"]()
        with pytest.raises(CheckFailed, match="is the name of a layer of minicnn"):
            testing.checks_of_layer(replace(rule, name="Flatten"))["declaration"]()
    assert "bitwise equal" in testing.checks_of_layer(RULES["gelu"])["resume"]()
    with pytest.raises(CheckFailed, match="gelu is the name"):
        testing.checks_of_layer(replace(RULES["gelu"], source="mine"))["declaration"]()


def prepare(step, state, learning_rate):
    return (learning_rate,)


def descend(p, g, rate):
    return p - rate * g


GOOD = OptimizerRule(
    "under-test", descend, prepare, (RATE,), equation="w ← w − η g", source="Cauchy 1847"
)


def counts_in_integers(p, g, rate):
    return p - rate * g * 2 / 2


def overflows(p, g, square, rate):
    square = g * g
    return p - rate * g / math.sqrt(square + 1e-8) * (1.0 + square - square), square


def divides_by_zero(p, g, rate):
    return p - rate * g / abs(g)


def climbs(p, g, rate):
    return p + rate * g


def loses_digits(p, g, rate):
    return p - rate * ((g + 1e7) - 1e7)


FAULTS_OF_OPTIMIZERS = {
    "declaration": replace(GOOD, hyperparameters=(RATE, Hyperparameter("beta", 0.5))),
    "float32 equals float64": replace(GOOD, update=loses_digits),
    "parabola": replace(GOOD, update=climbs),
    "Rosenbrock": replace(GOOD, update=climbs),
    "training": replace(GOOD, update=climbs),
    "zero, tiny, huge gradients": replace(GOOD, update=divides_by_zero),
}


@pytest.mark.parametrize("check", FAULTS_OF_OPTIMIZERS)
def test_a_fault_of_an_optimizer_is_found(check):
    assert check in failed(testing.check_optimizer(FAULTS_OF_OPTIMIZERS[check]))


def test_a_sound_optimizer_passes_every_check():
    assert set(results(testing.check_optimizer(GOOD)).values()) == {"passed"}


def test_infinite_minus_infinite_is_found_at_huge_gradients():
    checks = testing.check_optimizer(replace(GOOD, update=overflows, slots=("square",)))
    assert "size 1e+30" in failed(checks)["zero, tiny, huge gradients"]


def test_arithmetic_in_float64_is_a_warning_also_when_the_machine_code_comes_from_the_disk():
    for _ in range(2):
        checks = testing.check_optimizer(replace(GOOD, update=counts_in_integers))
        assert results(checks)["no float64 arithmetic in float32"] == "warning"
        assert not failed(checks)


def test_a_compiled_rule_that_differs_from_its_source_is_found():
    """Here the host keeps count of the calls, so that the plain rule is asked for other steps than
    the compiled one."""
    calls = []

    def forgetful(step, state, learning_rate):
        calls.append(step)
        return (learning_rate * len(calls),)

    assert "compiled equals plain Python" in failed(
        testing.check_optimizer(replace(GOOD, prepare=forgetful))
    )


def test_what_is_kept_in_neither_slots_nor_state_is_found_by_resuming():
    """The rule's step grows with a product of its own, which a checkpoint does not know."""
    own = {}

    def forgetful(step, state, learning_rate):
        own["product"] = 1.0 if step == 1 else own["product"] * 0.9
        return (learning_rate * own["product"],)

    checks = testing.check_optimizer(replace(GOOD, prepare=forgetful))
    assert "the params differ" in failed(checks)["resume"]


def test_a_rule_without_texts_is_a_warning():
    (declaration, *_) = testing.check_optimizer(replace(GOOD, equation="", source=""))
    assert declaration.result == "warning" and "equation, source" in declaration.detail


def test_a_rule_that_cannot_be_compiled_fails_with_the_reason_and_raises_nothing():
    checks = testing.check_optimizer(
        replace(GOOD, update=lambda p, g, rate: float(json.dumps(float(p))))
    )
    assert "cannot be compiled" in failed(checks)["float32 equals float64"]
    assert len(failed(checks)) >= 6


def test_a_second_compilation_is_found(monkeypatch):
    assert training.compiles_once(optimizer=GOOD)
    evaluate = run.evaluate

    def compiling(*arguments):
        njit(lambda x: x + 1.0)(1.0)
        return evaluate(*arguments)

    monkeypatch.setattr(run, "evaluate", compiling)
    with pytest.raises(CheckFailed, match="compiled again"):
        training.compiles_once(optimizer=GOOD)


# --- other kinds of optimizer ---------------------------------------------------------------------


def sharpness_aware(s):
    s.gradient()
    s.copy(s.params, s.scratch["center"])
    length = s.norm(s.grads)
    if length > 0.0:
        s.axpy(s.hyper["rho"] / length, s.grads, s.params)
    s.gradient()
    s.copy(s.scratch["center"], s.params)
    s.update("adam")


def normalized(s):
    s.gradient()
    for tensor in s.tensors:
        p, g = s.matrix(s.params, tensor), s.matrix(s.grads, tensor)
        s.axpy(-s.hyper["learning_rate"] / (s.norm(g) + 1e-30), g, p)


TENSORS = StepRule("normalized", normalized, (RATE,), equation="w ← w − η g / ‖g‖", source="here")
STEP = StepRule(
    "aware",
    sharpness_aware,
    (replace(RATE, default=0.001), Hyperparameter("rho", 0.05, meaning="radius")),
    bases=("adam",),
    scratch=("center",),
    equation="w ← w − η ĝ",
    source="here",
)


@pytest.mark.parametrize("rule", [TENSORS, STEP], ids=lambda rule: rule.name)
def test_rules_on_steps_are_checked_too(rule):
    checks = testing.check_optimizer(rule)
    assert len(checks) == 11 and set(results(checks).values()) == {"passed"}, checks


def test_the_rules_inside_a_rule_on_steps_are_checked_apart():
    def step(s):
        s.gradient()
        s.update("other")
        s.update("under-test")

    rule = StepRule(
        "both",
        step,
        (RATE,),
        bases=(replace(GOOD, name="other"), replace(GOOD, update=counts_in_integers)),
    )
    found = results(testing.check_optimizer(rule))
    for name in ("other", "under-test"):
        for check in (
            "compiled equals plain Python",
            "in parts equals whole",
            "first steps and long runs",
        ):
            assert found[f"{check}: {name}"] == "passed"
    assert found["no float64 arithmetic in float32: under-test"] == "warning"


def test_a_tensor_that_takes_two_steps_of_a_base_in_a_batch_is_told():
    def step(s):
        s.gradient()
        s.update("adam")
        s.update("adam", "matrices")

    with pytest.raises(CheckWarning, match=r"adam\.dense1\.weight\.step is 40") as found:
        testing.optimizers._counts(StepRule("twice", step, (RATE,), bases=("adam",)))
    assert "bias" not in str(found.value)


def test_a_base_that_counts_calls_and_not_steps_is_found(monkeypatch):
    """As it did until tensors were counted apart: bias corrections were those of later steps."""
    prepare = optimizer._Part.prepare

    def of_a_call(self, step, *given):
        self.calls = getattr(self, "calls", 0) + 1
        return prepare(self, self.calls, *given)

    assert testing.optimizers._in_parts(plugins.find("optimizer", "adam"))
    monkeypatch.setattr(optimizer._Part, "prepare", of_a_call)
    with pytest.raises(CheckFailed, match="weights after 20 steps"):
        testing.optimizers._in_parts(plugins.find("optimizer", "adam"))


def decays_everything(s):
    s.gradient()
    s.scale(1.0 - s.hyper["weight_decay"], s.params)
    s.update("adam", weight_decay=0.0)


def test_a_rule_that_decays_what_it_was_asked_to_spare_is_found():
    decay = Hyperparameter("weight_decay", 0.0, 0.0)
    rule = StepRule("decays", decays_everything, (decay,), bases=("adam",))
    with pytest.raises(CheckFailed, match="biases"):
        testing.optimizers._spares_biases(rule)


# Adam's corrections 1 − βᵗ, where v's is under the root: how each may be meant, left out, or turned
# round.
CORRECTIONS = {
    "both": (lambda m, v, step: v / m, True),
    "none": (lambda m, v, step: 1.0, True),
    "of the mean alone": (lambda m, v, step: 1.0 / m, True),
    "of the mean, multiplied": (lambda m, v, step: v * m, False),
    "of the square, multiplied": (lambda m, v, step: 1.0 / (v * m), False),
    "both multiplied": (lambda m, v, step: m / v, False),
    "of the mean alone, multiplied": (lambda m, v, step: m, False),
    "of the square alone, multiplied": (lambda m, v, step: 1.0 / v, False),
    "and a warm-up": (lambda m, v, step: v / m * min(1.0, step / 100), True),
}


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_bias_correction_that_multiplies_where_it_should_divide_is_found(correction):
    factor, sound = CORRECTIONS[correction]
    adam = plugins.find("optimizer", "adam")

    def prepare(step, state, learning_rate, beta1, beta2, epsilon, weight_decay):
        rate = learning_rate * factor(1.0 - beta1**step, math.sqrt(1.0 - beta2**step), step)
        return rate, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon, weight_decay

    rule = replace(adam, name="under-test", prepare=prepare)
    check = testing.optimizers._corrects
    if sound:
        assert check(rule)
    else:
        with pytest.raises(CheckFailed, match="does one multiply where it should divide"):
            check(rule)


def test_a_long_run_that_overflows_is_found():
    rule = replace(
        GOOD,
        prepare=lambda step, state, learning_rate: (learning_rate * math.exp(0.001 * step * step),),
    )
    with pytest.raises((CheckFailed, OverflowError)):
        testing.optimizers._corrects(rule)


# --- what lies outside an array ---


def writes_past_its_gradient(outputs, target, doutputs):
    doutputs[len(outputs) + int(target[0])] = 1.0
    return half_square(outputs, target, doutputs)


def writes_its_logits(outputs, target, doutputs):
    outputs[0] = 0.0
    return half_square(outputs, target, doutputs)


def reads_past_its_table(p, g, rate):
    table = np.zeros(3)
    return p - rate * table[3 + int(abs(g))]


def past_its_table(x):
    return x + np.zeros(3)[3 + int(abs(x))]


def copies(x, y):
    y[:] = x


def writes_past_its_output(x, y):
    for i in range(len(y) + 1):
        y[i] = x[0]


def hands_back(x, y, dy, dx):
    dx[:] = dy


def writes_past_its_dx(x, y, dy, dx):
    dx[len(dx)] = dy[0]


ROW = LayerRule("row", lambda shape: shape, copies, hands_back)
OUTSIDE = {
    "optimizer": (testing.check_optimizer, replace(GOOD, update=reads_past_its_table)),
    "base": (
        testing.check_optimizer,
        StepRule("s", lambda s: None, (), bases=(replace(GOOD, update=reads_past_its_table),)),
    ),
    "loss": (testing.check_loss, LossRule("out", writes_past_its_gradient, target="values")),
    "logits": (testing.check_loss, LossRule("in", writes_its_logits, target="values")),
    "activation": (
        testing.check_layer,
        ActivationRule("out", past_its_table, past_its_table),
    ),
    "layer, forward": (testing.check_layer, replace(ROW, forward=writes_past_its_output)),
    "layer, backward": (testing.check_layer, replace(ROW, backward=writes_past_its_dx)),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_reads_or_writes_outside_its_arrays_is_found_in_plain_python_and_not_run_compiled(
    kind,
):
    check, rule = OUTSIDE[kind]
    _, plain, *others = check(rule)
    assert plain.name == checks.PLAIN and plain.result == "failed"
    assert "out of bounds" in plain.detail or "read-only" in plain.detail
    assert {other.result for other in others} == {"skipped"}


# --- losses ---------------------------------------------------------------------------------------


def half_square(outputs, target, doutputs):
    total = 0.0
    for k in range(len(outputs)):
        doutputs[k] = outputs[k] - target[k]
        total += 0.5 * doutputs[k] * doutputs[k]
    return total


def wrong_slope(outputs, target, doutputs):
    total = 0.0
    for k in range(len(outputs)):
        doutputs[k] = 2.0 * (outputs[k] - target[k])
        total += 0.5 * (outputs[k] - target[k]) ** 2.0
    return total


def writes_too_little(outputs, target, doutputs):
    doutputs[0] = outputs[0] - target[0]
    return 0.5 * doutputs[0] * doutputs[0]


def adds_up(outputs, target, doutputs):
    total = 0.0
    for k in range(len(outputs)):
        doutputs[k] += outputs[k] - target[k]
        total += 0.5 * (outputs[k] - target[k]) ** 2.0
    return total


def unstable(logits, label, dlogits):
    total = 0.0
    for k in range(len(logits)):
        dlogits[k] = math.exp(logits[k])
        total += dlogits[k]
    for k in range(len(logits)):
        dlogits[k] /= total
    loss = -math.log(dlogits[label])
    dlogits[label] -= 1.0
    return loss


SQUARE = LossRule(
    "half-square", half_square, target="values", equation="½ Σ (x − t)²", source="Gauss 1809"
)

FAULTS_OF_LOSSES = {
    "declaration": replace(SQUARE, hyperparameters=(Hyperparameter("delta", 1.0),)),
    "compiled equals plain Python": replace(SQUARE, row=writes_too_little),
    "numeric derivatives": replace(SQUARE, row=wrong_slope),
    "extreme logits": LossRule("unstable", unstable),
}


def test_a_sound_loss_passes_every_check():
    assert set(results(testing.check_loss(SQUARE)).values()) == {"passed"}


@pytest.mark.parametrize("check", FAULTS_OF_LOSSES)
def test_a_fault_of_a_loss_is_found(check):
    assert check in failed(testing.check_loss(FAULTS_OF_LOSSES[check]))


def test_a_loss_that_reads_what_it_should_write_is_found():
    assert failed(testing.check_loss(replace(SQUARE, row=adds_up)))


# --- schedules ------------------------------------------------------------------------------------


def linear(epoch, horizon, state, minimum):
    return 1.0 - (1.0 - minimum) * min(epoch / horizon, 1.0)


LINEAR = ScheduleRule(
    "linear",
    linear,
    (Hyperparameter("minimum", 0.1, 0.0, 1.0, meaning="last factor"),),
    has_horizon=True,
    equation="f = 1 − (1 − m) e",
    source="here",
)
OBSERVING = replace(LINEAR, state=(("seen", 0.0),))


def forgets_a_name(metric, state, minimum):
    state["other"] = metric


def keeps_a_list(metric, state, minimum):
    state["seen"] = [metric]


FAULTS_OF_SCHEDULES = {
    "a factor below zero": (
        "factors",
        replace(LINEAR, factor=lambda epoch, horizon, state, minimum: 1.0 - epoch),
    ),
    "no number": (
        "factors",
        replace(LINEAR, factor=lambda epoch, horizon, state, minimum: math.inf),
    ),
    "random": (
        "factors",
        replace(
            LINEAR, factor=lambda epoch, horizon, state, minimum: np.random.default_rng().random()
        ),
    ),
    "another argument": ("declaration", replace(LINEAR, factor=lambda epoch, horizon, state: 1.0)),
    "another argument to observe": (
        "declaration",
        replace(LINEAR, observe=lambda metric, state: None),
    ),
    "an undeclared state": ("state", replace(OBSERVING, observe=forgets_a_name)),
    "a state that no file can hold": ("state", replace(OBSERVING, observe=keeps_a_list)),
    "no learning": ("training", replace(LINEAR, factor=lambda epoch, horizon, state, minimum: 0.0)),
}


def test_a_sound_schedule_passes_every_check():
    assert set(results(testing.check_schedule(LINEAR)).values()) == {"passed"}


@pytest.mark.parametrize("fault", FAULTS_OF_SCHEDULES)
def test_a_fault_of_a_schedule_is_found(fault):
    check, rule = FAULTS_OF_SCHEDULES[fault]
    assert check in failed(testing.check_schedule(rule))
