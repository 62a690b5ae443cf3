"""minicnn: a minimal convolutional-network framework with explicit passes, compiled with Numba.

The public names are loaded when they are first used: ``import minicnn`` itself imports neither
NumPy nor Numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {  # by the module that has them
    "backends.cpu": ["Passes"],
    "data": ["Dataset", "load_dataset"],
    "errors": ["MinicnnError"],
    "hookspecs": ["hookimpl"],
    "inference": ["Model", "load", "save"],
    "kernels.cpu.passes": ["forward"],
    "network.description": ["network_from_toml"],
    "network.activations": [
        "ELU",
        "GELU",
        "HardSigmoid",
        "HardSwish",
        "LeakyReLU",
        "Mish",
        "PReLU",
        "ReLU",
        "ReLU6",
        "SiLU",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Tanh",
    ],
    "network.blocks": ["Branches", "Residual"],
    "network.layers": [
        "Add",
        "AvgPool2d",
        "Concat",
        "Conv2d",
        "Dense",
        "DropPath",
        "Dropout",
        "Dropout2d",
        "Flatten",
        "GlobalAvgPool2d",
        "GlobalMaxPool2d",
        "MaxPool2d",
        "Multiply",
    ],
    "network.normalization": ["BatchNorm2d", "GroupNorm", "LayerNorm"],
    "network.network": ["Network"],
    "network.presets": ["preset"],
    "network.tables": ["layer"],
    "rules": [
        "ActivationRule",
        "Hyperparameter",
        "LayerRule",
        "LossRule",
        "OptimizerRule",
        "ScheduleRule",
    ],
    "training.loss": ["Loss"],
    "training.optimizer": ["Optimizer"],
    "training.settings": ["Settings"],
    "training.trainer": ["History", "Trainer"],
}
_WHERE = {name: f"minicnn.{module}" for module, names in _NAMES.items() for name in names}
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
    from minicnn.network.activations import (
        ELU,
        GELU,
        HardSigmoid,
        HardSwish,
        LeakyReLU,
        Mish,
        PReLU,
        ReLU,
        ReLU6,
        Sigmoid,
        SiLU,
        Softmax,
        Softplus,
        Tanh,
    )
    from minicnn.network.blocks import Branches, Residual
    from minicnn.network.description import network_from_toml
    from minicnn.network.layers import (
        Add,
        AvgPool2d,
        Concat,
        Conv2d,
        Dense,
        Dropout,
        Dropout2d,
        DropPath,
        Flatten,
        GlobalAvgPool2d,
        GlobalMaxPool2d,
        MaxPool2d,
        Multiply,
    )
    from minicnn.network.network import Network
    from minicnn.network.normalization import BatchNorm2d, GroupNorm, LayerNorm
    from minicnn.network.presets import preset
    from minicnn.network.tables import layer
    from minicnn.rules import (
        ActivationRule,
        Hyperparameter,
        LayerRule,
        LossRule,
        OptimizerRule,
        ScheduleRule,
    )
    from minicnn.training.loss import Loss
    from minicnn.training.optimizer import Optimizer
    from minicnn.training.settings import Settings
    from minicnn.training.trainer import History, Trainer
