"""The hooks through which optimizers, losses, schedules and layers come in. Built-in rules use the
same entry points as third-party plugins.

A distribution offers a rule by an entry point in the group ``minicnn`` whose name says what it
offers, ``<kind>.<name>``, and whose value is a module that implements the hook of that kind:

    [project.entry-points.minicnn]
    "optimizer.adan" = "minicnn_adan"

A module may say for which version of these hooks it is written, ``minicnn_api = 2``; one that asks
for a newer version than `API_VERSION` is refused with that reason. What is promised while the
version stays the same: no hook and no field of a rule goes away or changes its meaning; a hook may
gain arguments, which a plugin need not take, and a rule fields with defaults.
"""

from collections.abc import Sequence

import pluggy

from minicnn.rules import AnyLayer, AnyOptimizer, LossRule, ScheduleRule

GROUP = "minicnn"
API_VERSION = 2

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def minicnn_optimizers() -> Sequence[AnyOptimizer]:  # type: ignore[empty-body]
    """Return the optimizer rules that this module offers.

    Each is an `OptimizerRule` (one scalar function) or a `StepRule` (a function that makes a whole
    step).
    """


@hookspec
def minicnn_losses() -> Sequence[LossRule]:  # type: ignore[empty-body]
    """Return the loss rules that this module offers, each a `LossRule`: a function of one sample's
    row of logits."""


@hookspec
def minicnn_schedules() -> Sequence[ScheduleRule]:  # type: ignore[empty-body]
    """Return the schedules that this module offers, each a `ScheduleRule`: a factor as a function
    of the epochs done."""


@hookspec
def minicnn_layers() -> Sequence[AnyLayer]:  # type: ignore[empty-body]
    """Return the layers that this module offers.

    Each is an `ActivationRule` (two scalar functions, for both devices) or a `LayerRule` (functions
    of one sample's arrays).
    """
