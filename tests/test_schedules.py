"""The schedules: known values, limits, and what reduce-on-plateau remembers."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest

from minicnn import plugins
from minicnn.errors import SettingError
from minicnn.rules import resolve
from minicnn.training.schedules import find_schedule, warm_up

NAMES = [
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "linear",
    "multi_step",
    "one_cycle",
    "polynomial",
    "reduce_on_plateau",
    "step",
    "triangular",
]
REFERENCE = Path(__file__).parent / "reference" / "torch_training.npz"


def factors(name, epochs, horizon=10, **hyperparameters):
    rule = find_schedule(name)
    values = resolve(name, rule.hyperparameters, hyperparameters)
    return [rule.factor(epoch, horizon, dict(rule.state), **values) for epoch in epochs]


def plateau(metrics, **hyperparameters):
    """The factor after each of the metrics."""
    rule = plugins.find("schedule", "reduce_on_plateau")
    values = resolve("reduce_on_plateau", rule.hyperparameters, hyperparameters)
    state, reached = dict(rule.state), []
    for epoch, metric in enumerate(metrics, start=1):
        rule.observe(metric, state, **values)
        reached.append(rule.factor(epoch, 10, state, **values))
    return reached


def test_the_built_in_schedules_are_those_of_the_documentation():
    assert set(NAMES) <= set(plugins.names("schedule"))


def test_constant_is_one():
    assert factors("constant", [0, 2.5, 99]) == [1, 1, 1]


def test_step_falls_at_every_step_size_epochs():
    found = factors("step", [0, 1.99, 2, 3.9, 4, 9], step_size=2, gamma=0.5)
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.0625]


def test_exponential_falls_by_gamma_an_epoch():
    np.testing.assert_allclose(
        factors("exponential", [0, 0.5, 1, 3], gamma=0.81), [1, 0.9, 0.81, 0.81**3]
    )


def test_cosine_falls_to_the_minimum_at_the_horizon_and_stays_there():
    found = factors("cosine", [0, 2.5, 5, 10, 12], minimum=0.2)
    np.testing.assert_allclose(found, [1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.2, 0.2])


def test_one_cycle_climbs_to_the_given_learning_rate_and_ends_far_below_its_start():
    found = factors(
        "one_cycle", [0, 1.5, 3, 6.5, 10, 11], pct_start=0.3, div_factor=20, final_div_factor=100
    )
    np.testing.assert_allclose(found, [0.05, 0.525, 1, (1 + 0.0005) / 2, 0.0005, 0.0005])


def test_one_cycle_never_falls_before_its_peak_and_never_rises_after_it():
    found = np.array(factors("one_cycle", np.linspace(0, 10, 1001)))
    peak = int(found.argmax())
    assert peak == 300
    assert (np.diff(found[: peak + 1]) > 0).all()
    assert (np.diff(found[peak:]) < 0).all()


def test_reduce_on_plateau_waits_for_its_patience_and_starts_counting_anew():
    found = plateau([1, 1, 1, 1, 1, 1, 1], factor=0.5, patience=2)
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_reduce_on_plateau_lets_improvement_pass():
    assert plateau([1 / epoch for epoch in range(1, 20)], patience=0) == [1] * 19


def test_an_improvement_below_the_threshold_is_none():
    assert plateau([1, 0.9999999, 0.9999998], factor=0.5, patience=0) == [1, 0.5, 0.25]


def test_a_metric_that_is_not_a_number_is_no_improvement():
    assert plateau([1, math.nan, math.nan], factor=0.5, patience=1) == [1, 1, 0.5]


def test_reduce_on_plateau_stops_at_its_smallest_factor():
    assert plateau([1] * 9, factor=0.1, patience=0, min_factor=0.05)[-1] == 0.05


def test_warm_up_rises_linearly_to_one():
    assert [warm_up(epoch, 2) for epoch in (0, 0.5, 1, 2, 3)] == [0, 0.25, 0.5, 1, 1]
    assert warm_up(0, 0) == 1


def test_settings_out_of_range_are_refused():
    for name, wrong in [
        ("step", {"step_size": 0}),
        ("one_cycle", {"pct_start": 1}),
        ("cosine", {"minimum": -0.1}),
    ]:
        with pytest.raises(SettingError, match=next(iter(wrong))):
            factors(name, [0], **wrong)


@pytest.mark.parametrize("name", NAMES)
def test_its_declaration_matches_its_functions(name):
    rule = plugins.find("schedule", name)
    declared = [hyper.name for hyper in rule.hyperparameters]
    assert list(inspect.signature(rule.factor).parameters) == [
        "epoch",
        "horizon",
        "state",
        *declared,
    ]
    assert rule.has_horizon == (
        name in {"cosine", "one_cycle", "linear", "polynomial", "triangular"}
    )
    assert rule.equation and all(hyper.meaning for hyper in rule.hyperparameters)


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_starts_and_ends_between_zero_and_one(name):
    found = np.array(factors(name, np.linspace(0, 10, 101)))
    assert ((found >= 0) & (found <= 1)).all()


def test_schedules_have_the_values_of_pytorch():
    """Stored by `tests.reference.make_torch_training`."""
    cases = {
        "linear": {"start": 0.25, "end": 0.75, "total": 12},
        "polynomial": {"power": 2, "total": 15},
        "multi_step": {"milestones": [3, 9, 10], "gamma": 0.5},
        "step": {"step_size": 4, "gamma": 0.5},
        "exponential": {"gamma": 0.9},
        "cosine": {"minimum": 0.1},
        "cosine_restarts": {"period": 5, "minimum": 0.1},
        "cosine_restarts/longer": {"period": 3, "multiply": 2, "minimum": 0.1},
        "cyclic": {"minimum": 0.1, "up": 2, "down": 3},
        "cyclic/halved": {"minimum": 0.1, "up": 2, "down": 3, "cycle_gamma": 0.5},
        "cyclic/falling": {"minimum": 0.1, "up": 2, "down": 3, "gamma": 0.95},
        "linear+step+cosine": {
            "milestones": [4, 12],
            "1.start": 0.1,
            "1.end": 1,
            "2.step_size": 3,
            "2.gamma": 0.5,
        },
    }
    with np.load(REFERENCE) as stored:
        expected = {
            name.removeprefix("schedule/"): stored[name]
            for name in stored
            if name.startswith("schedule/")
        }
    assert cases.keys() == expected.keys()
    for name, values in cases.items():
        found = factors(name.partition("/")[0], range(20), 20, **values)
        np.testing.assert_allclose(found, expected[name], atol=1e-12, err_msg=name)


def test_triangular_is_the_line_up_and_down_of_airbench():
    steps = np.arange(101)
    expected = np.interp(steps, [0, 23, 100], [0.2, 1, 0.07])
    np.testing.assert_allclose(factors("triangular", steps, 100), expected, atol=1e-12)


def test_a_sequence_says_what_is_wrong_with_it():
    with pytest.raises(SettingError, match="milestones must be 1 rising numbers"):
        factors("constant+cosine", [0], milestones=[3, 5])
    with pytest.raises(SettingError, match="reacts to the loss"):
        find_schedule("constant+reduce_on_plateau")
    with pytest.raises(SettingError, match=r"1\.start must be a number"):
        factors("linear+cosine", [0], **{"1.start": 2})
