"""Looking into a network: the loss around its weights, descent, the gradients in each layer.

Every function here returns arrays and plain dataclasses; `minicnn.report` draws them.
"""

import importlib
from typing import Any

_NAMES = {  # by the module that has them
    "advice": ["advised"],
    "batch_loss": ["BatchLoss"],
    "chain_rule": ["trace"],
    "compare": ["ranking", "read_run"],
    "descent": ["Plane", "descend"],
    "directions": ["Direction"],
    "gradient_check": ["gradcheck"],
    "mistakes": ["confident_mistakes", "first_layer_filters"],
    "prediction": ["loss_curve"],
    "range_test": ["lr_find"],
    "slice": ["loss_slice"],
    "surface": ["loss_surface"],
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'minicnn.insight' has no attribute {name!r}")
    return getattr(importlib.import_module(f"minicnn.insight.{_WHERE[name]}"), name)
