"""Looking into a network: the loss around its weights, the way down, the gradients in each layer.

Every function here returns arrays and plain dataclasses; `minicnn.report` draws them.
"""

import importlib
from typing import Any

_WHERE = {
    "Cost": "gradient_check",
    "Direction": "directions",
    "Objective": "objective",
    "Plane": "descent",
    "confident_mistakes": "mistakes",
    "advised": "advice",
    "descend": "descent",
    "gradcheck": "gradient_check",
    "first_layer_filters": "mistakes",
    "loss_curve": "prediction",
    "loss_slice": "slice",
    "loss_surface": "surface",
    "trace": "chain_rule",
    "lr_find": "range_test",
    "ranking": "compare",
    "read_run": "compare",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'minicnn.insight' has no attribute {name!r}")
    return getattr(importlib.import_module(f"minicnn.insight.{_WHERE[name]}"), name)

