"""minicnn: a minimal convolutional-network framework with explicit passes, compiled with Numba.

The public names are loaded when they are first used: ``import minicnn`` itself imports neither
NumPy nor Numba. The layers are those that `minicnn.network` names in ``__all__``.
"""

import importlib

__version__ = "0.1.0"
TYPE_CHECKING = False  # without `typing`: what is imported here is imported before Ctrl-C is heard

if TYPE_CHECKING:
    from minicnn.backends.cpu_passes import Passes as Passes
    from minicnn.data import Dataset as Dataset
    from minicnn.data import load_dataset as load_dataset
    from minicnn.data.augment import Augment as Augment
    from minicnn.errors import MinicnnError as MinicnnError
    from minicnn.evaluation.loss import Loss as Loss
    from minicnn.formats.onnx_in import from_onnx as from_onnx
    from minicnn.formats.torch import from_torch as from_torch
    from minicnn.hookspecs import hookimpl as hookimpl
    from minicnn.inference import Model as Model
    from minicnn.kernels.cpu.passes import forward as forward
    from minicnn.model_file import load as load
    from minicnn.model_file import save as save
    from minicnn.network.activations import *
    from minicnn.network.blocks import Branches as Branches
    from minicnn.network.blocks import Residual as Residual
    from minicnn.network.description import network_from_toml as network_from_toml
    from minicnn.network.layers import *
    from minicnn.network.network import Network as Network
    from minicnn.network.normalization import *
    from minicnn.network.presets import preset as preset
    from minicnn.network.tables import layer as layer
    from minicnn.network.windows import *
    from minicnn.rules import ActivationRule as ActivationRule
    from minicnn.rules import Hyperparameter as Hyperparameter
    from minicnn.rules import LayerRule as LayerRule
    from minicnn.rules import LossRule as LossRule
    from minicnn.rules import OptimizerRule as OptimizerRule
    from minicnn.rules import ScheduleRule as ScheduleRule
    from minicnn.training.optimizer import Optimizer as Optimizer
    from minicnn.training.recipes import recipe as recipe
    from minicnn.training.settings import Settings as Settings
    from minicnn.training.trainer import History as History
    from minicnn.training.trainer import Trainer as Trainer


_NAMES = {  # by the module that has them
    "backends.cpu_passes": ["Passes"],
    "data": ["Dataset", "load_dataset"],
    "data.augment": ["Augment"],
    "errors": ["MinicnnError"],
    "formats.onnx_in": ["from_onnx"],
    "formats.torch": ["from_torch"],
    "hookspecs": ["hookimpl"],
    "inference": ["Model"],
    "kernels.cpu.passes": ["forward"],
    "model_file": ["load", "save"],
    "network.blocks": ["Branches", "Residual"],
    "network.description": ["network_from_toml"],
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
    "evaluation.loss": ["Loss"],
    "training.optimizer": ["Optimizer"],
    "training.recipes": ["recipe"],
    "training.settings": ["Settings"],
    "training.trainer": ["History", "Trainer"],
}
_WHERE = {name: f"minicnn.{module}" for module, names in _NAMES.items() for name in names}


def _layers() -> list[str]:
    return importlib.import_module("minicnn.network").__all__


def __dir__() -> list[str]:
    return sorted([*_WHERE, *_layers(), "__version__"])


if not TYPE_CHECKING:  # a type checker refuses a name that is not imported above

    def __getattr__(name: str) -> object:
        if name == "__all__":
            return __dir__()
        # A layer is a class; names in lower case that are not known are asked for by imports of
        # modules.
        where = _WHERE.get(name)
        if where is None and name[0].isupper() and name in _layers():
            where = "minicnn.network"
        if where is None:
            raise AttributeError(f"module 'minicnn' has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(where), name)
        return value
