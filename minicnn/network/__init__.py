"""What a network is: layers, blocks, shapes, parameters and their places. NumPy alone; every kind
of layer is known by name."""

from minicnn.network import activations, layers, normalization
from minicnn.network.activations import *
from minicnn.network.layers import *
from minicnn.network.normalization import *

__all__ = activations.__all__ + layers.__all__ + normalization.__all__
