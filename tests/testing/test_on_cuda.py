"""What the conformance kit says about a rule on CUDA, with the packages installed and without."""

import importlib.util
import re

import pytest

from minicnn import plugins
from minicnn.rules import Hyperparameter, LossRule, OptimizerRule, StepRule
from minicnn.testing import on_cuda
from minicnn.testing.checks import CheckFailed, CheckSkipped

RATE = (Hyperparameter("learning_rate", 0.1),)


def prepare(step, state, learning_rate):
    return (learning_rate,)


def works_itself(s):
    s.gradient()
    s.params *= 0.5


def halves(p, g, rate):
    return p - rate * g / 2


def keeps_a_dictionary(p, g, rate):
    numbers = {0: g}
    return p - rate * numbers[0]


def row(logits, label, dlogits):
    for k in range(len(logits)):
        dlogits[k] = 1.0
    return logits[label]


WORKS = StepRule("works-itself", works_itself, ())
HALVES = OptimizerRule("halves", halves, prepare, RATE)
DICTIONARY = OptimizerRule(
    "keeps-a-dictionary", keeps_a_dictionary, prepare, RATE
)  # the CPU and the simulator take it
MINE = LossRule("mine", row)


@pytest.mark.parametrize(
    "rule",
    [plugins.find("optimizer", "adam"), plugins.find("loss", "cross_entropy"), MINE],
    ids=lambda rule: rule.name,
)
def test_a_rule_compiles_and_equals_the_cpus_in_the_simulator(rule):
    assert re.fullmatch(
        r"compiles; in the simulator .*: relative error .*", on_cuda.works_on_cuda(rule)
    )


def test_float64_in_a_kernel_of_float32_is_told():
    assert re.match(
        r"compiles, but with float64, .*: write 2\.0 and not 2", on_cuda.works_on_cuda(HALVES)
    )


@pytest.mark.parametrize(
    ("rule", "reason"), [(WORKS, "weights and slots after 3 updates"), (DICTIONARY, "DictType")]
)
def test_what_cuda_cannot_do_is_a_failure_that_says_why(rule, reason):
    with pytest.raises(CheckFailed, match=reason):
        on_cuda.works_on_cuda(rule)


def test_a_rule_that_another_process_cannot_find_is_not_checked():
    with pytest.raises(CheckSkipped, match="another process"):
        on_cuda.works_on_cuda(LossRule("made-inside", row))


def test_without_the_packages_nothing_is_checked_and_the_way_to_get_them_is_said(monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba_cuda" else original(name)
    )
    with pytest.raises(CheckSkipped, match=r"pip install 'minicnn-numba\[cuda\]'"):
        on_cuda.works_on_cuda(MINE)
