"""The values and filters of an operation as arrays, for plain loops."""

from numba import njit

from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def inputs(op, work, n):
    """x [n, H, W, C]."""
    shape = (n, op.input_height, op.input_width, op.input_channels)
    return work[op.x : op.x + n * op.input_size].reshape(shape)


@njit(**JIT)
def outputs(op, work, n):
    """y [n, P, Q, K]."""
    shape = (n, op.output_height, op.output_width, op.output_channels)
    return work[op.y : op.y + n * op.output_size].reshape(shape)


@njit(**JIT)
def filters(op, params):
    """w [R, S, C of a group, K]."""
    shape = (
        op.kernel_height,
        op.kernel_width,
        op.input_channels // op.groups,
        op.output_channels,
    )
    return params[op.weight : op.weight + shape[0] * shape[1] * shape[2] * shape[3]].reshape(shape)
