"""The hooks through which optimizers, losses and schedules come in, the built-in ones by the same road as anybody's.

A distribution offers a rule by an entry point in the group ``minicnn`` whose name says what it offers,
``<kind>.<name>``, and whose value is a module that implements the hook of that kind:

    [project.entry-points.minicnn]
    "optimizer.adan" = "minicnn_adan"
"""

from collections.abc import Sequence

import pluggy

from minicnn.rules import LossRule, OptimizerRule, ScheduleRule

GROUP = "minicnn"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def minicnn_optimizers() -> Sequence[OptimizerRule]:  # type: ignore[empty-body]
    """Return the optimizer rules that this module offers."""


@hookspec
def minicnn_losses() -> Sequence[LossRule]:  # type: ignore[empty-body]
    """Return the loss rules that this module offers."""


@hookspec
def minicnn_schedules() -> Sequence[ScheduleRule]:  # type: ignore[empty-body]
    """Return the schedules that this module offers."""
