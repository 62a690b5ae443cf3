"""The gradient of a bias: db[k] = Σ_m dy[m,k], summed over all samples and pixels."""

from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import add, lanes_of, load, store

_ROWS = 1024  # in a sum, before it is added to that of the rows before


@njit(**JIT)
def backward(op, work, grads, rows):
    """Add the column sums of dy [rows, K] to db. Four sums run side by side, since one would wait
    for each addition."""
    K, lanes = op.output_channels, lanes_of(work)
    for k in range(0, K, lanes):
        count = K - k
        for begin in range(0, rows, _ROWS):
            end = min(rows, begin + _ROWS)
            whole = end - (end - begin) % 4
            first = second = third = fourth = load(work, op.dy, 0)  # zeros
            for m in range(begin, whole, 4):
                at = op.dy + m * K + k
                first = add(first, load(work, at, count))
                second = add(second, load(work, at + K, count))
                third = add(third, load(work, at + 2 * K, count))
                fourth = add(fourth, load(work, at + 3 * K, count))
            for m in range(whole, end):
                first = add(first, load(work, op.dy + m * K + k, count))
            total = add(add(first, second), add(third, fourth))
            store(grads, op.bias + k, add(load(grads, op.bias + k, count), total), count)
