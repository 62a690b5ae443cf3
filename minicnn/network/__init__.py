"""Networks as data: layers, the shapes between them, first weights, presets, and descriptions in TOML."""

from minicnn.network.description import network_from_toml, network_to_toml
from minicnn.network.layers import (
    GELU,
    Activation,
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    MaxPool2d,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
)
from minicnn.network.network import Network, ParameterSpec
from minicnn.network.presets import PRESETS, preset
from minicnn.network.summary import SummaryRow, summary_rows, summary_total

__all__ = [
    "GELU",
    "PRESETS",
    "Activation",
    "AvgPool2d",
    "Conv2d",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Layer",
    "LeakyReLU",
    "MaxPool2d",
    "Network",
    "ParameterSpec",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "SummaryRow",
    "Tanh",
    "network_from_toml",
    "network_to_toml",
    "preset",
    "summary_rows",
    "summary_total",
]
