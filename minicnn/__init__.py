"""minicnn: a minimal convolutional-network framework with explicit passes, compiled with Numba.

The public names are loaded when they are first used: ``import minicnn`` itself imports neither NumPy nor Numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AvgPool2d": "minicnn.network.layers",
    "Conv2d": "minicnn.network.layers",
    "Dataset": "minicnn.data",
    "Dense": "minicnn.network.layers",
    "Dropout": "minicnn.network.layers",
    "Flatten": "minicnn.network.layers",
    "GELU": "minicnn.network.layers",
    "GlobalAvgPool2d": "minicnn.network.layers",
    "History": "minicnn.training.trainer",
    "Hyperparameter": "minicnn.rules",
    "LeakyReLU": "minicnn.network.layers",
    "Loss": "minicnn.training.loss",
    "LossRule": "minicnn.rules",
    "MaxPool2d": "minicnn.network.layers",
    "MinicnnError": "minicnn.errors",
    "Model": "minicnn.inference",
    "Network": "minicnn.network.network",
    "Optimizer": "minicnn.training.optimizer",
    "OptimizerRule": "minicnn.rules",
    "Passes": "minicnn.backends.cpu",
    "ReLU": "minicnn.network.layers",
    "ScheduleRule": "minicnn.rules",
    "Settings": "minicnn.training.settings",
    "SiLU": "minicnn.network.layers",
    "Sigmoid": "minicnn.network.layers",
    "Tanh": "minicnn.network.layers",
    "Trainer": "minicnn.training.trainer",
    "forward": "minicnn.kernels.cpu.passes",
    "hookimpl": "minicnn.hookspecs",
    "load": "minicnn.inference",
    "load_dataset": "minicnn.data",
    "network_from_toml": "minicnn.network.description",
    "preset": "minicnn.network.presets",
    "save": "minicnn.inference",
}
__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'minicnn' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from minicnn.backends.cpu import Passes
    from minicnn.data import Dataset, load_dataset
    from minicnn.errors import MinicnnError
    from minicnn.hookspecs import hookimpl
    from minicnn.inference import Model, load, save
    from minicnn.kernels.cpu.passes import forward
    from minicnn.network.description import network_from_toml
    from minicnn.network.layers import (
        GELU,
        AvgPool2d,
        Conv2d,
        Dense,
        Dropout,
        Flatten,
        GlobalAvgPool2d,
        LeakyReLU,
        MaxPool2d,
        ReLU,
        Sigmoid,
        SiLU,
        Tanh,
    )
    from minicnn.network.network import Network
    from minicnn.network.presets import preset
    from minicnn.rules import Hyperparameter, LossRule, OptimizerRule, ScheduleRule
    from minicnn.training.loss import Loss
    from minicnn.training.optimizer import Optimizer
    from minicnn.training.settings import Settings
    from minicnn.training.trainer import History, Trainer
