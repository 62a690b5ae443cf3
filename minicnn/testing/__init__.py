"""The conformance kit for rules: the checks that the author of a plugin runs before publishing a
rule.

>>> from minicnn.plugins import find
>>> [check.name for check in check_schedule(find("schedule", "cosine")) if not check.passed]
[]
"""

from minicnn.rules import AnyLayer, AnyOptimizer, LossRule, ScheduleRule
from minicnn.testing.checks import Check, run_checks
from minicnn.testing.layers import checks_of_layer
from minicnn.testing.losses import checks_of_loss
from minicnn.testing.optimizers import checks_of_optimizer
from minicnn.testing.schedules import checks_of_schedule

__all__ = ["Check", "check_layer", "check_loss", "check_optimizer", "check_schedule"]


def check_optimizer(rule: AnyOptimizer) -> list[Check]:
    """Put an optimizer of any kind through the conformance kit."""
    return list(run_checks(checks_of_optimizer(rule)))


def check_loss(rule: LossRule) -> list[Check]:
    """Put a loss through the conformance kit."""
    return list(run_checks(checks_of_loss(rule)))


def check_schedule(rule: ScheduleRule) -> list[Check]:
    """Put a schedule through the conformance kit."""
    return list(run_checks(checks_of_schedule(rule)))


def check_layer(rule: AnyLayer) -> list[Check]:
    """Put a layer through the conformance kit."""
    return list(run_checks(checks_of_layer(rule)))
