"""Backends own the buffers of a device and launch its kernels."""
