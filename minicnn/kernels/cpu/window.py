"""Which part of an image a pooling window reads."""

from numba import njit

from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def _first_inside(start, dilation):
    """The first of start, start + dilation, ... that is not below 0."""
    return start if start >= 0 else start + (dilation - 1 - start) // dilation * dilation


@njit(**JIT)
def window(op, p, q):
    """The part of output (p, q)'s window that lies inside the image: first and end row, first and
    end column.

    Rows are ``dilation_height`` apart, columns ``dilation_width``.
    """
    top = p * op.stride_height - op.padding_top
    left = q * op.stride_width - op.padding_left
    return (
        _first_inside(top, op.dilation_height),
        min(op.input_height, top + (op.kernel_height - 1) * op.dilation_height + 1),
        _first_inside(left, op.dilation_width),
        min(op.input_width, left + (op.kernel_width - 1) * op.dilation_width + 1),
    )
