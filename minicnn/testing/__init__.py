"""The conformance kit for rules: what a plugin's author runs before anybody else trusts the rule.

>>> from minicnn.plugins import find
>>> [check.name for check in check_schedule(find("schedule", "cosine")) if not check.passed]
[]
"""

from minicnn.testing.checks import Check
from minicnn.testing.layers import check_layer
from minicnn.testing.losses import check_loss
from minicnn.testing.optimizers import check_optimizer
from minicnn.testing.schedules import check_schedule

__all__ = ["Check", "check_layer", "check_loss", "check_optimizer", "check_schedule"]
