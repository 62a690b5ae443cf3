"""What a network is: layers, blocks, shapes, parameters and their places. NumPy alone; every kind
of layer is known by name."""

from minicnn.network import activations, layers, normalization

__all__ = ["activations", "layers", "normalization"]
